"""Comparisons, voters and votes as they are kept."""
