"""What the machine gives: files that reach the disk, children that answer, addresses, identifiers. Standard library alone."""
