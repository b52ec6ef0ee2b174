"""REST: comparisons of answers, and votes on them."""
