"""Prompt sets: their rows, listed and found, and what uses them."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.store.tables import Answers, Comparison, PromptSet


def get_prompt_set(session: Session, owner_id: str, prompt_set_id: str) -> PromptSet:
    """Return the owner's prompt set. Raises NotFound, for somebody else's too."""
    prompt_set = session.get(PromptSet, prompt_set_id)
    if prompt_set is None or prompt_set.owner_id != owner_id:
        raise NotFound(f"There is no prompt set {prompt_set_id!r}.")
    return prompt_set


def list_prompt_sets(session: Session, owner_id: str, *, after: str | None = None, limit: int = 50) -> list[PromptSet]:
    """Return the owner's prompt sets, newest first; `after` is the id of the last one of the page before."""
    query = select(PromptSet).where(PromptSet.owner_id == owner_id)
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
