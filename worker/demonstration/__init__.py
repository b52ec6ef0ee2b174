"""A small world to try the studio in: a help desk, its customers, and answers from kind and specific to rude and vague.

Everything is generated: the text (`sentences`, `data`), the tokenizer, a policy that has learned all styles alike, and a reward
model that has learned which answers people like. `python -m worker.demonstration OUT_DIR` writes it all.
"""
