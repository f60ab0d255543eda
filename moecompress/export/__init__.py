"""Floor 6: other formats."""
