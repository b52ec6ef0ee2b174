"""Texts out of cells: plain ones, messages with their fields, messages written as text, and texts with a template's marks."""
