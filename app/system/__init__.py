"""What the machine gives: files that reach the disk, children that answer, limits, identifiers. Only psutil beside Python."""
