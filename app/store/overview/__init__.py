"""What the first page and lists ask of many rows at once."""
