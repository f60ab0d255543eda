"""Floor 0: types, errors, units, hashing, registry, memory. Imports nothing above it and never torch."""
