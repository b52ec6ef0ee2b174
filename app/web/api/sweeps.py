"""REST: sweeps. One recipe over a grid and beside its baselines; compared in a table and on a reward-against-KL frontier."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from app.domain.frontier import Rival
from app.domain.sweep import Baselines, Settings, SweepRequest, SweepState
from app.domain.training.baselines import BASELINES
from app.domain.weighting import Positive
from app.services import sweeps as service
from app.store import sweeps as store
from app.store.tables import Sweep
from app.web.api.paging import After, Limit, Page, to_page
from app.web.api.runs import IdempotencyKey
from app.web.api.sharing import ChangeBody, Mine, OwnedView, Private, change
from app.web.dependencies import CurrentFiles, CurrentUser, ReadSession, WriteSession
from app.web.rendering.comparison import SweepComparison, compare
from app.web.rendering.experiments import ExperimentResult, judge

router = APIRouter(prefix="/sweeps", tags=["sweeps"])

TargetGain = Annotated[
    float | None,
    Query(
        ge=-1e6,
        le=1e6,
        allow_inf_nan=False,
        description="The reward gain that costs are compared at; empty: nine tenths of what the second best variant reaches.",
    ),
]
KlBudget = Annotated[
    float | None,
    Query(
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="The best is sought among the variants that end within this KL; empty: among all.",
    ),
]


class SweepView(OwnedView):
    """A sweep as lists show it."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["sweep_01kb4y7v3m2q8d5n6c9t0r1x2z"])
    name: str
    state: SweepState = Field(
        description="From the states of its runs; paused: all that haven't ended are; incomplete: some were cancelled or deleted "
        "one by one."
    )
    experiment: str = Field(description="The experiment that asked for it; empty: none.")
    num_variants: int
    counts: dict[str, int] = Field(description="Runs that you may see, by state; a variant whose run was deleted isn't counted.")
    num_deleted: int
    num_private: int = Field(description="Runs that were made private one by one, of which others are told nothing.")
    created_at: datetime
    stopped_at: datetime | None


class RaisedFindingView(BaseModel):
    name: str
    severity: str
    title: str


class VariantView(BaseModel):
    """One variant and what its run came to."""

    variant: int
    label: str = Field(examples=["λ 0.3, batch_size 8"])
    changes: dict[str, Any] = Field(description="What differs from the recipe, by dotted path; or the baseline's name.")
    run_id: str | None
    state: str = Field(description="The run's state; deleted; or private: to its owner and admins, so that nothing else is told.")
    best: bool = Field(description="It ends with the largest reward gain within the KL budget.")
    metrics: dict[str, float | None] = Field(
        description="eval/…: of the newest evaluation. weight/… and tokens_per_second: means over the newest 50 steps."
    )
    findings: list[RaisedFindingView]
    seconds: float | None = Field(description="That workers spent on it.")
    scores_from_cache: bool | None = Field(description="Its scores were there already; null before they are whole.")


class FrontierPointView(BaseModel):
    """One evaluation of one variant's run."""

    variant: int
    step: int
    kl: float
    reward_gain: float
    on_front: bool = Field(description="No other evaluation of the sweep has more reward for no more KL.")


class EstimateView(BaseModel):
    """A figure with its 95 % interval; null where one prompt can't tell."""

    model_config = ConfigDict(from_attributes=True)

    value: float
    low: float | None
    high: float | None


class RivalView(BaseModel):
    """The best against other variants, prompt by prompt, on the test prompts that both have answered."""

    variants: list[int] = Field(description="One, or several that differ in seeds only: then their mean on each prompt counts.")
    num_prompts: int
    gain: EstimateView = Field(description="How much more reward the best gets on the same prompt, in the mean.")
    win_rate: EstimateView = Field(description="Share of the prompts where the best gets more; ties count half.")
    told_apart: bool = Field(description="The interval of the gain excludes 0, and an exchange test says 5 % or less.")
    needed_prompts: int | None = Field(description="To tell a difference of this size from none in four of five cases.")


