"""Which examples belong together: those of one conversation, and those whose prompt holds what another one's answer teaches.

Linear in the length of the texts: everything is compared by hashes, and texts within texts by rolling ones.
Legend: C characters of many texts one after another, W windows of them, A answers.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.models.template import ChatTurn

FEWEST_AS_TURN = 10  # characters of an answer that counts where it is a whole turn of a prompt
LEVELS = (20, 40, 80)  # … where it stands anywhere in one; an answer of 80 or more is known by its first 80
CHARACTERS_AT_ONCE = 250_000
FEWEST_BITS, SPARE_BITS = 12, 4  # of a table of hashes: at most one place in sixteen is taken
SEPARATOR = "\ud800"  # half a character, so that no text holds it

Hashes = NDArray[np.uint64]
BASE, MIX = 0x9E37_79B9_7F4A_7C15, 0xD6E8_FEB8_6659_FD93


def find_opening(turns: Sequence[ChatTurn]) -> int:
    """Return 63 bits that stand for how a conversation begins: its first user turn, or all of it where there is none."""
    first = next((turn.content for turn in turns if turn.role == "user"), None)
    return _digest(_normalise("\n".join(turn.content for turn in turns) if first is None else first))


def find_conversations(
    prompts: Sequence[Sequence[ChatTurn]],
    openings: Sequence[int],
    answers: Sequence[Sequence[str]],
    check: Callable[[], None] = lambda: None,
) -> list[int]:
    """Return a number for each example, the same for those that belong together: the smallest of their `openings`.

    Together belong prompts that open alike but for case and white space, and a prompt that holds an answer with the examples
    of that answer. Answers so short that they stand anywhere (FEWEST_AS_TURN, LEVELS) tie nothing. `check` is called now and
    then and may raise.
    """
    groups = _Groups(len(prompts))
    by_opening: dict[int, int] = {}
    for i, opening in enumerate(openings):
        groups.join(i, by_opening.setdefault(opening, i))
    known = _Answers(answers, check)
    for i, key in known.find_in(prompts, check):
        known.tie(groups, i, key)
    known.tie_owners(groups)
    smallest: dict[int, int] = {}
    for i, opening in enumerate(openings):
        root = groups.find(i)
        smallest[root] = min(smallest.get(root, opening), opening)
    return [smallest[groups.find(i)] for i in range(len(prompts))]


class _Groups:
    """Union-find with path halving."""

    def __init__(self, num: int) -> None:
        self._parent = list(range(num))

    def find(self, i: int) -> int:
        parent = self._parent
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    def join(self, one: int, other: int) -> None:
        one, other = self.find(one), self.find(other)
        self._parent[max(one, other)] = min(one, other)


class _Key(NamedTuple):
    """An answer by its hashes: of its first and its last window, which cover it; for a whole turn `first` alone."""

    level: int
    first: int
    length: int
    last: int


class _Answers:
    """The answers of all examples, to be found in prompts."""

    def __init__(self, answers: Sequence[Sequence[str]], check: Callable[[], None]) -> None:
        self._owners: dict[_Key, list[int]] = defaultdict(list)
        self._holders: dict[_Key, int] = {}
        self._by_first: dict[int, dict[int, list[_Key]]] = {level: defaultdict(list) for level in LEVELS}
        heads = ((i, _normalise(text)[: LEVELS[-1]]) for i, texts in enumerate(answers) for text in texts)
        for part in _lay_out(heads, check):
            for owner, key in self._read(part):
                self._owners[key].append(owner)
        for key in self._owners:
            if key.level:
                self._by_first[key.level][key.first].append(key)
        self._tables = {level: _Table(firsts) for level, firsts in self._by_first.items() if firsts}

    @staticmethod
    def _read(part: "_Texts") -> Iterator[tuple[int, _Key]]:
        windows = {level: part.hash_windows(level) for level in LEVELS}
        for owner, text, start in part.texts:
            size = len(text)
            if size >= LEVELS[0]:
                level = max(level for level in LEVELS if level <= size)
                hash_W = windows[level]
                yield owner, _Key(level, int(hash_W[start]), size, int(hash_W[start + size - level]))
            elif size >= FEWEST_AS_TURN:
                yield owner, _Key(0, _digest(text), size, 0)

    def find_in(self, prompts: Sequence[Sequence[ChatTurn]], check: Callable[[], None]) -> Iterator[tuple[int, _Key]]:
        """Yield each prompt's number with each answer that it holds."""
        turns = ((i, _normalise(turn.content)) for i, prompt in enumerate(prompts) for turn in prompt)
        for part in _lay_out(turns, check):
            for owner, text, _ in part.texts:
                if FEWEST_AS_TURN <= len(text) < LEVELS[0] and (key := _Key(0, _digest(text), len(text), 0)) in self._owners:
                    yield owner, key
            for level, table in self._tables.items():
                hash_W = part.hash_windows(level)
                for place in table.find(hash_W).tolist():
                    for key in self._by_first[level][int(hash_W[place])]:
                        end = place + key.length - level
                        if end < len(hash_W) and int(hash_W[end]) == key.last:
                            yield part.owner_at(place), key

    def tie(self, groups: _Groups, holder: int, key: _Key) -> None:
        groups.join(holder, self._holders.setdefault(key, holder))

    def tie_owners(self, groups: _Groups) -> None:
        """Join the examples of each answer that was found with the prompts that hold it."""
        for key, holder in self._holders.items():
            for owner in self._owners[key]:
                groups.join(owner, holder)


