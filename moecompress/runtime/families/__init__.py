"""One file per model family: its config.json and tensor names in terms of the core's flags and roles."""
