"""The spool into the journal: a batch of the runner's lines becomes journal entries, metric values and the run's row.

Idempotent: lines up to `runs.spool_n` are there already. Fenced: the statement that takes the places in the journal
names the token, so nothing of a stale attempt is ever written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.domain.answering.answers import AnswersFacts
from app.domain.answering.judge import JudgementFacts
from app.domain.events import (
    EVENT_KINDS,
    AnswersKept,
    AttemptResumed,
    EvaluationLogged,
    Event,
    FinalLogged,
    JudgementKept,
    LogWritten,
    ProgressMade,
    ScoringKept,
    SpoolLine,
    StageStarted,
    StepLogged,
)
from app.domain.run import RunState
from app.domain.scoring import ScoringFacts
from app.domain.texts import make_keepable
from app.services import scorings
from app.services.answering import makers
from app.services.attempts import stale
from app.store import journal
from app.store.metrics import drop_metrics_after, write_metrics
from app.store.overview.run_list import keep_figures
from app.store.tables import Run

OUTCOME = "outcome"
NOT_THE_RUNNERS = ("state", OUTCOME)


@dataclass
class Changes:
    """What a batch of events changes."""

    notes: list[journal.Note] = field(default_factory=list)
    metrics: dict[tuple[str, int], float | None] = field(default_factory=dict)
    drop_after: int | None = None
    has_figures: bool = False
    scoring: ScoringFacts | None = None
    answers: AnswersFacts | None = None
    judgements: dict[str, JudgementFacts] = field(default_factory=dict)
    row: dict[str, Any] = field(default_factory=dict)


def record(session: Session, run_id: str, token: int, lines: Sequence[SpoolLine]) -> None:
    """Write the lines that aren't in the journal yet. The outcome's line is left to `attempts.finish`.

    Raises StaleToken when another attempt owns the run.
    """
    if not lines:
        return
    mine = (Run.id == run_id, Run.token == token, Run.state == RunState.RUNNING)
    known = session.scalar(select(Run.spool_n).where(*mine))
    if known is None:
        raise stale(run_id)
    fresh = [line for line in lines if line.n > known]
    if not fresh:
        return
    batch = digest(fresh)
    statement = (
        update(Run)
        .where(*mine, Run.spool_n == known)
        .values(last_seq=Run.last_seq + len(batch.notes), spool_n=fresh[-1].n, **batch.row)
        .returning(Run.last_seq)
    )
    last_seq = session.execute(statement.execution_options(synchronize_session=False)).scalar_one_or_none()
    if last_seq is None:
        raise stale(run_id)
    journal.write_notes(session, run_id, last_seq, batch.notes)
    if batch.drop_after is not None:
        drop_metrics_after(session, run_id, batch.drop_after)
    write_metrics(session, run_id, batch.metrics)
    if batch.has_figures:
        keep_figures(session, run_id)
    if batch.scoring is not None:
        scorings.keep(session, run_id, batch.scoring)
    if batch.answers is not None or batch.judgements:
        makers.keep(session, run_id, batch.answers, batch.judgements)


def digest(lines: Sequence[SpoolLine]) -> Changes:
    """Read the lines in order and gather what they change."""
    batch = Changes()
    for line in lines:
        if line.kind == OUTCOME:
            continue
        event = read_event(line)
        batch.notes.append(journal.Note(event.model_dump()["kind"], make_keepable(journal.to_payload(event)), moment(line.at)))
        _apply(batch, event)
    return batch


def read_event(line: SpoolLine) -> Event:
    """Return the line's event; one that can't be understood becomes a warning in the log, so that nothing stops for it."""
    event_class = EVENT_KINDS.get(line.kind)
    if event_class is None or line.kind in NOT_THE_RUNNERS:
        return LogWritten(level="warning", text=f"The runner wrote an event of the unknown kind {line.kind!r}.")
    try:
        return event_class.model_validate({**line.payload, "kind": line.kind})
    except ValidationError as error:
        return LogWritten(level="warning", text=f"The runner wrote a {line.kind} event that can't be read: {error}")


def _apply(batch: Changes, event: Event) -> None:
    match event:
        case AttemptResumed():
            batch.has_figures = True
            batch.drop_after = event.step if batch.drop_after is None else min(event.step, batch.drop_after)
            batch.metrics = {place: value for place, value in batch.metrics.items() if place[1] <= event.step}
            batch.row["step"] = event.step
        case StageStarted():
            batch.row |= {"stage": event.stage.value, "progress": 0.0, "seconds_left": None}
        case ProgressMade():
            batch.row |= {"stage": event.stage.value, "progress": event.done / max(1, event.total)}
        case StepLogged():
            share = event.step / max(1, event.num_steps)
            batch.row |= {"step": event.step, "num_steps": event.num_steps, "progress": share}
            batch.row["seconds_left"] = event.seconds_left
            batch.metrics |= {(key, event.step): value for key, value in event.metrics.items()}
        case ScoringKept():
            batch.scoring = event.scoring
        case AnswersKept():
            batch.answers = event.answers
        case JudgementKept():
            batch.judgements[event.key] = event.judgement
        case EvaluationLogged() | FinalLogged():
            batch.has_figures = True
            batch.metrics |= {(key, event.step): value for key, value in event.metrics.items()}


def moment(text: str) -> datetime:
    """Return the runner's time stamp; now, where it isn't one."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
