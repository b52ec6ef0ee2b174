"""From an uploaded file to the internal form: which format and shape it has, its columns' parts, its rows, its audit.

Streaming and torch-free: nothing here holds more than a few rows at once. Runs in a child process under limits (pool.py).
Reading order: ingest.py, read.py, columns.py, convert.py, messages.py, write.py, audit/profile.py.
"""
