"""Where two responses differ, word by word."""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum

WORD = re.compile(r"\s*\S+\s*")
MAX_WORDS = 1500  # of both together; difflib's time grows with their product
MAX_CHARS = 20_000


@dataclass(frozen=True)
class Piece:
    """A run of words; `differs`: the other response doesn't have it here."""

    text: str
    differs: bool


class Unmarked(StrEnum):
    """Why nothing is marked, for people."""

    TOO_LONG = "These responses are too long to mark where they differ."
    TOO_DIFFERENT = "These responses share too little to mark where they differ."


def mark_differences(left: str, right: str) -> tuple[list[Piece], list[Piece]] | Unmarked:
    """Both texts in pieces whose texts join to the whole; or why they can't be compared."""
    if len(left) + len(right) > MAX_CHARS:
        return Unmarked.TOO_LONG
    left_words, right_words = split(left), split(right)
    if len(left_words) + len(right_words) > MAX_WORDS:
        return Unmarked.TOO_LONG
    matcher = SequenceMatcher(None, [word.strip() for word in left_words], [word.strip() for word in right_words], autojunk=False)
    if matcher.ratio() < 0.15:
        return Unmarked.TOO_DIFFERENT
    left_pieces: list[Piece] = []
    right_pieces: list[Piece] = []
    for kind, i, j, k, m in matcher.get_opcodes():
        add(left_pieces, "".join(left_words[i:j]), kind != "equal")
        add(right_pieces, "".join(right_words[k:m]), kind != "equal")
    return left_pieces, right_pieces


def pieces_of(left: str, right: str) -> tuple[list[Piece], list[Piece]]:
    """Return both texts in pieces; in none where they can't be compared."""
    marked = mark_differences(left, right)
    return ([], []) if isinstance(marked, Unmarked) else marked


def split(text: str) -> list[str]:
    """Words with the white space around them; nothing is lost."""
    return WORD.findall(text) or ([text] if text else [])


def add(pieces: list[Piece], text: str, differs: bool) -> None:
    if text:
        pieces.append(Piece(text, differs))
