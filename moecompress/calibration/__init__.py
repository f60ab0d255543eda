"""Texts, activation capture and statistics that compression passes read."""
