"""Sensitivities: what is measured of a layer's experts before bits are given to them, one file each."""
