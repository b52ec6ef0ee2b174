"""Prompt sets, answers and judgements as kept: rows in the database, texts and scores as JSON lines in the data folder."""
