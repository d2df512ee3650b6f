"""Reading a federation's record as an auditor: where it comes from, whether it holds, and what it says."""