class SpreadView(BaseModel):
    """Mean and standard deviation over seeds."""

    model_config = ConfigDict(from_attributes=True)

    mean: float
    deviation: float
    num: int = Field(description="Of how many seeds: those that have the figure.")


class SeedGroupView(BaseModel):
    """Variants that differ in seeds only; a figure is null where fewer than two of them have it."""

    model_config = ConfigDict(from_attributes=True)

    label: str
    variants: list[int]
    gain: SpreadView | None = Field(description="Of the last evaluations on the validation prompts.")
    kl: SpreadView | None
    test_gain: SpreadView | None
    test_win_rate: SpreadView | None


class CostView(BaseModel):
    """What it took a variant to its first evaluation with the target gain; nulls where it never got there."""

    model_config = ConfigDict(from_attributes=True)

    variant: int = Field(description="Its number among the sweep's variants.")
    step: int | None = Field(description="The step of that evaluation.")
    tokens: float | None = Field(description="Trained on, and drawn as fresh responses.")
    seconds: float | None = Field(description="Of scoring, fresh responses and steps; without evaluations and scores found.")


class SettingView(BaseModel):
    """Runs that differ in seeds only; figures are null where none of them has one yet."""

    label: str = Field(description="The setting, as pages name it.", examples=["λ 0.3"])
    changes: Mapping[str, Any] = Field(description="What differs from the recipe, by dotted path, seeds left out.")
    gain: EstimateView | None = Field(description="Reward over the reference on the test prompts.")
    kl: EstimateView | None = Field(
        description="Distance from the reference in nats on the test prompts, else on the validation prompts, then over seeds."
    )


class OutcomeView(BaseModel):
    """What came of an experiment."""

    experiment: str = Field(description="Its name in `GET /experiments`.")
    state: Literal["waiting", "expected", "unexpected", "undecided"] = Field(
        description="waiting: not all runs have ended; undecided: these runs don't tell, being too few prompts, or having failed."
    )
    sentences: list[str] = Field(description="What was compared, with its figures, and what was left out; each a sentence.")
    settings: list[SettingView] = Field(description="What the experiment varies, side by side.")
    over: Literal["seeds", "prompts"] = Field(description="What the intervals of the gains are over.")


class SweepDetail(SweepView):
    """A sweep with its table and its frontier."""

    request: dict[str, Any] = Field(description="What was asked for: recipe, lambda, fields, baselines.")
    kl_budget: float | None
    outcome: OutcomeView | None = Field(description="What came of its experiment; null for a sweep that is none.")
    variants: list[VariantView]
    frontier: list[FrontierPointView] = Field(description="Every evaluation of every run, by variant and step.")
    best: FrontierPointView | None = Field(
        description="The last evaluation with the largest gain on the validation prompts, within the KL budget. Of variants "
        "that differ in seeds only the means count, and the one in their middle stands for them."
    )
    chosen_gain: float | None = Field(description="The gain on the validation prompts by which the best was chosen.")
    test_gain: float | None = Field(
        description="Its gain on the test prompts, which chose nothing; null until its runs have ended."
    )
    rivals: list[RivalView] = Field(
        description="The best against each of the others; those whose rewards have another judge left out."
    )
    not_told_apart: list[int] = Field(description="Variants that the test prompts don't tell apart from the best.")
    seeds: list[SeedGroupView] = Field(description="Means over seeds, where the sweep has several.")
    target_gain: float | None = Field(description="The gain that the costs are compared at.")
    costs: list[CostView] = Field(description="What each variant needed for it, the fewest tokens first.")
    earlier: FrontierPointView | None = Field(
        description="An evaluation on the way that gained more than any variant ends with; the runs' models are others."
    )


class Addition(BaseModel):
    """More variants. What isn't given of lambda and fields is as it was asked for at first."""

    model_config = ConfigDict(extra="forbid")

    lambdas: list[Positive] = Field([], alias="lambda", max_length=40, description="Further temperatures λ > 0.")
    fields: Annotated[Settings, Field(description="Further settings by dotted path, each with its values.")] = {}
    baselines: Annotated[Baselines, Field(description=f"Of {', '.join(BASELINES)}: one more run each.")] = []


