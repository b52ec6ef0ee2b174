"""Pages of prompt sets, answers, and who gives and judges them."""
