"""Where a run stands, in words: its stages, its progress, its earlier attempts, and why a chart or a value is still empty.

The first paint and the live page take it from here alike: the page's script asks for it again when the state or stage changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session

from app.domain.recipe import Method
from app.domain.run import STAGES, RunKind, RunState, Stage
from app.domain.training.methods import ON_GROUPS, ON_PAIRS
from app.store import journal
from app.store import runs as store
from app.store.sharing import find_visible
from app.store.tables import Attempt, Run, Scoring, Sweep
from app.system.numbers import count
from app.web.dependencies import CurrentUser, ReadSession
from app.web.pages.run.charts import JUDGED, OF_PREFERENCES, Chart
from app.web.pages.run.layout import TILES, Section, leading_charts, sections_of
from app.web.rendering.environment import Context, render
from app.web.rendering.format import duration, percent

router = APIRouter()

ENDINGS = {"lost": "was lost", "failed": "failed", "interrupted": "was interrupted", "cancelled": "was cancelled"}
STAGE_TEXTS = {
    Stage.PREPARE: "Tokens and batches", Stage.SCORE: "Log π_ref and rewards", Stage.DRAW: "Answers of π_ref, for Z(x)",
    Stage.EVALUATE: "Held-out generations",
}  # fmt: skip
TRAINING_TEXTS = {
    Method.VAR: "Weighted fine-tuning",
    Method.SFT: "Plain fine-tuning",
    **dict.fromkeys((*ON_PAIRS, Method.KTO), "Preference optimisation"),
    **dict.fromkeys(ON_GROUPS, "Learning from fresh responses"),
    Method.REWARD_MODEL: "Bradley-Terry on the pairs",
}
WITHOUT_SCORES = (Method.SFT, Method.SIMPO, Method.ORPO, *ON_GROUPS, Method.REWARD_MODEL)
MARK_TEXTS = {"failed": "Failed here", "stopped": "Stopped here", "skipped": "Nothing is held out"}


@dataclass(frozen=True)
class RunStatus:
    """`tone` colours the bar; `reasons` says for a chart's id or a metric's key why there is nothing to show."""

    seq: int
    stages: list[tuple[str, str, str]]  # name, mark, text
    text: str
    time: str
    share: float
    tone: str
    num_steps: int
    attempt_text: str
    reasons: dict[str, str]
    links: list[tuple[str, str, str]]  # what it is, address, name: the scores it used, the sweep it belongs to


@dataclass(frozen=True, kw_only=True)
class StandingPart(Context):
    template = "runs/_standing.html"

    standing: RunStatus


@router.get("/runs/{run_id}/standing")
def show_standing(request: Request, session: ReadSession, user: CurrentUser, run_id: str) -> HTMLResponse:
    """The card of stages and progress, for the page to take in."""
    standing = standing_of(session, user.id, store.get_run(session, user.id, run_id))
    return render(request, StandingPart(standing=standing))


def standing_of(session: Session, user_id: str, run: Run) -> RunStatus:
    is_evaluated = journal.latest(session, run.id, "evaluation") is not None
    return RunStatus(
        seq=run.last_seq,
        stages=[(str(stage), mark, MARK_TEXTS.get(mark) or text_of(stage, run)) for stage, mark in marks_of(run, is_evaluated)],
        text=progress_text(run),
        time=time_text(session, run),
        share=run.step / run.num_steps if counts_steps(run) else run.progress,
        tone={"succeeded": "done", "failed": "failed", "cancelled": "stopped"}.get(run.state, ""),
        num_steps=run.num_steps,
        attempt_text=attempt_text(run, store.list_attempts(session, run.id)),
        reasons=reasons_of(run),
        links=links_of(session, user_id, run),
    )


def method_of(run: Run) -> Method:
    """Return the method of its recipe; recipes older than the other methods don't name it."""
    return Method(run.recipe.get("method", Method.VAR))


def text_of(stage: Stage, run: Run) -> str:
    """Return what happens in a stage."""
    if stage is Stage.TRAIN:
        return TRAINING_TEXTS[method_of(run)]
    is_judged = stage is Stage.EVALUATE and method_of(run) is Method.REWARD_MODEL
    return "Held-out pairs" if is_judged else STAGE_TEXTS[stage]


def links_of(session: Session, user_id: str, run: Run) -> list[tuple[str, str, str]]:
    """Return the pages beside the run's own, of those that the user may see."""
    scoring = find_visible(session, Scoring, user_id, run.scoring_id) if run.scoring_id else None
    sweep = find_visible(session, Sweep, user_id, run.sweep_id) if run.sweep_id else None
    links = [("Scores", f"/scorings/{scoring.id}", scoring.name)] if scoring else []
    return links + ([("Sweep", f"/sweeps/{sweep.id}", sweep.name)] if sweep else [])


def stages_of(run: Run) -> list[Stage]:
    """Return the stages this run goes through, by its kind and its method."""
    stages = STAGES[RunKind(run.kind)]
    has_scores = run.kind != RunKind.TRAINING or method_of(run) not in WITHOUT_SCORES or run.stage == Stage.SCORE
    has_draws = (run.recipe.get("weights") or {}).get("partition_scope") == "draws" or run.stage == Stage.DRAW
    left_out = ({Stage.SCORE} if not has_scores else set()) | ({Stage.DRAW} if not has_draws else set())
    return [stage for stage in stages if stage not in left_out]


