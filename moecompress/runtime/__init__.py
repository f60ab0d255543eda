"""Floor 3: the torch-free engine: tokenizer, prefill, decode, sampling, memory ledger, over a C++ core."""
