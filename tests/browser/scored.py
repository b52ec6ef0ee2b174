"""Scorings for the browser: facts and previews as a worker would make them, drawn by chance but alike each time."""

import math
import random
import threading
import time
from typing import Any

from app.domain.findings import diagnose_step
from app.domain.preview import PreviewCell, PreviewRequest, PreviewResponse, PreviewResult, Suggestion
from app.services import previews, scorings
from tests.browser.studio import CURT, KIND, PROMPTS, WebStudio, histogram
from tests.scored import make_check, make_facts, make_part

CHECK = make_check(
    num_responses=1280, num_pairs=640, num_ties=4, accuracy=0.83, low=0.80, high=0.857, length_accuracy=0.58, length_low=0.54,
    length_high=0.62, mean=0.21, std=1.32, edges=[round(-4 + 0.4 * place, 1) for place in range(21)],
    counts=[1, 4, 9, 22, 45, 80, 110, 121, 104, 82, 74, 88, 118, 134, 120, 84, 48, 24, 9, 3],
)  # fmt: skip


def make_scoring(studio: WebStudio, *, batch_size: int = 8, **facts: Any) -> str:
    """A scoring that is ready, its run given up."""
    logprob = make_part("logprob-5f0c1b7a", num_pairs=10240, num_scored=10240, size_bytes=40960, seconds=41.2)
    reward = make_part("reward-91be77d0", backend="", num_pairs=10240, num_scored=10240, size_bytes=40960, seconds=37.9,
                       miss_reason="The nearest scoring there is was made with another reward model.")  # fmt: skip
    parts = {"num_batches": 80, "num_examples": 640, "num_responses": 1280, "logprob": logprob, "reward": reward, "check": CHECK}
    with studio.database.writing() as session:
        scoring = scorings.request(session, studio.user.id, studio.recipe(training={"batch_size": batch_size}))
        scoring.facts = make_facts(**{**parts, **facts}).model_dump(mode="json")
        scoring.run_id = None
        return scoring.id


def preview(request: PreviewRequest) -> PreviewResult:
    """Weights that sharpen as λ falls."""
    sizes = request.batch_sizes or [8]
    target, is_found = request.target_ess, request.target_ess > 0.2
    reason = "" if is_found else "even the smallest λ spreads the weight over 0.3 of the batch."
    cells = [make_cell(preset, lambda_, size) for size in sizes for preset in request.presets for lambda_ in request.lambdas]
    suggestions = [
        Suggestion(preset=preset, batch_size=size, target_ess=target, lambda_=0.4213 if is_found else None, reason=reason)
        for size in sizes for preset in request.presets
    ]  # fmt: skip
    return PreviewResult(
        cells=cells, suggestions=suggestions, check=CHECK, findings=[], num_batches=80, num_responses=1280, seconds=0.214
    )


def make_cell(preset: str, lambda_: float, size: int) -> PreviewCell:
    chance = random.Random(f"{preset} {lambda_} {size}")
    spread = 0.5 / lambda_**0.5
    weights = [math.exp(chance.gauss(0, spread)) for _ in range(1280)]
    mean = sum(weights) / len(weights)
    weights = [min(weight / mean, 2.0 * size) for weight in weights]
    share = sum(weights) ** 2 / sum(w * w for w in weights) / len(weights)
    chosen = 0.5 + 0.45 * math.exp(-lambda_)
    metrics = {
        "weight/ess": share * 2 * size, "weight/ess_share": share,
        "weight/share_chosen": chosen, "weight/share_rejected": 1 - chosen,
        "weight/spearman_reward": 0.2 + 0.7 * math.exp(-lambda_), "weight/spearman_length": -0.62 if preset == "paper" else -0.08,
        "weight/mean": 1.0, "weight/std": spread, "weight/largest_exponent": 4 / lambda_,
    }  # fmt: skip
    heaviest = [make_response(chance, 9.0 / (1 + rank), 1) for rank in range(10)]
    lightest = [make_response(chance, 1e-6 * (1 + rank), -1) for rank in range(10)]
    return PreviewCell(
        preset=preset, lambda_=lambda_, batch_size=size, metrics=metrics, histogram=histogram(weights),
        findings=diagnose_step(metrics), heaviest=heaviest, lightest=lightest,
    )  # fmt: skip


def make_response(chance: random.Random, weight: float, preference: int) -> PreviewResponse:
    return PreviewResponse(
        example_id=chance.randrange(640), response=int(preference < 0), preference=preference,
        num_tokens=chance.randrange(12, 90),
        reward=preference * chance.uniform(0.2, 2.5), weight=weight, prompt=chance.choice(PROMPTS),
        content=KIND if preference > 0 else CURT,
    )  # fmt: skip


class PreviewWorker:
    """Answers previews while the block lasts."""

    def __init__(self, studio: WebStudio) -> None:
        self.studio = studio
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.work)

    def __enter__(self) -> "PreviewWorker":
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.over.set()
        self.thread.join()

    def work(self) -> None:
        while not self.over.is_set():
            with self.studio.database.writing() as session:
                claim = previews.begin(session, self.studio.files, "test", 30)
                if claim is not None:
                    result = preview(PreviewRequest.model_validate(claim.job.request))
                    previews.finish(session, claim.preview_id, "test", result)
            time.sleep(0.03)
