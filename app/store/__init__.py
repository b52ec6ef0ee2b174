"""What is kept: tables and queries, the journal, files, the bell and the hint queue. Nothing here commits."""
