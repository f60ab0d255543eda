"""Allocators: which of several stored forms each expert gets, one file each."""
