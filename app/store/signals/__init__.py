"""What tells others that something has changed: bells and hints. Losing one costs time, never data."""
