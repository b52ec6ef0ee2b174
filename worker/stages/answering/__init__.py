"""A model answers the prompts of a set, and judges say what they think of the answers."""
