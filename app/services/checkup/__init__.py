"""What `doctor` and /readyz look at: this machine, the broker, the database and what its rows say."""
