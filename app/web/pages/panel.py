"""What is known before a launch, for the panel of its form: are the scores there, what do the rewards know, what will weigh.

States: "other" (the method has no weights), "incomplete" (the settings don't say yet what is to be scored), "missing" (not
scored), "scoring" (a run is at it), "ended" (that run failed or was cancelled), "asked" (a worker computes the preview),
"refused" (it can't be computed), "ready".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput
from app.domain.preview import PreviewRequest, PreviewResult
from app.domain.recipe import Method
from app.domain.scoring import RewardCheck, ScoringFacts, describe_inverted, has_all_pairs
from app.services import previews
from app.services.scorings import find_for, standing_of
from app.store import runs
from app.store.database import now
from app.store.tables import Preview, Run, Scoring
from app.web.pages.memory import Memory, foresee
from app.web.pages.standing import progress_text, time_text
from app.web.recipes import at_fields, read_preview, read_scored, split_lambdas
from app.web.rendering import Context

ALIVE_SECONDS = 60
NO_WORKER = (
    "No worker is running, and a worker computes the preview. Start one (varstudio up does); the preview then comes by itself."
)


@dataclass(frozen=True, kw_only=True)
class Panel(Context):
    """`sentence` and `remedy`: why there is nothing more to show; `typed`: the λ of the form."""

    state: str
    memory: Memory
    accepted: bool
    problems: list[dict[str, Any]] = field(default_factory=list)
    sentence: str = ""
    remedy: str = ""
    scoring: Scoring | None = None
    run: Run | None = None
    progress: str = ""
    time: str = ""
    facts: ScoringFacts | None = None
    request: PreviewRequest | None = None
    result: PreviewResult | None = None
    typed: tuple[float, ...] = ()

    @property
    def is_partial(self) -> bool:
        """Whether only some of the pairs were scored, so that some presets and λ can't be previewed."""
        return self.facts is not None and not has_all_pairs(self.facts)

    @property
    def check(self) -> RewardCheck | None:
        return self.facts.check if self.facts else None

    @property
    def inverted(self) -> str:
        """The evidence that the rewards contradict the labels; empty when nothing is known to say so."""
        return describe_inverted(self.facts.check) if self.facts and self.facts.check.inverted else ""


def look(session: Session, owner_id: str, values: Mapping[str, str]) -> Panel:
    """What is known of these form values, without asking a worker anything."""
    panel = Panel(
        state="other",
        memory=foresee(session, owner_id, values),
        accepted=values.get("reward.accept_inverted") == "yes",
    )
    if values.get("method", Method.VAR) != Method.VAR:
        return panel
    try:
        scoring = find_for(session, owner_id, read_scored(values))
    except InvalidInput as error:
        return replace(panel, state="incomplete", problems=error.problems)
    if scoring is None:
        return replace(panel, state="missing")
    panel = replace(panel, scoring=scoring, run=session.get(Run, scoring.run_id) if scoring.run_id else None)
    return look_at_scores(panel, scoring) if scoring.facts is None else look_at_weights(session, panel, scoring, values)


def look_at_scores(panel: Panel, scoring: Scoring) -> Panel:
    """The panel while there are no scores yet, or when making them came to nothing."""
    standing, run = standing_of(scoring, panel.run), panel.run
    if run is not None and standing.state in ("queued", "running"):
        return replace(panel, state="scoring", progress=progress_text(run), time=time_text(run))
    return replace(panel, state="ended", sentence=standing.reason, remedy=standing.remedy)


def look_at_weights(session: Session, panel: Panel, scoring: Scoring, values: Mapping[str, str]) -> Panel:
    """The panel once the scores are there: with the answer, where it was given before."""
    panel = replace(panel, facts=ScoringFacts.model_validate(scoring.facts))
    try:
        request = read_preview(values)
        result = previews.find_answer(session, scoring.owner_id, scoring.id, request)
    except InvalidInput as error:
        return replace(panel, state="refused", problems=at_fields(error.problems), sentence=error.detail)
    typed = tuple(float(text) for text in split_lambdas(values))
    return replace(panel, state="ready" if result else "asked", request=request, result=result, typed=typed)


def settle(panel: Panel, preview: Preview | None, session: Session) -> Panel:
    """The panel with what became of its question to the workers."""
    if panel.state != "asked" or preview is None:
        return panel
    if preview.state == "failed":
        error = preview.error or {}
        return replace(panel, state="refused", problems=error.get("problems", []), sentence=str(error.get("detail", "")))
    return panel if has_worker(session) else replace(panel, sentence=NO_WORKER)


def has_worker(session: Session) -> bool:
    """Whether any worker has been heard of lately."""
    newest = runs.list_workers(session)[:1]
    return any(now(session) - worker.beat_at < timedelta(seconds=ALIVE_SECONDS) for worker in newest)
