"""Floor 1: how a compressed weight is stored, and its exact numpy reference. One file per codec; never torch."""
