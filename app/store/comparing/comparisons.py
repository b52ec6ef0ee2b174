"""Comparisons: their rows, and the answers they show with the runs and judgements around these."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.run import RunState
from app.store.answering.answers import list_work
from app.store.sharing import get_visible, visible_to
from app.store.tables import Answers, Comparison, Judgement, PromptSet, Run


@dataclass(frozen=True)
class Contender:
    """One model's answers in a comparison, with the run that makes them and what judges have said of them."""

    answers: Answers
    run: Run | None
    judgements: list[Judgement]

    @property
    def is_ready(self) -> bool:
        return self.answers.facts is not None

    @property
    def has_failed(self) -> bool:
        """Whether nobody makes the answers any more, though they are not there."""
        return not self.is_ready and (self.run is None or self.run.state in (RunState.FAILED, RunState.CANCELLED))

    @property
    def is_being_judged(self) -> bool:
        """Whether judges have still to say something of the answers, and will."""
        return self.is_ready and bool(self.waiting) and self.run is not None and not RunState(self.run.state).final

    @property
    def waiting(self) -> list[Judgement]:
        """What judges have still to say."""
        return [judgement for judgement in self.judgements if judgement.facts is None]

    @property
    def identity(self) -> str:
        """What tells the model from all others: the hash of its weights, or of uploaded answers that they are others'."""
        found = (self.answers.facts or {}).get("model_sha256")
        return str(found) if found else self.answers.id

    @property
    def elsewhere(self) -> str:
        """Where the answers of a model are from whose weights are not here."""
        return "of an endpoint" if self.answers.model["source"] == "endpoint" else "uploaded"


@dataclass(frozen=True)
class ComparisonRow:
    """A comparison as lists show it."""

    comparison: Comparison
    prompt_set: str
    num_prompts: int
    models: list[str]
    is_ready: bool


def get_comparison(session: Session, user_id: str, comparison_id: str) -> Comparison:
    """Return a comparison that the user may see. Raises NotFound."""
    return get_visible(session, Comparison, user_id, comparison_id)


def list_comparisons(
    session: Session, user_id: str, *, mine: bool = False, after: str | None = None, limit: int = 50
) -> list[ComparisonRow]:
    """Return the comparisons that the user may see, or the user's own, newest first; `after` is the last id of the page before.

    Two queries.
    """
    query = select(Comparison, PromptSet).join(PromptSet).where(visible_to(user_id, Comparison, mine=mine))
    if after is not None:
        query = query.where(Comparison.id < after)
    rows = session.execute(query.order_by(Comparison.id.desc()).limit(limit)).all()
    wanted = {key for comparison, _ in rows for key in comparison.answers_ids}
    columns = select(Answers.id, Answers.model_name, Answers.facts).where(Answers.id.in_(wanted))
    known = {row.id: row for row in session.execute(columns)}
    return [
        ComparisonRow(
            comparison=comparison,
            prompt_set=prompt_set.name,
            num_prompts=prompt_set.num_prompts,
            models=[known[key].model_name for key in comparison.answers_ids if key in known],
            is_ready=all(key in known and known[key].facts is not None for key in comparison.answers_ids),
        )
        for comparison, prompt_set in rows
    ]


def list_contenders(session: Session, answers_ids: Sequence[str]) -> list[Contender]:
    """Return the answers in this order, with their runs and judgements. Three queries."""
    found = {answers.id: answers for answers in session.scalars(select(Answers).where(Answers.id.in_(answers_ids)))}
    work = list_work(session, list(found.values()))
    return [Contender(found[key], *work[key]) for key in answers_ids if key in found]


def name_models(contenders: Sequence[Contender]) -> list[str]:
    """Return what each model is called beside the others: its name, with its number where two have the same."""
    names = [one.answers.model_name for one in contenders]
    return [f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name for place, name in enumerate(names)]
