"""Commands for comparisons, what they found, and the votes on them."""