def marks_of(run: Run, is_evaluated: bool) -> list[tuple[Stage, str]]:
    """Return each stage as done, now, todo, failed, stopped or skipped."""
    stages = stages_of(run)
    here = stages.index(Stage(run.stage)) if run.stage else 0 if run.state == RunState.FAILED else -1
    at_here = {"running": "now", "succeeded": "done", "failed": "failed"}.get(run.state, "stopped")
    marks = ["done" if at < here or run.state == "succeeded" else at_here if at == here else "todo" for at in range(len(stages))]
    never = run.recipe["evaluation"]["share"] == 0 or (run.state == "succeeded" and not is_evaluated)
    if never and not is_evaluated and stages[-1] is Stage.EVALUATE and marks[-1] in ("done", "todo"):
        marks[-1] = "skipped"
    return list(zip(stages, marks, strict=True))


def counts_steps(run: Run) -> bool:
    """Return whether the bar counts optimizer steps rather than the stage's own units."""
    return run.num_steps > 0 and (run.stage in ("train", "evaluate") or run.state == "succeeded")


def progress_text(run: Run) -> str:
    if run.told_state == "paused":
        return "Goes on when it is released" if run.started_at else "Begins when it is released"
    if run.state == "queued":
        return "Waits for a worker"
    if counts_steps(run):
        return f"Step {count(run.step)} of {count(run.num_steps)}"
    if run.stage:
        return f"{run.stage.capitalize()} {percent(run.progress)}"
    if not RunState(run.state).final:
        return "Starting" if run.state == "running" else "Interrupted"
    return "Ended before its first stage" if run.started_at else "Never started"


def time_text(session: Session, run: Run) -> str:
    """Return how long it will take or has taken; what it waited, queued or paused, is no part of that."""
    if run.state == "running" and run.seconds_left is not None:
        return f"{duration(run.seconds_left)} left"
    if run.started_at and run.finished_at:
        return f"took {duration(store.sum_seconds(session, [run.id]).get(run.id, 0.0))}"
    return ""


def attempt_text(run: Run, attempts: Sequence[Attempt]) -> str:
    """From the second attempt on: which it is, and why the one before ended."""
    ended = [attempt for attempt in attempts if attempt.outcome in ENDINGS]
    before = [attempt for attempt in ended if attempt.number < run.attempt or not RunState(run.state).final]
    if not before:
        return ""
    last = before[-1]
    number = max(run.attempt, last.number + (not RunState(run.state).final and run.state != "running"))
    why = f": {last.reason}" if last.reason else ""
    return f"Attempt {number}. Attempt {last.number} {ENDINGS[last.outcome]}{why}{'' if why.endswith(('.', '!')) else '.'}"


def reasons_of(run: Run) -> dict[str, str]:
    """For each chart and each tile, why it is empty; what has values doesn't show it."""
    reasons = {chart.id: reason_for([line.key for line in chart.lines], run) for chart in shown_charts(run)}
    return reasons | {key: reason_for([key], run).partition(";")[0].removesuffix(".") for key in tile_keys(run)}


def tile_keys(run: Run) -> list[str]:
    return [tile.key for tile in TILES[method_of(run)]]


def shown_sections(run: Run) -> tuple[Section, ...]:
    """Return the charts of the run's page; a run that only scores has none."""
    if run.kind == RunKind.SCORING:
        return ()
    return sections_of(method_of(run), is_online=bool((run.recipe.get("online") or {}).get("every")))


def shown_leading(run: Run) -> tuple[Chart, ...]:
    """Return the charts of the overview."""
    if run.kind == RunKind.SCORING:
        return ()
    reward = run.recipe["reward"]
    return leading_charts(method_of(run), is_judged=bool(reward["model"] or reward["judge"]))


def shown_charts(run: Run) -> list[Chart]:
    """Return every chart of the run's page."""
    return [*shown_leading(run), *(chart for section in shown_sections(run) for chart in section.charts)]


def reason_for(keys: Sequence[str], run: Run) -> str:
    is_evaluation = bool(keys) and all(key.startswith("eval/") for key in keys)
    is_answer = is_evaluation and method_of(run) is not Method.REWARD_MODEL
    settings, reward = run.recipe["evaluation"], run.recipe["reward"]
    if is_evaluation and settings["share"] == 0:
        return "Nothing is held out (the held-out share is 0), so nothing is evaluated."
    if is_answer and settings["num_prompts"] == 0 and not set(keys) <= OF_PREFERENCES:
        return "No held-out prompts are answered in this run."
    if keys and set(keys) <= JUDGED and not (reward["model"] or reward["judge"]):
        why = (
            f"this run's rewards come from the {reward['source']}"
            if method_of(run) in (Method.VAR, *ON_GROUPS)
            else "this run has neither"
        )
        return f"Needs a reward model or a judge; {why}."
    if keys and set(keys) <= OF_PREFERENCES and run.state == RunState.SUCCEEDED:
        return "Needs held-out examples with a chosen and a rejected response; this run has none."
    what = "evaluation" if is_evaluation else "step"
    if RunState(run.state).final:
        return missing_at_end(run, what)
    return f"From the first {what} on."


def missing_at_end(run: Run, what: str) -> str:
    if what == "step" and run.step > 0:
        return "This run measured nothing of this kind."
    if run.state == "succeeded":
        return "Nothing was held out, so nothing was evaluated." if what == "evaluation" else "This run took no step."
    return f"The run ended before its first {what}."