RECIPE = {
    "dataset": "data_01kb4y7v3m2q8d5n6c9t0r1x2z",
    "policy": {"model": "model_01kb4y7v3m2q8d5n6c9t0r1x2z"},
    "reward": {"source": "model", "model": "model_01kb4y7v3m2q8d5n6c9t0r1x30"},
    "weights": {"lambda": 0.3},
}
EXAMPLES: dict[str, Any] = {
    "lambda": {
        "summary": "Four temperatures beside DPO and SFT",
        "value": {"name": "λ", "recipe": RECIPE, "lambda": [0.1, 0.3, 1, 3], "baselines": ["dpo", "sft_chosen"]},
    },
    "noise": {
        "summary": "Label noise, for rewards from the preference: flip a share of the labels",
        "value": {
            "recipe": {**RECIPE, "reward": {"source": "preference"}},
            "fields": {"noise.label_flip_share": [0, 0.1, 0.2, 0.4]},
        },
    },
    "grid": {
        "summary": "Presets times batch sizes",
        "value": {"recipe": RECIPE, "fields": {"weights.preset": ["paper", "within_prompt"], "training.batch_size": [2, 8]}},
    },
}
MORE = {"more": {"summary": "Two more temperatures", "value": {"lambda": [0.03, 10]}}}


@router.post("", status_code=202, operation_id="launch_sweep", summary="Launch a sweep")
def launch_sweep(
    request: Annotated[SweepRequest, Body(openapi_examples=EXAMPLES)],
    session: WriteSession,
    user: CurrentUser,
    response: Response,
    idempotency_key: IdempotencyKey = None,
    private: Private = False,
) -> SweepView:
    """Queues a run for every combination of λ and fields, and for every baseline; all of them, or none when one is at fault."""
    sweep = service.launch(session, user.id, request, idempotency_key=idempotency_key, private=private)
    response.headers["location"] = f"/api/v1/sweeps/{sweep.id}"
    return show(session, user.id, sweep)


def show(session: Session, user_id: str, sweep: Sweep) -> SweepView:
    session.flush()
    return SweepView.model_validate(store.describe_sweep(session, user_id, sweep))


@router.get("", operation_id="list_sweeps", summary="List sweeps")
def list_sweeps(
    session: ReadSession, user: CurrentUser, mine: Mine = False, after: After = None, limit: Limit = 50
) -> Page[SweepView]:
    """Newest first, all that you may see."""
    rows = store.list_sweeps(session, user.id, mine=mine, after=after, limit=limit + 1)
    return to_page(rows, limit, SweepView.model_validate, lambda row: row.id)


@router.get("/{sweep_id}", operation_id="get_sweep", summary="Get a sweep with its results")
def get_sweep(
    session: ReadSession, user: CurrentUser, sweep_id: str, kl_budget: KlBudget = None, target_gain: TargetGain = None
) -> SweepDetail:
    """The table of its variants, every evaluation of every run, which is best, and what a gain has cost."""
    sweep = store.get_sweep(session, user.id, sweep_id)
    comparison = compare(session, sweep, user.id, kl_budget, target_gain)
    return show_detail(sweep, comparison, judge(session, sweep, comparison))


