"""One file per supported model_type; most need nothing beyond the default `Family`."""
