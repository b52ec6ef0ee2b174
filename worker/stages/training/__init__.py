"""Stage 3: weights from scores, and one optimizer step after the other."""
