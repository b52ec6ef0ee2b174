"""REST: prompt sets, answers, and what is made of them."""
