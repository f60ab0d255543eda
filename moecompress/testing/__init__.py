"""Conformance suites and tiny real models, for this project's tests and for third parties."""
