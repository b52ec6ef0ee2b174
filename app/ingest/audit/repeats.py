"""What repeats or contradicts: ratings against labels, a pair in both orders, the same example twice, nearly the same one.

One look at each example, in the file's order, with bounded memory; nothing is compared pairwise. Nearly the same are examples
with equal letters (case, punctuation and white space aside), and longer ones of whose pieces four fifths are the same: texts are
cut at certain letters wherever these stand, so that a changed word changes a piece or two; by MinHash only examples that
share their two smallest or two largest checksums of pieces are compared: these are the same in every process.
"""

import string
from array import array
from collections.abc import Mapping
from typing import Any
from zlib import crc32

from app.domain.dataset import CHOSEN, NEITHER
from app.ingest.examples import UnnumberedExample
from app.ingest.messages import SYSTEM

MAX_DISTINCT = 1_000_000  # hashes kept: about 60 MB for each set of them
MAX_SKETCHES = 150_000  # of about 400 bytes
SKETCH, FEWEST_PIECES, NEAR = 24, 10, 0.8
BETWEEN = (string.punctuation + string.whitespace).encode()
CUTS = b"y\x81"  # about every 50th letter of English, every 60th byte of scripts beyond ASCII
LETTERS = bytes.maketrans(
    string.ascii_uppercase.encode() + CUTS + CUTS[:1].upper(), string.ascii_lowercase.encode() + b"\0" * (len(CUTS) + 1)
)

RATINGS = "best rating is not the chosen one"
CONTRADICTED = "an earlier example prefers its responses the other way round"
DUPLICATE = "repeats an earlier example"
NEAR_DUPLICATE = "nearly repeats an earlier example"
SWITCHES = {  # options of every mapping, and what they leave out
    "leave_out_contradicting_ratings": RATINGS,
    "leave_out_contradictory_pairs": CONTRADICTED,
    "leave_out_duplicates": DUPLICATE,
    "leave_out_near_duplicates": NEAR_DUPLICATE,
}


class Repeats:
    """Tells of each example what it repeats or contradicts. `contradicted`: keys of examples that stand in both orders."""

    def __init__(self, options: Mapping[str, Any], contradicted: frozenset[int] = frozenset()) -> None:
        self.left_out = {reason for option, reason in SWITCHES.items() if options.get(option) is True}
        self.complete = True
        self._contradicted = contradicted
        self._seen: set[int] = set()
        self._letters: set[int] = set()
        self._sketches: dict[int, array[int]] = {}

    def look(self, draft: UnnumberedExample) -> list[str]:
        """Return what is to be said of an example, and remember it."""
        found = [RATINGS] if contradicts_ratings(draft) else []
        key = key_of(draft)
        if key & ~1 in self._contradicted:
            found.append(CONTRADICTED)
        if key in self._seen:
            return [*found, DUPLICATE]
        if key ^ 1 in self._seen:
            self._remember(self._seen, key)
            return found if CONTRADICTED in found else [*found, CONTRADICTED]
        self._remember(self._seen, key)
        return [*found, NEAR_DUPLICATE] if self._is_near(draft) else found

    def _remember(self, seen: set[int], key: int) -> None:
        if len(seen) < MAX_DISTINCT:
            seen.add(key)
        else:
            self.complete = False

    def _is_near(self, draft: UnnumberedExample) -> bool:
        asked = [turn.content for turn in draft.prompt if turn.role != SYSTEM]
        answers = [f"{answer.content}\n{answer.fields or ''}" for answer in draft.answers]
        letters = letters_of(asked + answers)
        key = hash(letters)
        if key in self._letters:
            return True
        self._remember(self._letters, key)
        if len(asked) > 1:
            letters = letters_of(asked[-1:] + answers)
        return letters.count(b"\0") >= FEWEST_PIECES and self._resembles(set(map(crc32, letters.split(b"\0"))))

    def _resembles(self, pieces: set[int]) -> bool:
        """Return whether an earlier example has nearly the same pieces; remember these."""
        ordered = sorted(pieces)
        if len(ordered) < 2:
            return False
        ends = hash((ordered[0], ordered[1])), hash((ordered[-1], ordered[-2]))
        sketch = array("Q", ordered[:SKETCH])
        known = [self._sketches.get(end) for end in ends]
        if any(other is not None and likeness(sketch, other) >= NEAR for other in known):
            return True
        if len(self._sketches) < 2 * MAX_SKETCHES:
            for end in ends:
                self._sketches.setdefault(end, sketch)
        else:
            self.complete = False
        return False


def key_of(draft: UnnumberedExample) -> int:
    """Return a hash of prompt and responses whose last bit tells which of two responses, or verdicts, is the good one."""
    texts = [(answer.content, answer.fields) for answer in draft.answers]
    prompt, preferences = tuple(draft.prompt), [answer.preference for answer in draft.answers]
    if len(texts) == 1:
        return hash((prompt, texts[0])) & ~1 | (preferences[0] == CHOSEN)
    if len(texts) == 2 and preferences[0] == CHOSEN:
        first, second = map(hash, texts)
        return hash((prompt, first ^ second)) & ~1 | (first < second)
    if preferences[0] == NEITHER:
        return hash((prompt, frozenset(texts))) & ~1
    return hash((prompt, tuple(texts))) & ~1


def contradicts_ratings(draft: UnnumberedExample) -> bool:
    """Return whether another response is rated higher than the chosen one."""
    first = draft.answers[0]
    if first.preference != CHOSEN or first.rating is None:
        return False
    return any(answer.rating is not None and answer.rating > first.rating for answer in draft.answers[1:])


def letters_of(texts: list[str]) -> bytes:
    """Return the letters of texts, without case, punctuation and white space as far as ASCII goes; a NUL where to cut."""
    return "\n".join(texts).encode("utf-8", "surrogatepass").translate(LETTERS, BETWEEN)


def likeness(sketch: "array[int]", other: "array[int]") -> float:
    """Return the estimated share of pieces that two examples have in common of all that they have, by their smallest hashes."""
    one, two = set(sketch), set(other)
    smallest = sorted(one | two)[: max(len(one), len(two))]
    return len(one.intersection(two, smallest)) / len(smallest)
