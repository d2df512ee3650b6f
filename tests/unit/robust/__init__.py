"""The robust rules."""
