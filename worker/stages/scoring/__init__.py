"""Stage 2: log π_ref and rewards of the batch plan, from the cache or from models."""
