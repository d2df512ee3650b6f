"""Measurements; each is `python -m benchmarks.NAME`."""
