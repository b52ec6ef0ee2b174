"""Two or more models' answers to the same prompts, side by side: what judges and people say of them."""
