"""Requests to the servers of others: only to addresses that were looked at, within limits of time and size, ended at any time."""
