"""Vote links: whoever has one may vote on one comparison, and see nothing else, until the link ends or is revoked.

A secret is 32 random bytes, of which only the SHA-256 is kept; whoever comes by a link gets one of his own for his browser.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.orm import Session

from app.domain.errors import Conflict, InvalidInput, NotFound, Unauthenticated
from app.domain.texts import CONTROL
from app.services import acts
from app.services.accounts import digest_of
from app.services.acts import Actor
from app.store.comparing.votes import find_link, find_voter_by_digest, list_voters
from app.store.database import now
from app.store.tables import Comparison, VoteLink, Voter
from app.system.identifiers import new_id

DEFAULT_DAYS, MAX_DAYS = 14, 365
MAX_VOTERS = 500  # of one comparison
NAME_LENGTH = 80
ENDED = "This vote link isn't known, has ended or was revoked. Ask whoever sent it for a new one."


@dataclass(frozen=True)
class Booth:
    """A voter at a comparison, come by a link."""

    voter: Voter
    comparison: Comparison


def create_link(session: Session, actor: Actor, comparison: Comparison, days: int = DEFAULT_DAYS) -> tuple[VoteLink, str]:
    """Return a new vote link and its secret, which is shown this once. Raises InvalidInput."""
    if not 1 <= days <= MAX_DAYS:
        raise InvalidInput.at("days", f"A vote link ends after 1 to {MAX_DAYS} days.")
    secret, at = secrets.token_urlsafe(32), now(session)
    link = VoteLink(
        id=new_id("votelink"), comparison_id=comparison.id, digest=digest_of(secret), created_at=at,
        expires_at=at + timedelta(days=days), revoked_at=None,
    )  # fmt: skip
    session.add(link)
    session.flush()
    acts.record(session, actor, "vote_link_made", f"For “{comparison.name}”, good for {days} days.")
    return link, secret


def revoke_link(session: Session, actor: Actor, comparison: Comparison, link_id: str) -> None:
    """End a link, for those too who came by it; their votes stay. Raises NotFound."""
    link = session.get(VoteLink, link_id)
    if link is None or link.comparison_id != comparison.id:
        raise NotFound(f"There is no vote link {link_id!r} of this comparison.")
    if link.revoked_at is None:
        link.revoked_at = now(session)
        acts.record(session, actor, "vote_link_revoked", f"Of “{comparison.name}”.")


def is_open(session: Session, link: VoteLink) -> bool:
    """Return whether a link still lets people vote."""
    return link.revoked_at is None and link.expires_at > now(session)


def find_open_link(session: Session, secret: str) -> VoteLink | None:
    """Return the link of a secret, while it is open. Reads only."""
    link = find_link(session, digest_of(secret))
    return link if link is not None and is_open(session, link) else None


def join(session: Session, secret: str, name: str) -> tuple[VoteLink, str]:
    """Return the link and the secret of a new voter.

    Raises Unauthenticated for a link that has ended, InvalidInput for a bad name, Conflict where too many vote already.
    """
    link = find_open_link(session, secret)
    if link is None:
        raise Unauthenticated(ENDED)
    name = name.strip()
    if not 1 <= len(name) <= NAME_LENGTH or CONTROL.search(name):
        raise InvalidInput.at(
            "name", f"Type a name of 1 to {NAME_LENGTH} characters, so that your votes are known as one person's."
        )
    voters = list_voters(session, link.comparison_id)
    if len(voters) >= MAX_VOTERS:
        raise Conflict(f"{MAX_VOTERS} people vote on this already, and no more can.")
    own = secrets.token_urlsafe(32)
    session.add(
        Voter(
            id=new_id("voter"),
            comparison_id=link.comparison_id,
            user_id=None,
            link_id=link.id,
            name=name_apart(name, [row.voter.name for row in voters]),
            digest=digest_of(own),
            created_at=now(session),
        )
    )
    session.flush()
    return link, own


def name_apart(name: str, taken: Sequence[str]) -> str:
    """Return the name as nobody else who votes has it: with a number where somebody came by it before."""
    numbered = (f"{name[: NAME_LENGTH - 6]} ({count})" for count in range(2, len(taken) + 3))
    return next(one for one in (name, *numbered) if one not in taken)


def authenticate_voter(session: Session, secret: str, link_id: str) -> Booth:
    """Return the voter whose browser has this secret. Raises Unauthenticated once his link has ended."""
    found = find_voter_by_digest(session, digest_of(secret))
    if found is None or found[1].id != link_id or not is_open(session, found[1]):
        raise Unauthenticated(ENDED)
    return Booth(found[0], session.get_one(Comparison, found[0].comparison_id))
