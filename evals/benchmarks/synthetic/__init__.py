"""OLMoE-shaped random models with realistic routing, as our artifact and as GGUF files of the same weights."""
