"""A ballot as its voter sees it: two texts, a place, and nothing that tells whose they are."""

from dataclasses import dataclass
from typing import Any

from app.services.comparing.votes import Standing
from app.store.comparing.computed import Computed
from app.web.rendering.environment import Context


@dataclass(frozen=True)
class ShownBallot:
    """One pair of answers."""

    messages: list[dict[str, Any]]
    left: str
    right: str
    left_earlier: list[str]  # of a question of several turns
    right_earlier: list[str]


@dataclass(frozen=True, kw_only=True)
class BallotPart(Context):
    """The ballot, its progress and its buttons; `address`: where they post to."""

    template = "votes/_ballot.html"

    ballot: ShownBallot | None
    place: int
    num_votes: int
    num_ballots: int
    address: str


@dataclass(frozen=True, kw_only=True)
class BoothPage(BallotPart):
    """The whole page for who came by a link."""

    template = "votes/booth.html"

    voter: str


@dataclass(frozen=True, kw_only=True)
class VotePage(BoothPage):
    """The whole page for a user; `back`: where the figures are."""

    template = "votes/vote.html"

    back: str


def show_ballot(standing: Standing, kept: Computed) -> ShownBallot | None:
    """Return the next ballot's texts; None when all have been judged."""
    ballot = standing.ballot
    if ballot is None:
        return None
    [line] = kept.read_texts([ballot.contest.prompt])
    left, right = (line["answers"][model][ballot.draw] for model in (ballot.left, ballot.right))
    return ShownBallot(line["messages"], left["text"], right["text"], left["earlier"], right["earlier"])


def describe(standing: Standing, kept: Computed, address: str) -> dict[str, Any]:
    """Return what a ballot's context holds."""
    return {
        "ballot": show_ballot(standing, kept),
        "place": standing.place,
        "num_votes": standing.num_votes,
        "num_ballots": len(standing.ballots),
        "address": address,
    }
