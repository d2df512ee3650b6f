"""Rehearsals that came with bottega; see README.md."""
