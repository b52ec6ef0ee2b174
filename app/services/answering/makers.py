"""The runs that make answers and judgements: queued, told what was made, and followed by another for what came meanwhile.

Nothing here commits.
"""

from collections.abc import Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.answering.answers import AnswersFacts
from app.domain.answering.judge import JudgementFacts
from app.domain.run import RunKind, RunState
from app.services import provenance, runs
from app.store.answering.answers import list_makers
from app.store.database import now
from app.store.tables import Answers, Attempt, Judgement, Run
from app.system.identifiers import new_id

NAME_LENGTH = 120


def make(session: Session, answers: Answers) -> None:
    """Have a worker make what is missing of the answers and their judgements, unless a run is at it or will be.

    A run that failed or was cancelled goes on where it ended. Raises StorageFull.
    """
    wanted = list_wanted(session, answers)
    if answers.facts is not None and not wanted:
        return
    maker = next(iter(list_makers(session, answers.id)), None)
    if maker is None or RunState(maker.state) is RunState.SUCCEEDED:
        maker = enqueue(session, answers)
    elif RunState(maker.state).final:
        runs.resume(session, answers.owner_id, maker.id)
    if answers.facts is None:
        answers.run_id = maker.id
    for judgement in wanted:
        judgement.run_id = maker.id
    session.flush()


def enqueue(session: Session, answers: Answers) -> Run:
    """Queue a new run for the answers."""
    at = now(session)
    what = "Answers" if answers.facts is None else "Judging"
    run = Run(
        id=new_id("run"), owner_id=answers.owner_id, private=answers.private, name=f"{what} of {answers.name}"[:NAME_LENGTH],
        kind=RunKind.ANSWERS.value, state=RunState.QUEUED.value, recipe={}, provenance=provenance.describe_program(),
        policy_id=answers.model_id, answers_id=answers.id, created_at=at, queued_at=at,
    )  # fmt: skip
    runs.enqueue(session, run)
    return run


def list_wanted(session: Session, answers: Answers) -> list[Judgement]:
    """Return the judgements that are not made yet."""
    query = select(Judgement).where(Judgement.answers_id == answers.id, Judgement.facts.is_(None))
    return list(session.scalars(query.order_by(Judgement.id)))


def keep(session: Session, run_id: str, facts: AnswersFacts | None, judgements: Mapping[str, JudgementFacts]) -> None:
    """Note what a run has made; what the answers' files are not about any more is passed over.

    A run that found all answers there and judged them changes nothing of what is told of the answers.
    """
    run = session.get_one(Run, run_id)
    answers = session.get(Answers, run.answers_id) if run.answers_id else None
    if answers is None:
        return
    if facts is not None and (answers.facts or {}).get("num_answers") != facts.num_answers:
        earlier = (answers.facts or {}).get("seconds", 0.0)
        answers.facts = {**facts.model_dump(mode="json"), "seconds": earlier + facts.seconds}
    for row in session.scalars(select(Judgement).where(Judgement.answers_id == answers.id, Judgement.key.in_(judgements))):
        row.facts = judgements[row.key].model_dump(mode="json")
    session.flush()


def go_on(session: Session, run: Run) -> None:
    """Queue another run where judges were asked for after this one, which has succeeded, had begun."""
    answers = session.get(Answers, run.answers_id) if run.answers_id else None
    attempt = session.get(Attempt, (run.id, run.attempt))
    if answers is None or attempt is None:
        return
    if any(judgement.created_at >= attempt.started_at for judgement in list_wanted(session, answers)):
        make(session, answers)
