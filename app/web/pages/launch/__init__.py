"""The launch form, and what is known before a launch."""
