"""Keeping a studio: backups, restores, and what is removed after a while."""
