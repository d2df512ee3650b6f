"""The dashboard: a federation's record as pages for a browser. It reads, and changes nothing."""
