"""The site: its drawings, its training, its agent, and the courier that Flower runs."""
