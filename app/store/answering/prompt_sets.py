"""Prompt sets: their rows, listed and found, and what uses them."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.sharing import get_visible, list_visible, visible_to
from app.store.tables import Answers, Comparison, PromptSet


def get_prompt_set(session: Session, user_id: str, prompt_set_id: str) -> PromptSet:
    """Return a prompt set that the user may see. Raises NotFound."""
    return get_visible(session, PromptSet, user_id, prompt_set_id)


def list_prompt_sets(
    session: Session, user_id: str, *, mine: bool = False, after: str | None = None, limit: int = 50
) -> list[PromptSet]:
    """Return the prompt sets that the user may see, or the user's own, newest first; `after` is the last id seen."""
    return list_visible(session, PromptSet, user_id, mine=mine, after=after, limit=limit)


def find_same(session: Session, owner_id: str, sha256: str) -> PromptSet | None:
    """Return the owner's newest prompt set of the same prompts."""
    query = select(PromptSet).where(PromptSet.owner_id == owner_id, PromptSet.sha256 == sha256)
    return session.scalar(query.order_by(PromptSet.id.desc()).limit(1))


def find_shared(session: Session, user_id: str, sha256: str, name: str) -> PromptSet | None:
    """Return the oldest prompt set of this name and these prompts that isn't private, of those that the user may see."""
    same = (PromptSet.sha256 == sha256, PromptSet.name == name, PromptSet.private.is_(False), visible_to(user_id, PromptSet))
    return session.scalar(select(PromptSet).where(*same).order_by(PromptSet.id).limit(1))


def list_answers_of(session: Session, prompt_set_id: str) -> list[str]:
    """Return the ids of the answers to a prompt set, whoever's they are."""
    return list(session.scalars(select(Answers.id).where(Answers.prompt_set_id == prompt_set_id)))


def list_comparisons_of(session: Session, prompt_set_id: str) -> list[str]:
    """Return the ids of the comparisons on a prompt set, whoever's they are."""
    return list(session.scalars(select(Comparison.id).where(Comparison.prompt_set_id == prompt_set_id)))
