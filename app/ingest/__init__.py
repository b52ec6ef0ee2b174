"""From an uploaded file to the internal form: which format and shape it has, its columns' parts, its rows, its audit.

Streaming and torch-free: nothing here holds more than a few rows at once. Runs in a child process under limits (pool.py).
Reading order: process.py, read.py, formats.py, columns.py, convert.py, write.py, profile.py.
"""
