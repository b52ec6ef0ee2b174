"""Prompt sets: their rows, listed and found, and what uses them."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.store.sharing import get_visible, visible_to
from app.store.tables import Answers, Comparison, PromptSet


def get_prompt_set(session: Session, user_id: str, prompt_set_id: str) -> PromptSet:
    """Return a prompt set that the user may see. Raises NotFound."""
    return get_visible(session, PromptSet, user_id, prompt_set_id)


def list_prompt_sets(
    session: Session, user_id: str, *, mine: bool = False, after: str | None = None, limit: int = 50
) -> list[PromptSet]:
    """Return the prompt sets that the user may see, or the user's own, newest first; `after` is the last id seen."""
    query = select(PromptSet).where(visible_to(user_id, PromptSet, mine=mine))
    if after is not None:
        query = query.where(PromptSet.id < after)
    return list(session.scalars(query.order_by(PromptSet.id.desc()).limit(limit)))


def find_same(session: Session, owner_id: str, sha256: str) -> PromptSet | None:
    """Return the owner's newest prompt set of the same prompts."""
    query = select(PromptSet).where(PromptSet.owner_id == owner_id, PromptSet.sha256 == sha256)
    return session.scalar(query.order_by(PromptSet.id.desc()).limit(1))


def list_answers_of(session: Session, prompt_set_id: str) -> list[tuple[str, str]]:
    """Return the answers to a prompt set, newest first: id and name."""
    query = select(Answers.id, Answers.name).where(Answers.prompt_set_id == prompt_set_id).order_by(Answers.id.desc())
    return [(row[0], row[1]) for row in session.execute(query)]


def list_comparisons_of(session: Session, prompt_set_id: str) -> list[tuple[str, str]]:
    """Return the comparisons on a prompt set, newest first: id and name."""
    query = select(Comparison.id, Comparison.name).where(Comparison.prompt_set_id == prompt_set_id)
    return [(row[0], row[1]) for row in session.execute(query.order_by(Comparison.id.desc()))]
