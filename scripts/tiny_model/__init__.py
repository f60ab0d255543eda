"""Training and checking of the embedded default model (see `build_tiny_model`, `check_tiny_model`)."""
