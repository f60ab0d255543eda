"""Floor 6: perplexity, KL divergence and agreement against the original."""
