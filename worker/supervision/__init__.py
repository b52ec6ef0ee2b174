"""What the supervisor does with the attempts that it started. No torch in here."""
