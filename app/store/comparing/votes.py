"""Voters, their links, and votes as rows."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.domain.comparing.ballot import VoteChoice
from app.store.tables import Vote, VoteLink, Voter


@dataclass(frozen=True)
class VoteRow:
    """A vote with its voter's name."""

    voter_id: str
    voter: str
    prompt: int
    left_id: str
    left_draw: int
    right_id: str
    right_draw: int
    choice: VoteChoice
    seconds: float
    at: datetime


@dataclass(frozen=True)
class VoterRow:
    """A voter with what he has done."""

    voter: Voter
    num_votes: int
    last_at: datetime | None


def list_votes(session: Session, comparison_id: str) -> list[VoteRow]:
    """Return all votes on a comparison in the order in which they were cast."""
    columns = (
        Vote.voter_id, Voter.name, Vote.prompt, Vote.left_id, Vote.left_draw, Vote.right_id, Vote.right_draw, Vote.choice,
        Vote.seconds, Vote.at,
    )  # fmt: skip
    query = select(*columns).join(Voter).where(Vote.comparison_id == comparison_id).order_by(Vote.at, Vote.id)
    return [VoteRow(*row[:7], VoteChoice(row[7]), row[8], row[9]) for row in session.execute(query)]


def list_own(session: Session, voter_id: str) -> list[Vote]:
    """Return one voter's votes in the order in which they were cast."""
    return list(session.scalars(select(Vote).where(Vote.voter_id == voter_id).order_by(Vote.at, Vote.id)))


def find_vote(session: Session, voter_id: str, prompt: int, pair: str) -> Vote | None:
    return session.scalar(select(Vote).where(Vote.voter_id == voter_id, Vote.prompt == prompt, Vote.pair == pair))


def list_voters(session: Session, comparison_id: str) -> list[VoterRow]:
    """Return who votes on a comparison, in the order in which they came."""
    query = (
        select(Voter, func.count(Vote.id), func.max(Vote.at))
        .outerjoin(Vote, Vote.voter_id == Voter.id)
        .where(Voter.comparison_id == comparison_id)
        .group_by(Voter.id)
        .order_by(Voter.id)
    )
    return [VoterRow(voter, num_votes, last_at) for voter, num_votes, last_at in session.execute(query)]


def find_user_voter(session: Session, comparison_id: str, user_id: str) -> Voter | None:
    return session.scalar(select(Voter).where(Voter.comparison_id == comparison_id, Voter.user_id == user_id))


def find_voter_by_digest(session: Session, digest: str) -> tuple[Voter, VoteLink] | None:
    """Return the voter whose browser has this secret, and the link that he came by."""
    query = select(Voter, VoteLink).join(VoteLink, Voter.link_id == VoteLink.id).where(Voter.digest == digest)
    return session.execute(query).first()


def find_link(session: Session, digest: str) -> VoteLink | None:
    return session.scalar(select(VoteLink).where(VoteLink.digest == digest))


def list_links(session: Session, comparison_id: str) -> list[VoteLink]:
    """Return the comparison's vote links, newest first."""
    return list(session.scalars(select(VoteLink).where(VoteLink.comparison_id == comparison_id).order_by(VoteLink.id.desc())))
