"""Draws of the reference: its own answers to the training prompts, for Z(x) and, where asked for, for training."""
