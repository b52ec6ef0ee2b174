"""Previews: what workers compute for pages before anything is trained, and the answers, which are kept."""
