"""Prompt sets, one model's answers to them, and what judges say: what is meant by each."""
