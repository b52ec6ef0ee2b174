"""The pages of accounts: one's own, those of all for admins, and the log of acts."""
