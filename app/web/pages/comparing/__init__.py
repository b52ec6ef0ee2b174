"""Pages: comparisons of answers, votes on them, and the links by which others vote."""
