"""Plays the worker of scorings and previews: scores in made-up numbers, and answers previews as long as it is open."""

import math
import threading
from types import TracebackType
from typing import Any, Self

from app.domain.events import FindingRaised, OutcomeReached, ScoringKept
from app.domain.findings import raise_finding
from app.domain.metrics import WEIGHT_EDGES
from app.domain.preview.readings import AnyReading, ReadingJob
from app.domain.preview.weights import PreviewCell, PreviewJob, PreviewRequest, PreviewResponse, PreviewResult, Suggestion
from app.domain.run import Outcome
from app.domain.scoring import ScoringFacts
from app.services import attempts, previews
from tests.browser.reader import answer_reading
from tests.browser.studio import CURT, KIND, PROMPTS, WebStudio, Writer
from tests.scored import make_check, make_facts, make_part

REWARDS: dict[str, Any] = {
    "num_responses": 1216, "num_pairs": 608, "num_ties": 3, "accuracy": 0.83, "low": 0.8, "high": 0.86,
    "length_accuracy": 0.62, "length_low": 0.58, "length_high": 0.66, "mean": 0.31, "std": 1.24,
    "chosen_mean": 0.92, "rejected_mean": -0.3, "edges": [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0],
    "counts": [14, 95, 260, 402, 301, 118, 26],
}  # fmt: skip
INVERTED: dict[str, Any] = {
    **REWARDS,
    "accuracy": 0.21,
    "low": 0.18,
    "high": 0.24,
    "chosen_mean": -0.3,
    "rejected_mean": 0.9,
    "inverted": True,
}


def facts_of(check: dict[str, Any], number: int = 1) -> ScoringFacts:
    return make_facts(
        index_key=f"index-{number:04}",
        num_batches=76,
        num_examples=608,
        num_responses=1216,
        logprob=make_part(f"logprob-{number:04}", num_pairs=9728, num_scored=9728),
        reward=make_part(f"reward-{number:04}", num_pairs=9728, num_scored=9728),
        check=make_check(**check),
    )


def score(studio: WebStudio, run_id: str, check: dict[str, Any] = REWARDS) -> None:
    """Do the run that makes a scoring, from its claim to its end."""
    writer = Writer(studio)
    writer.begin(run_id)
    writer.say(
        {"kind": "stage", "stage": "prepare", "total": 640, "unit": "examples"},
        {"kind": "stage", "stage": "score", "total": 76, "unit": "batches"},
        {"kind": "progress", "stage": "score", "done": 31, "total": 76},
    )
    finish(writer, check)


def finish(writer: Writer, check: dict[str, Any] = REWARDS) -> None:
    number = int(writer.run_id[-4:], 36)
    writer.say(ScoringKept(scoring=facts_of(check, number)))
    with writer.studio.database.writing() as session:
        attempts.finish(session, writer.run_id, writer.token, OutcomeReached(outcome=Outcome.SUCCEEDED))


class Previewer:
    """A worker that answers previews, in a thread, while the `with` block lasts."""

    def __init__(self, studio: WebStudio, check: dict[str, Any] = REWARDS) -> None:
        self.studio, self.check = studio, check
        self.asked: list[PreviewRequest] = []
        self.read: list[ReadingJob] = []
        self.leaving = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leaving.set()
        self.thread.join(10)

    def work(self) -> None:
        while not self.leaving.wait(0.05):
            with self.studio.database.writing() as session:
                claim = previews.begin(session, self.studio.files, "gpu-box-1", 30)
                if claim is not None:
                    previews.finish(session, claim.preview_id, "gpu-box-1", self.answer(claim.job))

    def answer(self, job: PreviewJob | ReadingJob) -> PreviewResult | AnyReading:
        if isinstance(job, ReadingJob):
            self.read.append(job)
            return answer_reading(job)
        request = PreviewRequest.model_validate(job.request)
        self.asked.append(request)
        sizes = request.batch_sizes or [job.batch_size]
        places = [(preset, size) for preset in request.presets for size in sizes]
        check = make_check(**self.check)
        return PreviewResult(
            cells=[make_cell(preset, size, value) for preset, size in places for value in request.lambdas],
            suggestions=[
                Suggestion(preset=preset, batch_size=size, target_ess=request.target_ess, lambda_=0.4273)
                for preset, size in places
            ],
            check=check,
            findings=[raise_finding("inverted_rewards", "They do.")] if check.inverted else [],
            num_batches=76,
            num_responses=1216,
            seconds=0.21,
        )


def make_cell(preset: Any, batch_size: int, value: float) -> PreviewCell:
    """Weights that gather on fewer responses as λ falls."""
    share = 1 / (1 + 0.25 / value)
    spread = 2.2 / (1 + 2 * value)
    counts = [0] * (len(WEIGHT_EDGES) + 1)
    for place in range(1216):
        weight = math.exp(spread * (2 * place / 1216 - 1.1) * 2)
        counts[sum(weight >= edge for edge in WEIGHT_EDGES)] += 1
    metrics = {
        "weight/ess_share": share,
        "weight/share_chosen": 0.5 + 0.45 * (1 - share),
        "weight/share_rejected": 0.5 - 0.45 * (1 - share),
        "weight/spearman_reward": 0.9 - 0.2 * share,
        "weight/spearman_length": -0.05,
        "weight/share_above": 0.02,
        "weight/share_below": 0.4 * (1 - share),
    }
    found: list[FindingRaised] = []
    if share < 0.2:
        found.append(raise_finding("weight_collapse", f"The effective sample size is {share:.2f} of the batch, below 0.2."))
    responses = [
        PreviewResponse(
            example_id=place, response=place % 2, preference=1 - 2 * (place % 2), num_tokens=40, reward=2.0 - place,
            weight=3.0 / (1 + place), prompt=PROMPTS[place % 3], content=CURT if place % 2 else KIND,
        )
        for place in range(10)
    ]  # fmt: skip
    return PreviewCell(
        preset=preset, lambda_=value, batch_size=batch_size, metrics=metrics, histogram=counts, findings=found,
        prompt_ess_share=0.3 + 0.6 * share, partner_share=None if preset == "paper" else 0.2 * (1 - share),
        partition_error=0.3 / value if preset == "draws" else None, draws_needed=144 if preset == "draws" else None,
        heaviest=responses, lightest=responses[::-1],
    )  # fmt: skip
