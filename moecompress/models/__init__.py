"""Floor 2: discovery of expert layouts, streaming reader and writer, layer-at-a-time execution."""
