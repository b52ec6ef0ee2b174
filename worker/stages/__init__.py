"""The stages of an attempt: prepare > score > train (with evaluations) > artifacts."""