def show_detail(sweep: Sweep, comparison: SweepComparison, outcome: ExperimentResult | None) -> SweepDetail:
    variants = [
        VariantView(
            variant=result.variant,
            label=result.label,
            changes=result.changes,
            run_id=result.run.id if result.run else None,
            state=result.run.told_state if result.run else "private" if result.private else "deleted",
            best=comparison.best is not None and comparison.best.variant == result.variant,
            metrics=result.metrics,
            findings=[RaisedFindingView(**asdict(finding)) for finding in result.findings],
            seconds=result.seconds,
            scores_from_cache=result.from_cache,
        )
        for result in comparison.results
    ]
    points = {
        point: FrontierPointView(
            variant=point.variant, step=point.step, kl=point.kl, reward_gain=point.gain, on_front=point in comparison.front
        )
        for point in comparison.points
    }
    return SweepDetail(
        **SweepView.model_validate(comparison.row).model_dump(),
        request=sweep.request,
        kl_budget=comparison.kl_budget,
        outcome=show_outcome(outcome),
        variants=variants,
        frontier=list(points.values()),
        best=points[comparison.best] if comparison.best else None,
        chosen_gain=comparison.chosen_gain,
        test_gain=comparison.test_gain,
        rivals=[show_rival(rival) for rival in comparison.rivals],
        not_told_apart=comparison.peers,
        target_gain=comparison.target,
        costs=[CostView.model_validate(cost) for cost in comparison.costs],
        seeds=[SeedGroupView.model_validate(group) for group in comparison.seeds],
        earlier=points[comparison.earlier] if comparison.earlier else None,
    )


def show_outcome(result: ExperimentResult | None) -> OutcomeView | None:
    if result is None:
        return None
    settings = [
        SettingView(
            label=one.label,
            changes=one.changes,
            gain=EstimateView.model_validate(one.gain) if one.gain else None,
            kl=EstimateView.model_validate(one.kl) if one.kl else None,
        )
        for one in result.settings
    ]
    return OutcomeView(
        experiment=result.experiment.name,
        state=result.outcome.state,
        sentences=list(result.outcome.sentences),
        settings=settings,
        over="seeds" if result.is_over_seeds else "prompts",
    )


def show_rival(rival: Rival) -> RivalView:
    found = rival.comparison
    return RivalView(
        variants=list(rival.variants),
        num_prompts=found.num_prompts,
        gain=EstimateView.model_validate(found.gain),
        win_rate=EstimateView.model_validate(found.win_rate),
        told_apart=found.told_apart,
        needed_prompts=found.needed_prompts,
    )


@router.post("/{sweep_id}/variants", status_code=202, operation_id="add_variants", summary="Add variants to a sweep")
def add_variants(
    sweep_id: str, addition: Annotated[Addition, Body(openapi_examples=MORE)], session: WriteSession, user: CurrentUser
) -> SweepView:
    """Queues runs for the variants that aren't in the sweep yet. 409 when all are."""
    sweep = service.add_variants(
        session, user.id, sweep_id, lambdas=addition.lambdas, fields=addition.fields, baselines=addition.baselines
    )
    return show(session, user.id, sweep)


@router.post("/{sweep_id}/stop", status_code=202, operation_id="stop_sweep", summary="Stop a sweep")
def stop_sweep(session: WriteSession, user: CurrentUser, sweep_id: str) -> SweepView:
    """Cancels every run that hasn't ended. 409 when all have."""
    return show(session, user.id, service.stop(session, user.id, sweep_id))


@router.post("/{sweep_id}/resume", status_code=202, operation_id="resume_sweep", summary="Resume what a sweep is missing")
def resume_sweep(session: WriteSession, user: CurrentUser, sweep_id: str) -> SweepView:
    """Queues failed and cancelled runs again, from their checkpoints, and deleted ones anew; what succeeded stays."""
    return show(session, user.id, service.resume(session, user.id, sweep_id))


@router.patch("/{sweep_id}", operation_id="change_sweep", summary="Rename a sweep, make it private, or share it")
def change_sweep(session: WriteSession, user: CurrentUser, sweep_id: str, body: ChangeBody) -> SweepView:
    """Its runs keep their names; they are private or shared as the sweep is."""
    return show(session, user.id, change(session, user.id, Sweep, sweep_id, body))


@router.delete("/{sweep_id}", status_code=204, operation_id="delete_sweep", summary="Delete a sweep with its runs")
def delete_sweep(session: WriteSession, files: CurrentFiles, user: CurrentUser, sweep_id: str) -> None:
    """Removes the sweep, its runs, their events and their files. 409 while a run goes on."""
    service.delete(session, files, user.id, sweep_id)