class _Table:
    """A set of hashes that is asked about many at a time: most are refused by one look at a table of their first bits."""

    def __init__(self, known: Iterable[int]) -> None:
        self._known_A = np.sort(np.fromiter(known, dtype=np.uint64))
        bits = max(FEWEST_BITS, len(self._known_A).bit_length() + SPARE_BITS)
        self._shift = np.uint64(64 - bits)
        self._marked = np.zeros(2**bits, dtype=bool)
        self._marked[self._known_A >> self._shift] = True

    def find(self, hash_W: Hashes) -> NDArray[np.intp]:
        """Return the places of the known ones."""
        places = np.flatnonzero(self._marked[hash_W >> self._shift])
        asked = hash_W[places]
        nearest = np.minimum(np.searchsorted(self._known_A, asked), len(self._known_A) - 1)
        return places[self._known_A[nearest] == asked]


class _Texts:
    """Some texts, each with the example it is of and where it begins among the characters of all."""

    def __init__(self, texts: list[tuple[int, str, int]]) -> None:
        self.texts = texts
        self._starts = np.array([start for *_, start in texts])
        joined = SEPARATOR.join(text for _, text, _ in texts).encode("utf-32-le", "surrogatepass")
        mixed_C = (np.frombuffer(joined, dtype="<u4").astype(np.uint64) + np.uint64(1)) * np.uint64(MIX)
        mixed_C ^= mixed_C >> np.uint64(29)
        self._num = len(mixed_C)
        self._sums_C = np.zeros(self._num + 1, dtype=np.uint64)
        np.cumsum(mixed_C * _powers(self._num)[0], out=self._sums_C[1:])

    def owner_at(self, place: int) -> int:
        return self.texts[int(np.searchsorted(self._starts, place, side="right")) - 1][0]

    def hash_windows(self, width: int) -> Hashes:
        """Return Σ_k m(c_{i+k}) · BASE^k mod 2^64 of the windows that begin at each i, from differences of one running sum."""
        num = max(0, self._num - width + 1)
        hash_W: Hashes = self._sums_C[width:] - self._sums_C[:num]
        hash_W *= _powers(self._num)[1][:num]
        hash_W *= np.uint64(MIX)
        return hash_W


def _lay_out(texts: Iterable[tuple[int, str]], check: Callable[[], None]) -> Iterator[_Texts]:
    """Yield the texts by parts of bounded size."""
    part: list[tuple[int, str, int]] = []
    size = 0
    for owner, text in texts:
        part.append((owner, text, size))
        size += len(text) + 1
        if size >= CHARACTERS_AT_ONCE:
            check()
            yield _Texts(part)
            part, size = [], 0
    if part:
        yield _Texts(part)


def _powers(num: int) -> tuple[Hashes, Hashes]:
    """BASE^i and BASE^−i mod 2^64 for i < num."""
    powers, inverses = _find_powers(1 << num.bit_length())
    return powers[:num], inverses[:num]


@cache
def _find_powers(num: int) -> tuple[Hashes, Hashes]:
    both = np.full(num, BASE, dtype=np.uint64), np.full(num, pow(BASE, -1, 2**64), dtype=np.uint64)
    for factors in both:
        factors[0] = 1
    return np.cumprod(both[0]), np.cumprod(both[1])


def _normalise(text: str) -> str:
    """Return the text without differences of case and of white space."""
    return " ".join(text.split()).casefold()


def _digest(text: str) -> int:
    """Return 63 bits that stand for a text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1
