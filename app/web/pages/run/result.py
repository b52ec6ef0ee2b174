"""What leads a run's page: the verdict, its three figures, two samples; of a run that failed the end of its log.

The first paint and the live page take it from here alike: the page's script asks for it again when there is more to tell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import Session

from app.domain.events import EvaluationLogged, FinalLogged
from app.domain.run import RunKind, RunState
from app.domain.statistics.final import FinalFigure, pick_leading, write_final, write_size
from app.domain.statistics.verdict import Verdict, tell_verdict
from app.store import journal
from app.store import runs as store
from app.store.tables import JournalEntry, Run
from app.system.numbers import count, counted
from app.web.dependencies import CurrentUser, ReadSession
from app.web.pages.run.status import progress_text, reason_for
from app.web.pages.run.stream import Shown, show
from app.web.rendering.environment import Context, render

router = APIRouter()

TAIL_LINES = 30
SUCCEEDED, FAILED = RunState.SUCCEEDED, RunState.FAILED


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """`basis`: what the figures are of; `log_tail`: of a run that failed, the runner's last words."""

    seq: int
    state: str
    run_id: str
    tone: str
    headline: str
    text: str
    basis: str = ""
    figures: list[FinalFigure] = field(default_factory=list)
    samples: list[Shown] = field(default_factory=list)
    log_tail: str = ""
    next_name: str = ""  # of what follows: the recipe that a run was fine-tuned for, once it has a model


@dataclass(frozen=True, kw_only=True)
class ResultPart(Context):
    template = "runs/_result_part.html"

    result: RunResult


@router.get("/runs/{run_id}/result")
def show_result(request: Request, session: ReadSession, user: CurrentUser, run_id: str) -> HTMLResponse:
    """The head of the overview, for the page to take in."""
    run = store.get_run(session, user.id, run_id)
    return render(request, ResultPart(result=result_of(session, run)))


def result_of(session: Session, run: Run) -> RunResult:
    """Return what a run has come to so far."""
    final, evaluation = journal.latest(session, run.id, "final"), journal.latest(session, run.id, "evaluation")
    if final is not None:
        verdict, basis, figures = read_final(FinalLogged.model_validate(final.payload))
    elif evaluation is not None:
        verdict, basis, figures = read_evaluation(EvaluationLogged.model_validate(evaluation.payload))
    else:
        verdict, basis, figures = None, "", []
    if run.state == FAILED and final is None:
        verdict = Verdict("bad", "The run failed", tell_failure(run, figures))
    verdict = verdict or tell_wait(run)
    return RunResult(
        seq=run.last_seq,
        state=run.told_state,
        run_id=run.id,
        tone=verdict.tone,
        headline=verdict.headline,
        text=f"{verdict.text}{tell_kept_model(session, run)}{tell_findings(session, run)}",
        basis=basis,
        figures=figures,
        samples=pick_samples(session, run.id),
        log_tail=tail_of(run),
        next_name=(run.next_recipe or {}).get("name", "") if run.state == SUCCEEDED else "",
    )


def read_final(event: FinalLogged) -> tuple[Verdict | None, str, list[FinalFigure]]:
    """Return verdict, basis and figures of the test set."""
    pairs = [(prompt.policy_reward, prompt.reference_reward) for prompt in event.prompts]
    basis = f"Of {write_size(event.metrics)}, which nothing read before the end."
    return tell_verdict(event.metrics, "test", pairs), basis, pick_leading(write_final(event.metrics))


def read_evaluation(event: EvaluationLogged) -> tuple[Verdict | None, str, list[FinalFigure]]:
    """Return verdict, basis and figures of the validation set, on the way."""
    verdict = tell_verdict(event.metrics, "eval")
    so_far = verdict._replace(headline=f"So far: {verdict.headline[0].lower()}{verdict.headline[1:]}") if verdict else None
    basis = f"Of the validation set at step {count(event.step)}. The test set is read once, at the end."
    return so_far, basis, pick_leading(write_final(event.metrics, "eval"))


def tell_wait(run: Run) -> Verdict:
    """Return why there is no verdict."""
    if run.kind == RunKind.SCORING:
        done = run.state == SUCCEEDED
        text = "Its scores are kept for all runs that need them." if done else f"{progress_text(run)}."
        return Verdict("good" if done else "open", "The scores are there" if done else "Log π_ref and rewards are computed", text)
    why = reason_for(["eval/loss"], run)
    if run.state == SUCCEEDED:
        return Verdict("open", "Trained, and not compared", f"{why} So nothing says whether the policy improved.")
    if RunState(run.state).final:
        return Verdict("open", "There is no result", why)
    first = "The first evaluation says how the policy compares." if why.startswith("From the first") else why
    return Verdict("open", "No result yet", f"{progress_text(run)}. {first}")


def tell_failure(run: Run, figures: Sequence[FinalFigure]) -> str:
    at = f"at step {count(run.step)} of {count(run.num_steps)}" if run.step else "before its first step"
    rest = " The figures below are from before." if figures else ""
    return f"It ended {at}; the reason and what to do stand above, the runner's last words below.{rest}"


def tell_kept_model(session: Session, run: Run) -> str:
    """Return which model the run has left and why training ended, where that is told."""
    kept = journal.latest(session, run.id, "kept")
    return f" {kept.payload['text']}" if kept is not None else ""


def tell_findings(session: Session, run: Run) -> str:
    """Return a sentence on the findings that qualify the verdict."""
    entries = journal.read(session, run.id, limit=500, kinds=["finding"])
    grave = {entry.payload["title"]: None for entry in entries if entry.payload["severity"] != "info"}
    if not grave:
        return ""
    first = next(iter(grave))
    return f" {counted(len(grave), 'finding')} below may qualify it: “{first}”{' and others' if len(grave) > 1 else ''}."


def tail_of(run: Run) -> str:
    """Return the runner's last words, of a run that failed."""
    text = (run.error or {}).get("log_tail") or ""
    return "\n".join(text.splitlines()[-TAIL_LINES:]) if run.state == FAILED else ""


def pick_samples(session: Session, run_id: str) -> list[Shown]:
    """Return two samples of the newest evaluation: with rewards the largest gain and the largest loss, else the first two."""
    newest = journal.latest(session, run_id, "sample")
    if newest is None:
        return []
    drawn = journal.list_samples(session, run_id, int(newest.payload["step"]))
    gains = [(gain, at) for at, entry in enumerate(drawn) if (gain := gain_of(entry)) is not None]
    if len(gains) == len(drawn) > 1:
        drawn = [drawn[max(gains)[1]], drawn[min(gains)[1]]] if max(gains)[0] > min(gains)[0] else drawn
    return [show(one) for one in drawn[:2]]


def gain_of(entry: JournalEntry) -> float | None:
    """Return how much more reward the policy's answer has than the reference's."""
    policy, reference = entry.payload.get("policy_reward"), entry.payload.get("reference_reward")
    return None if policy is None or reference is None else float(policy) - float(reference)
