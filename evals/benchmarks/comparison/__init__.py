"""Our engine beside llama.cpp: each in a process of its own, the same token ids, the same limits."""
