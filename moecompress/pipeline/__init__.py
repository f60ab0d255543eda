"""Floor 6: plan, run layer by layer, journal and resume, coverage ledger."""
