"""Evaluation on held-out prompts: what is answered (answers, likelihoods), kept (records) and told (figures)."""
