"""The commands that stand above server and site: demo, draw, evaluate."""
