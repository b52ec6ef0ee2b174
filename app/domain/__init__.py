"""What is meant: the words of the studio as types. Standard library and pydantic only; both towers speak it."""
