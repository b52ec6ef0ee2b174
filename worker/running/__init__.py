"""What every runner does, whatever its stage: its ranks, its spool, when it stops, why it failed."""
