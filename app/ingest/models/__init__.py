"""Model folders of strangers, looked at without torch and in child processes with limits."""
