"""Ways to choose codes, scales and minima of one matrix, one file each."""
