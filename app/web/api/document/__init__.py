"""The API described: its OpenAPI document as a page for people."""
