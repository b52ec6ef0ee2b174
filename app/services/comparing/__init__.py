"""What can be done with comparisons: make, compute, vote, export."""
