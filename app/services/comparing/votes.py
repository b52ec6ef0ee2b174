"""Blind votes: by users and by people who came by a link; cast, taken back, counted. Nothing here commits.

A voter names a ballot by its place in his own order, and a vote is one row of voter, prompt and pair: the same vote sent twice,
or again after the web was away, is one vote.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.domain.comparing.ballot import Ballot, CastVote, Contest, VoteChoice, count_vote, order_ballots
from app.domain.errors import InvalidInput, NotFound
from app.store.comparing.computed import Computed
from app.store.comparing.votes import VoteRow, find_user_voter, find_vote, list_own, list_votes
from app.store.database import add_once, now
from app.store.tables import Comparison, User, Vote, Voter
from app.system.identifiers import new_id

LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class Standing:
    """Where a voter is: the ballot to judge, None at the end; `place`: its number, by which it is named."""

    ballots: list[Ballot]
    num_votes: int
    place: int

    @property
    def ballot(self) -> Ballot | None:
        return self.ballots[self.place] if self.place < len(self.ballots) else None


def identify(comparison: Comparison, user_id: str) -> str:
    """Return the id that a user has as a voter on a comparison, or will have: the order of the ballots is there before a vote."""
    return f"voter_{hashlib.sha256(f'{comparison.id}:{user_id}'.encode()).hexdigest()[:26]}"


def enter(session: Session, comparison: Comparison, user: User) -> Voter:
    """Return the user as a voter on a comparison; made when there is none yet."""
    known = find_user_voter(session, comparison.id, user.id)
    if known is not None:
        return known
    voter = Voter(
        id=identify(comparison, user.id), comparison_id=comparison.id, user_id=user.id, link_id=None, name=user.name, digest=None,
        created_at=now(session),
    )  # fmt: skip
    return add_once(session, voter, lambda: find_user_voter(session, comparison.id, user.id))


def stand(session: Session, comparison: Comparison, kept: Computed, voter_id: str) -> Standing:
    """Return where a voter is: at the first ballot of his order that he has not judged."""
    ballots = order_ballots(comparison.id, voter_id, kept.rows.contests, kept.rows.num_draws)
    judged = {(vote.prompt, vote.pair) for vote in list_own(session, voter_id)}
    place = next((n for n, one in enumerate(ballots) if _key(comparison, one.contest) not in judged), len(ballots))
    return Standing(ballots, len(judged), place)


def cast(
    session: Session, comparison: Comparison, kept: Computed, voter: Voter, place: int, choice: VoteChoice, seconds: float
) -> Vote:
    """Write a voter's choice at a place of his order; the same again changes nothing, another one replaces it."""
    ballots = order_ballots(comparison.id, voter.id, kept.rows.contests, kept.rows.num_draws)
    if not 0 <= place < len(ballots):
        raise InvalidInput.at("place", f"There is no pair {place + 1} among these {len(ballots)}: open the page again.")
    ballot = ballots[place]
    prompt, pair = _key(comparison, ballot.contest)
    known = find_vote(session, voter.id, prompt, pair)
    if known is None:
        made = Vote(
            id=new_id("vote"), comparison_id=comparison.id, voter_id=voter.id, prompt=prompt, pair=pair,
            left_id=comparison.answers_ids[ballot.left], left_draw=ballot.draw,
            right_id=comparison.answers_ids[ballot.right], right_draw=ballot.draw,
            choice=choice, seconds=min(max(0.0, seconds), LONGEST_SECONDS), at=now(session),
        )  # fmt: skip
        known = add_once(session, made, lambda: find_vote(session, voter.id, prompt, pair))
    if known.choice != choice:
        known.choice, known.at = choice, now(session)
    return known


def undo(session: Session, voter: Voter, num_votes: int) -> None:
    """Take back the last of the voter's `num_votes` votes; where there are not as many any more, it is taken back already."""
    own = list_own(session, voter.id)
    if own and len(own) == num_votes:
        session.delete(own[-1])
        session.flush()


def remove_voter(session: Session, comparison: Comparison, voter_id: str) -> None:
    """Remove a voter with all his votes. Raises NotFound for one of another comparison."""
    voter = session.get(Voter, voter_id)
    if voter is None or voter.comparison_id != comparison.id:
        raise NotFound(f"There is no voter {voter_id!r} on this comparison.")
    session.delete(voter)


def gather(session: Session, comparison: Comparison) -> tuple[list[CastVote], Counter[VoteChoice]]:
    """Return all votes as they are counted, without sides, and how often each choice was made."""
    return count_rows(comparison, list_votes(session, comparison.id))


def count_rows(comparison: Comparison, rows: list[VoteRow]) -> tuple[list[CastVote], Counter[VoteChoice]]:
    """Return rows of votes as they are counted."""
    places = {key: place for place, key in enumerate(comparison.answers_ids)}
    counted = []
    for row in rows:
        left, right = places[row.left_id], places[row.right_id]
        counted.append(count_vote(row.voter_id, Contest(row.prompt, *sorted((left, right))), row.choice, left))
    return counted, Counter(row.choice for row in rows)


def _key(comparison: Comparison, contest: Contest) -> tuple[int, str]:
    return contest.prompt, f"{comparison.answers_ids[contest.first]}:{comparison.answers_ids[contest.second]}"
