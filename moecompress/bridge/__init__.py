"""Floor 4: an artifact inside a transformers model."""
