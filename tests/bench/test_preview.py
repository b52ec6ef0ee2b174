"""What a preview and the weights of a sweep cost from kept scores: `make bench ARGS=tests/bench/test_preview.py`.

Made-up scores of preference pairs in batches of 8, texts of some 1200 characters; one thread, processor seconds of one process,
median of the rounds. A preview is measured as the warm previewing process computes it: a line of JSON in, a line out.
"""

import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.domain.preview.weights import PreviewJob, PreviewResult
from tests.worker.kept_scoring import draw_examples, draw_scores, keep_scoring, make_plan, own_prompts, write_dataset
from worker.preview.__main__ import answer
from worker.preview.scores import KeptScorings
from worker.stages.examples import Encoded
from worker.var.candidates import Candidates
from worker.var.lambdas import find_stacked_lambda, stack_alike
from worker.var.stacks import weigh
from worker.var.terms import make_terms
from worker.var.weights import WeightChoices, compute_weights

BATCH, ROUNDS, WORDS = 8, 3, 200
LAMBDAS = [0.03, 0.1, 0.3, 1.0, 3.0]
PRESETS = ["paper", "length_normalised", "within_prompt", "reward_weighted"]
GRIDS = {
    "5 λ × 1 preset × 1 batch size": {"lambda": LAMBDAS},
    "5 λ × 4 presets × 1 batch size": {"lambda": LAMBDAS, "presets": PRESETS},
    "5 λ × 4 presets × 3 batch sizes": {"lambda": LAMBDAS, "presets": PRESETS, "batch_sizes": [2, 4, 8]},
}
PREVIEW_GOAL, WEIGHTS_GOAL = 2.0, 0.5  # seconds
NUM_PAIRS = 170_000  # prompt-response pairs of the sweep: 1328 batches of 8 × 16

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]


def seconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Median processor seconds, after one round that doesn't count."""
    taken = []
    for _ in range(rounds + 1):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return statistics.median(taken[1:])


def add_texts(examples: list[Encoded]) -> list[Encoded]:
    chance = random.Random(0)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 9))) for _ in range(5000)]
    return [
        replace(e, responses=tuple(replace(r, content=" ".join(chance.choices(words, k=WORDS))) for r in e.responses))
        for e in examples
    ]


def keep_pairs(folder: Path, num: int) -> PreviewJob:
    """A kept scoring of `num` preference pairs, with their texts."""
    examples = add_texts(draw_examples(num))
    batches = make_plan(examples, BATCH)
    return keep_scoring(folder, batches, *draw_scores(batches), dataset=write_dataset(folder / "examples.parquet", examples))


def ask(job: PreviewJob, kept: KeptScorings, request: dict) -> PreviewResult:
    line = job.model_copy(update={"request": request}).model_dump_json().encode()
    reply = json.loads(json.dumps(answer(line, kept)))
    result = PreviewResult.model_validate(reply["result"])
    assert all(shown.content for cell in result.cells for shown in (*cell.heaviest, *cell.lightest))
    return result


def test_a_preview_of_50_000_pairs_takes_less_than_two_seconds(tmp_path):
    torch.set_num_threads(1)
    job, kept = keep_pairs(tmp_path, 50_000), KeptScorings()
    start = time.process_time()
    ask(job, kept, GRIDS["5 λ × 1 preset × 1 batch size"])
    first = time.process_time() - start
    taken = {name: seconds(lambda request=request: ask(job, kept, request)) for name, request in GRIDS.items()}
    print("\n\n50 000 preference pairs, batches of 8 prompts × 16 responses, 20 texts a cell, one thread")
    print(f"{'preview':<34}{'goal, s':>8}{'seconds':>9}{'a cell':>9}")
    print(f"{'the first one of a scoring':<34}{'':>8}{first:>9.2f}{first / 5:>9.3f}")
    for (name, request), spent in zip(GRIDS.items(), taken.values(), strict=True):
        num = len(request["lambda"]) * len(request.get("presets", "1")) * len(request.get("batch_sizes", "1"))
        goal = PREVIEW_GOAL if num == 5 else ""
        print(f"{name:<34}{goal:>8}{spent:>9.2f}{spent / num:>9.3f}{'  missed' if goal and spent > goal else ''}")
    assert taken["5 λ × 1 preset × 1 batch size"] < PREVIEW_GOAL


def test_a_preview_grows_with_the_pairs(tmp_path):
    torch.set_num_threads(1)
    print(f"\n\n{'pairs':>8}{'preview of 5 λ, s':>20}{'µs a pair':>12}")
    for num in (1_000, 10_000, 100_000):
        job, kept = keep_pairs(tmp_path / str(num), num), KeptScorings()
        spent = seconds(lambda job=job, kept=kept: ask(job, kept, {"lambda": LAMBDAS}))
        print(f"{num:>8}{spent:>20.2f}{spent / num * 1e6:>12.1f}")


def test_the_weights_of_a_sweep_are_nearly_free():
    torch.set_num_threads(1)
    num = NUM_PAIRS // (BATCH * 2 * BATCH) + 1
    plan = make_plan(draw_examples(num * BATCH), BATCH)
    batches = [
        Candidates(own_prompts(batch), logprob_BM, torch.tensor([len(r.ids) for e in batch for r in e.responses]), reward_BM)
        for batch, logprob_BM, reward_BM in zip(plan, *draw_scores(plan), strict=True)
    ]
    lambdas = [0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
    choices = WeightChoices()

    def stacked() -> list[torch.Tensor]:
        terms = [make_terms(part, choices) for part in stack_alike(batches)]
        return [weigh(part, lambda_).weight_SM for lambda_ in lambdas for part in terms]

    def one_by_one() -> list[torch.Tensor]:
        return [compute_weights(batch, replace(choices, lambda_=lambda_)) for lambda_ in lambdas for batch in batches]

    rows = {
        "weights, stacked": (stacked, WEIGHTS_GOAL),
        "weights, batch by batch": (one_by_one, None),
        "λ for half the batch, over all of them": (lambda: find_stacked_lambda(stack_alike(batches), choices, 0.5), None),
    }
    print(f"\n\n{num * BATCH * 2 * BATCH} prompt-response pairs in {num} batches, {len(lambdas)} λ, one thread")
    print(f"{'from kept scores':<40}{'goal, s':>8}{'seconds':>9}")
    taken = {}
    for name, (work, goal) in rows.items():
        taken[name] = seconds(work)
        print(f"{name:<40}{goal or '':>8}{taken[name]:>9.3f}{'  missed' if goal and taken[name] > goal else ''}")
    assert taken["weights, stacked"] < WEIGHTS_GOAL
