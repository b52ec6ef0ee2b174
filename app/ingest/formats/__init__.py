"""Rows out of the bytes of a file: CSV, JSON and Parquet, packed or not."""
