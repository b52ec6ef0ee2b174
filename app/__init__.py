"""VAR Studio: the shared house and the web tower. See docs/architecture.md for the floors."""
