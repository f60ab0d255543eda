"""Floor 4: compression passes, one file per method, pure on tensors."""
