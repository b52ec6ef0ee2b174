"""Commands for prompt sets, answers, and who gives and judges them."""
