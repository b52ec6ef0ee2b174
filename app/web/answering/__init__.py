"""What pages and REST share of prompt sets and answers."""
