"""Answers: their rows with the prompt sets, runs and judgements around them, found by what they depend on."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.store.sharing import find_visible, visible_to
from app.store.tables import Answers, Comparison, Judgement, PromptSet, Run


@dataclass(frozen=True)
class AnswersRow:
    """Answers beside their prompt set's name, the run that makes them, and what judges say, in the order they were asked."""

    answers: Answers
    prompt_set: str
    run: Run | None
    judgements: list[Judgement]


def get_answers(session: Session, user_id: str, answers_id: str) -> Answers:
    """Return answers that the user may see. Raises NotFound."""
    answers = find_visible(session, Answers, user_id, answers_id)
    if answers is None:
        raise NotFound(f"There are no answers {answers_id!r}.")
    return answers


def find_by_fingerprint(session: Session, owner_id: str, fingerprint: str) -> Answers | None:
    return session.scalar(select(Answers).where(Answers.owner_id == owner_id, Answers.fingerprint == fingerprint))


def list_shared(session: Session, user_id: str, prompt_set_id: str, fingerprint: str) -> list[Answers]:
    """Return others' answers that are not private and that the user may see, the oldest first."""
    query = select(Answers).where(
        Answers.prompt_set_id == prompt_set_id, Answers.fingerprint == fingerprint, Answers.owner_id != user_id,
        Answers.private.is_(False), visible_to(user_id, Answers),
    )  # fmt: skip
    return list(session.scalars(query.order_by(Answers.id)))


def list_answers(
    session: Session, user_id: str, *, mine: bool = False,
    prompt_set_id: str | None = None, model_id: str | None = None, run_id: str | None = None,
    after: str | None = None, limit: int = 50,
) -> list[Answers]:  # fmt: skip
    """Return the answers that the user may see, newest first: all, or those to a prompt set, of a model, or of a run's result."""
    query = select(Answers).where(visible_to(user_id, Answers, mine=mine))
    for column, wanted in ((Answers.prompt_set_id, prompt_set_id), (Answers.model_id, model_id), (Answers.model_run_id, run_id)):
        if wanted is not None:
            query = query.where(column == wanted)
    if after is not None:
        query = query.where(Answers.id < after)
    return list(session.scalars(query.order_by(Answers.id.desc()).limit(limit)))


def list_opponents(session: Session, user_id: str, answers: Answers, *, limit: int) -> list[Answers]:
    """Return other answers to the same prompts that are ready, newest first."""
    found = list_answers(session, user_id, prompt_set_id=answers.prompt_set_id, limit=limit)
    return [other for other in found if other.id != answers.id and other.facts is not None]


def describe_answers(session: Session, found: Sequence[Answers]) -> list[AnswersRow]:
    """Return the rows of these answers, in their order. Three queries, however many."""
    sets = {row.id: row.name for row in session.execute(select(PromptSet.id, PromptSet.name).where(
        PromptSet.id.in_({answers.prompt_set_id for answers in found})
    ))}  # fmt: skip
    work = list_work(session, found)
    return [AnswersRow(answers, sets.get(answers.prompt_set_id, answers.prompt_set_id), *work[answers.id]) for answers in found]


def list_work(session: Session, found: Sequence[Answers]) -> dict[str, tuple[Run | None, list[Judgement]]]:
    """Return the run at work on each of these answers, and what judges say of them, by the answers' id. Two queries."""
    judgements = list_judgements(session, [answers.id for answers in found])
    mine = {answers.id: [one for one in judgements if one.answers_id == answers.id] for answers in found}
    at_work = {answers.id: find_run_at_work(answers, mine[answers.id]) for answers in found}
    runs = {run.id: run for run in session.scalars(select(Run).where(Run.id.in_(filter(None, at_work.values()))))}
    return {key: (runs.get(run_id or ""), mine[key]) for key, run_id in at_work.items()}


def find_run_at_work(answers: Answers, judgements: Sequence[Judgement]) -> str | None:
    """Return the run that makes the answers or what their judges have still to say; else the one that made them."""
    waiting = [judgement.run_id for judgement in judgements if judgement.facts is None]
    return max(filter(None, [answers.run_id, *waiting]), default=None)


def list_judgements(session: Session, answers_ids: Sequence[str]) -> list[Judgement]:
    """Return what judges say of these answers, or shall say, in the order they were asked."""
    return list(session.scalars(select(Judgement).where(Judgement.answers_id.in_(answers_ids)).order_by(Judgement.id)))


def list_makers(session: Session, answers_id: str) -> list[Run]:
    """Return the runs that make or judge the answers, or did, newest first."""
    return list(session.scalars(select(Run).where(Run.answers_id == answers_id).order_by(Run.id.desc())))


def list_comparisons_with(session: Session, answers: Answers) -> list[str]:
    """Return the ids of the comparisons that show the answers, whoever's they are."""
    query = select(Comparison.id, Comparison.answers_ids).where(Comparison.prompt_set_id == answers.prompt_set_id)
    return [row[0] for row in session.execute(query) if answers.id in row[1]]


def list_using_model(session: Session, model_id: str) -> list[str]:
    """Return the ids of the answers that the model gave or judged, whoever's, newest first."""
    judged = select(Judgement.answers_id).where(Judgement.model_id == model_id)
    query = select(Answers.id).where((Answers.model_id == model_id) | Answers.id.in_(judged))
    return list(session.scalars(query.order_by(Answers.id.desc())))
