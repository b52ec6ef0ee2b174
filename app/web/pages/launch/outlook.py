"""What is known before a launch, for the panel of its form: are the scores there, what do the rewards know, what will weigh.

States: "other" (the method has no weights), "incomplete" (the settings don't say yet what is to be scored), "missing" (not
scored), "scoring" (a run is at it), "ended" (that run failed or was cancelled), "asked" (a worker computes the preview),
"refused" (it can't be computed), "ready".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.orm import Session

from app.domain.errors import InvalidInput
from app.domain.preview.weights import PreviewRequest, PreviewResult, Suggestion
from app.domain.recipe import Method, Recipe
from app.domain.run import RunState
from app.domain.scoring import ScoringFacts, describe_inverted, has_all_pairs
from app.services import previews
from app.services.scorings import find_for, standing_of
from app.store.scorings import list_scorings
from app.store.sharing import find_visible
from app.store.tables import Run, Scoring
from app.web.pages.launch.memory import Memory, foresee
from app.web.pages.run.status import progress_text, time_text
from app.web.recipes import at_fields, read_preview, read_scored, split_lambdas, tell_price, tell_rates
from app.web.rendering.preview_tables import Tables, tables_of
from app.web.rendering.reward_verdict import RewardVerdict, verdict_of

MOST_NEAR = 50


@dataclass(frozen=True, kw_only=True)
class Panel:
    """`sentence` and `remedy`: why there is nothing more to show; `typed`: the λ of the form, `has_typed` also one that is none.

    `falls_back`: where no λ gives the wanted share, the rewards' scale gives one.
    """

    state: str
    memory: Memory
    accepted: bool
    rates: str = ""
    price: str = ""
    problems: list[dict[str, Any]] = field(default_factory=list)
    sentence: str = ""
    remedy: str = ""
    scoring: Scoring | None = None
    run: Run | None = None
    sees_run: bool = False  # which may be private, as its scores are not
    progress: str = ""
    time: str = ""
    facts: ScoringFacts | None = None
    request: PreviewRequest | None = None
    tables: Tables | None = None
    verdict: RewardVerdict | None = None
    typed: tuple[float, ...] = ()
    has_typed: bool = False
    falls_back: bool = False
    near: list[Scoring] = field(default_factory=list)

    @property
    def is_partial(self) -> bool:
        """Whether only some of the pairs were scored, so that some presets and λ can't be previewed."""
        return self.facts is not None and not has_all_pairs(self.facts)

    @property
    def is_moving(self) -> bool:
        """Whether a run is scoring, for the first time or what was left out."""
        return self.run is not None and not RunState(self.run.state).final

    @property
    def suggestion(self) -> Suggestion | None:
        """The λ that the wanted effective sample size comes to."""
        return self.tables.tables[0].suggestion if self.tables else None

    @property
    def inverted(self) -> str:
        """The evidence that the rewards contradict the labels; empty when nothing is known to say so."""
        return describe_inverted(self.facts.check) if self.facts and self.facts.check.inverted else ""


def look(session: Session, owner_id: str, values: Mapping[str, str]) -> Panel:
    """Return what is known of these form values, without asking a worker anything."""
    panel = Panel(
        state="other",
        memory=foresee(session, owner_id, values),
        accepted=values.get("reward.accept_inverted") == "yes",
        rates=tell_rates(values),
        price=tell_price(values),
        has_typed=bool(split_lambdas(values)),
        falls_back=values.get("weights.fallback") == "reward_std",
    )
    if values.get("method", Method.VAR) != Method.VAR:
        return panel
    try:
        recipe = read_scored(values)
    except InvalidInput as error:
        return replace(panel, state="incomplete", problems=at_fields(error.problems))
    scoring = find_for(session, owner_id, recipe)
    if scoring is None:
        return replace(panel, state="missing", near=list_near(session, owner_id, recipe))
    run = session.get(Run, scoring.run_id) if scoring.run_id else None
    panel = replace(
        panel,
        scoring=scoring,
        run=run,
        progress=progress_text(run) if run else "",
        time=time_text(session, run) if run else "",
        sees_run=run is not None and find_visible(session, Run, owner_id, run.id) is not None,
    )
    return look_at_scores(panel, scoring) if scoring.facts is None else look_at_weights(session, owner_id, panel, scoring, values)


def list_near(session: Session, owner_id: str, recipe: Recipe) -> list[Scoring]:
    """Return a few scorings of the same data by the same models, with another batch size, seed or length."""
    known = list_scorings(session, owner_id, dataset_id=recipe.dataset, limit=MOST_NEAR)
    same = (recipe.policy.model, recipe.reward.model)
    return [scoring for scoring in known if scoring.facts is not None and (scoring.policy_id, scoring.reward_id) == same][:3]


def look_at_scores(panel: Panel, scoring: Scoring) -> Panel:
    """Return the panel while there are no scores yet, or when making them came to nothing."""
    standing, run = standing_of(scoring, panel.run), panel.run
    if run is not None and standing.is_under_way:
        return replace(panel, state="scoring")
    return replace(panel, state="ended", sentence=standing.reason, remedy=standing.remedy)


def look_at_weights(session: Session, user_id: str, panel: Panel, scoring: Scoring, values: Mapping[str, str]) -> Panel:
    """Return the panel once the scores are there: with the answer, where it was given before."""
    facts = ScoringFacts.model_validate(scoring.facts)
    panel = replace(panel, facts=facts, verdict=verdict_of(facts.check, scoring.settings["reward"]["source"]))
    try:
        request = read_preview(values, facts.check.std)
        result = previews.find_answer(session, user_id, scoring.id, request)
    except InvalidInput as error:
        problems = at_fields(error.problems)
        told = " ".join(one["told"] for one in problems)
        return replace(panel, state="refused", problems=problems, sentence=told or error.detail)
    panel = replace(panel, state="asked", request=request, typed=tuple(float(text) for text in split_lambdas(values)))
    return panel if result is None else add_answer(panel, result)


def add_answer(panel: Panel, result: PreviewResult) -> Panel:
    """Return the panel that was asked, with the answer."""
    assert panel.scoring is not None
    assert panel.facts is not None
    scoring = panel.scoring
    tables = tables_of(result, scoring_id=scoring.id, dataset_id=scoring.dataset_id, batch_size=panel.facts.batch_size)
    return replace(panel, state="ready", tables=tables)
