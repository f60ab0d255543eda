"""Builds the reference model: a small, realistic Mixture-of-Experts made out of SmolLM2-135M-Instruct.

Stages, each a task with its own folder of results (`stage.py`):
download, base, texts (one a domain), expert (one a domain), routers, assembled, tuned, evaluation (one a row).
"""
