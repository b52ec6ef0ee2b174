"""Figures of models on held-out prompts, with intervals that mean what they say: lists of numbers in, estimates out; no torch."""
