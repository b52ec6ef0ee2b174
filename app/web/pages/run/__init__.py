"""The page of one run: its parts, its live stream, and what can be done to the run."""
