"""Which pairs a voter sees, in which order, and on which side each answer stands: drawn by digests, so the same after a reload.

Everybody begins with the same pairs, so that agreement can be told; the rest begins for each voter elsewhere, so that several
voters judge more prompts than one. A voter names a pair by its place in this order alone: nothing else leaves the server.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

NUM_SHARED = 20  # pairs that all voters begin with


class VoteChoice(StrEnum):
    """What a voter says of a pair."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both_bad"


class Contest(NamedTuple):
    """Two models' answers to one prompt, `first` before `second` in the comparison."""

    prompt: int
    first: int
    second: int


class Ballot(NamedTuple):
    """A contest as one voter sees it: which model stands at the left and which at the right, and which draws are shown."""

    contest: Contest
    left: int
    right: int
    draw: int


class CastVote(NamedTuple):
    """A vote as it is counted: `preferred` is 1 for the contest's first model, −1 for its second, 0 for neither."""

    voter: str
    contest: Contest
    choice: VoteChoice
    preferred: int


def order_ballots(comparison_id: str, voter_id: str, contests: Iterable[Contest], num_draws: int = 1) -> list[Ballot]:
    """Return a voter's ballots in the order in which they are asked."""
    order = sorted(contests, key=lambda contest: _digest(comparison_id, contest))
    shared, rest = order[:NUM_SHARED], order[NUM_SHARED:]
    start = _number(voter_id, "start") % len(rest) if rest else 0
    return [_face(comparison_id, voter_id, contest, num_draws) for contest in [*shared, *rest[start:], *rest[:start]]]


def draw_of(comparison_id: str, prompt: int, num_draws: int) -> int:
    """Return which draw of each model's answers to a prompt all voters see."""
    return _number(comparison_id, "draw", str(prompt)) % num_draws


def count_vote(voter: str, contest: Contest, choice: VoteChoice, left: int) -> CastVote:
    """Return a vote without its sides."""
    if choice not in (VoteChoice.LEFT, VoteChoice.RIGHT):
        return CastVote(voter, contest, choice, 0)
    chosen_first = (choice == VoteChoice.LEFT) == (left == contest.first)
    return CastVote(voter, contest, choice, 1 if chosen_first else -1)


def gather_gains(votes: Sequence[CastVote]) -> dict[tuple[int, int], dict[int, float]]:
    """Return by pair of models and prompt the mean of what the voters prefer: more than 0 where most prefer the first."""
    found: dict[tuple[int, int], dict[int, list[int]]] = {}
    for vote in votes:
        pair = (vote.contest.first, vote.contest.second)
        found.setdefault(pair, {}).setdefault(vote.contest.prompt, []).append(vote.preferred)
    return {pair: {prompt: sum(said) / len(said) for prompt, said in sorted(by.items())} for pair, by in sorted(found.items())}


def gather_units(votes: Sequence[CastVote]) -> list[list[str]]:
    """Return for each contest what its voters said of it, without sides: who agrees on it."""
    said: Mapping[int, str] = {1: "first", -1: "second"}
    units: dict[Contest, list[str]] = {}
    for vote in votes:
        units.setdefault(vote.contest, []).append(said.get(vote.preferred, vote.choice))
    return list(units.values())


def _face(comparison_id: str, voter_id: str, contest: Contest, num_draws: int) -> Ballot:
    turned = _number(voter_id, *map(str, contest)) % 2 == 1
    left, right = (contest.second, contest.first) if turned else (contest.first, contest.second)
    return Ballot(contest, left, right, draw_of(comparison_id, contest.prompt, num_draws))


def _digest(comparison_id: str, contest: Contest) -> bytes:
    return hashlib.sha256(f"{comparison_id}:{contest.prompt}:{contest.first}:{contest.second}".encode()).digest()


def _number(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256(":".join(parts).encode()).digest()[:8], "big")
