"""The presets against each other, through the product's own runner: `python -m tests.bench.presets OUT.jsonl WORLD...`.

A world is a folder with data and models, made by `python -m worker.demonstration WORLD --seed S`, or by tests.bench.presets_hh.
It holds preferences.jsonl, policy/ and reward/; judge/ is a second reward model that no run learns from. Where there is none,
the help desk's own score judges. The digits that a world's name ends in seed batches, held-out prompts and sampling: all cells
of a world share their prompts, batches and random numbers.

A cell is one run: world × method × λ × B × learning rate. Each finished one is a line of OUT.jsonl; a second call makes only what
is missing. `python -m tests.bench.presets_table OUT.jsonl` makes the tables.
"""

import argparse
import hashlib
import json
import math
import re
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from app.domain.jobs import ModelSource, RunSpec
from app.domain.recipe import Recipe
from app.ingest.ingest import ingest
from worker.demonstration.data import judge_answer
from worker.models.load import load_policy
from worker.models.prompts import PromptFormat
from worker.models.reward import RewardModel
from worker.runner import main as run_attempt
from worker.stages.examples import Lengths, prepare
from worker.stages.scoring.pairs import mark_pairs, score_pairs
from worker.var.ranks import average_ranks, spearman_of_ranks

PRESETS = ("paper", "length_normalised", "within_prompt", "reward_weighted")
# Equal weights are plain fine-tuning; the chosen half is read twice as often, so that every method sees as many responses.
EQUAL = {"preset": "reward_weighted", "lambda": 1e6}
BASELINES: dict[str, dict[str, Any]] = {"sft_all": EQUAL, "sft_chosen": {**EQUAL, "responses": "chosen"}}
NEVER = 10_000_000
STEP_METRICS = (
    "weight/ess_share", "weight/spearman_length", "weight/spearman_reward", "weight/share_chosen", "weight/max",
    "weight/share_above", "grad_norm",
)  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "helpdesk": {
        "tokens": {"max_prompt": 48, "max_response": 80}, "epochs": 2.0,
        "evaluation": {"share": 0.2, "num_prompts": 128, "max_new_tokens": 80},
    },
    "hh": {
        "tokens": {"max_prompt": 128, "max_response": 128}, "epochs": 2.0,
        "evaluation": {"share": 0.33, "num_prompts": 128, "max_new_tokens": 96},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run of the grid; `lambda_` is None for a baseline."""

    world: str
    method: str
    lambda_: float | None
    batch_size: int
    learning_rate: float

    @property
    def key(self) -> str:
        return "/".join(str(value) for value in asdict(self).values())


def list_cells(
    worlds: Sequence[Path], methods: Sequence[str], lambdas: Sequence[float], rates: dict[int, list[float]]
) -> Iterator[tuple[Path, Cell]]:
    """The grid; `rates` has the learning rates of every batch size. All worlds have the first rate before one has the next."""
    for number in range(max(map(len, rates.values()))):
        for world in worlds:
            for batch_size, tried in rates.items():
                for method in methods:
                    for lambda_ in (None,) if method in BASELINES else lambdas:
                        for rate in tried[number : number + 1]:
                            yield world, Cell(world.name, method, lambda_, batch_size, rate)


def run_cell(cell: Cell, world: Path, work: Path) -> dict[str, Any]:
    """Run the cell's recipe in the runner and measure what came out."""
    started = time.perf_counter()
    run_dir = work / "runs" / hashlib.sha256(cell.key.encode()).hexdigest()[:16]
    shutil.rmtree(run_dir, ignore_errors=True)
    attempt_dir = run_dir / "attempts" / "1"
    attempt_dir.mkdir(parents=True)
    answers = work / f"reference-{cell.world}.json"  # the untrained policy's answers are those of the world's other cells
    if answers.exists():
        (run_dir / "checkpoints").mkdir()
        shutil.copy(answers, run_dir / "checkpoints" / "reference.json")
    spec = write_spec(cell, world, work, run_dir)
    (attempt_dir / "spec.json").write_text(spec.model_dump_json(by_alias=True))
    if run_attempt([str(attempt_dir)]) != 0:
        raise SystemExit(f"{cell.key}: {(attempt_dir / 'events.jsonl').read_text().splitlines()[-1]}")
    shutil.copy(run_dir / "checkpoints" / "reference.json", answers)
    seconds = round(time.perf_counter() - started, 1)
    artifacts = run_dir / "artifacts"
    result = {**asdict(cell), **measure(artifacts), **judge(artifacts, world), "seconds": seconds}
    if kind_of(world) == "hh":
        result |= measure_shift(spec, artifacts / "model", world)
    samples = work / "samples" / f"{cell.key.replace('/', '_')}.jsonl"
    samples.parent.mkdir(exist_ok=True)
    shutil.move(artifacts / "samples.jsonl", samples)
    shutil.rmtree(run_dir)
    return result


def write_spec(cell: Cell, world: Path, work: Path, run_dir: Path) -> RunSpec:
    dataset = work / f"examples-{cell.world}.parquet"
    if not dataset.exists():
        ingest(world / "preferences.jsonl", dataset)
    return RunSpec(
        run_id=run_dir.name, attempt=1, recipe=write_recipe(cell, world), dataset_path=str(dataset), dataset_sha256="0" * 64,
        policy=folder(world / "policy"), reward=folder(world / "reward"), run_dir=str(run_dir),
        scorings_dir=str(work / "scorings"), hub_dir=str(work / "hub"), num_threads=1,
    )  # fmt: skip


def write_recipe(cell: Cell, world: Path) -> Recipe:
    """The preset as it is, but for z-scored rewards, without which λ would mean another thing in every world."""
    common = RECIPES[kind_of(world)]
    seed = int(re.findall(r"\d+$", cell.world)[0])
    weights = BASELINES.get(cell.method, {"preset": cell.method, "lambda": cell.lambda_})
    return Recipe.model_validate(
        {
            "dataset": "preferences", "policy": {"model": "policy"}, "reward": {"source": "model", "model": "reward"},
            "weights": {**weights, "reward_norm": "zscore"},
            "tokens": common["tokens"],
            "training": {
                "batch_size": cell.batch_size, "epochs": common["epochs"] * (2 if cell.method == "sft_chosen" else 1),
                "learning_rate": cell.learning_rate, "seed": seed, "checkpoint_every": NEVER, "keep_checkpoints": 1,
            },
            "evaluation": {**common["evaluation"], "every": NEVER, "num_samples_shown": 0, "seed": seed, "test_share": 0},
        }
    )  # fmt: skip


def kind_of(world: Path) -> str:
    return "hh" if (world / "judge").is_dir() else "helpdesk"


def folder(path: Path) -> ModelSource:
    return ModelSource(source="folder", path=str(path.resolve()))


def measure(artifacts: Path) -> dict[str, Any]:
    """The last evaluation, the mean of the weights' diagnostics over the steps, and correlations over the whole run."""
    lines = [json.loads(line) for line in (artifacts / "metrics.jsonl").read_text().splitlines()]
    steps = [line["metrics"] for line in lines if line["kind"] == "step"]
    final = [line["metrics"] for line in lines if line["kind"] == "evaluation"][-1]
    means = {key: [step[key] for step in steps if step.get(key) is not None] for key in STEP_METRICS}
    weights = pq.read_table(artifacts / "weights.parquet")
    column = {name: torch.tensor(weights[name].to_pylist()).float() for name in ("weight", "num_tokens", "reward")}
    return {
        "num_steps": len(steps),
        **final,
        **{key: statistics.fmean(values) for key, values in means.items() if values},
        "run/spearman_length": spearman(column["weight"], column["num_tokens"]),
        "run/spearman_reward": spearman(column["weight"], column["reward"]),
        "run/ess_share": float(column["weight"].sum() ** 2 / (column["weight"] ** 2).sum() / len(column["weight"])),
    }


def spearman(left: torch.Tensor, right: torch.Tensor) -> float | None:
    """Spearman's ρ of two series; None when either has no spread."""
    rho = float(spearman_of_ranks(average_ranks(left), average_ranks(right)))
    return None if math.isnan(rho) else rho


def judge(artifacts: Path, world: Path) -> dict[str, float]:
    """What the second judge thinks of the same answers."""
    samples = [json.loads(line) for line in (artifacts / "samples.jsonl").read_text().splitlines()]
    if kind_of(world) == "hh":
        model = RewardModel(world / "judge", dtype="float32", device="cpu")
        turns = [[(turn["role"], turn["content"]) for turn in sample["prompt"]] for sample in samples]
        policy = model.score([(own, sample["policy"]["text"]) for own, sample in zip(turns, samples, strict=True)])
        reference = model.score([(own, sample["reference"]["text"]) for own, sample in zip(turns, samples, strict=True)])
    else:
        policy = [judge_answer(sample["prompt"][-1]["content"], sample["policy"]["text"]) for sample in samples]
        reference = [judge_answer(sample["prompt"][-1]["content"], sample["reference"]["text"]) for sample in samples]
    wins = [1.0 if p > r else 0.5 if p == r else 0.0 for p, r in zip(policy, reference, strict=True)]
    return {
        "judge/policy": statistics.fmean(policy),
        "judge/reference": statistics.fmean(reference),
        "judge/spread": statistics.pstdev(reference),
        "judge/win_rate": statistics.fmean(wins),
        "reward/spread": statistics.pstdev([sample["reference"]["reward"] for sample in samples]),
    }


def measure_shift(spec: RunSpec, trained: Path, world: Path) -> dict[str, float]:
    """How often log π_θ − log π_ref, per token, grew more for the better of two held-out answers that people wrote.

    By the people's label and by the judge. A policy too weak to write can still show here what it has learnt.
    """
    policy, reference = (load_policy(path, dtype="float32", device="cpu") for path in (trained, world / "policy"))
    recipe = spec.recipe
    prompt_format = PromptFormat.choose(reference.tokenizer)
    lengths = Lengths(recipe.tokens.max_prompt, recipe.tokens.max_response, recipe.evaluation.max_new_tokens)
    examples = prepare(recipe, Path(spec.dataset_path), prompt_format, lengths, lambda *_: None).held_out
    model = RewardModel(world / "judge", dtype="float32", device="cpu")
    scores = iter(model.score([(example.turns, response.content) for example in examples for response in example.responses]))
    by_people, by_judge = [], []
    for example in examples:
        after, before = (
            score_pairs(one.language_model, [example], mark_pairs([example], cross=False))[0] for one in (policy, reference)
        )
        grown = (after - before) / torch.tensor([float(len(response.ids)) for response in example.responses])
        chosen = [response.preference == 1 for response in example.responses].index(True)
        judged = [next(scores) for _ in example.responses]
        by_people.append(float(int(grown.argmax()) == chosen))
        by_judge.append(float(int(grown.argmax()) == judged.index(max(judged))))
    return {"shift/people": statistics.fmean(by_people), "shift/judge": statistics.fmean(by_judge)}


def read_results(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run_grid(
    out: Path, worlds: Sequence[Path], methods: Sequence[str], lambdas: Sequence[float], rates: dict[int, list[float]]
) -> None:
    """Every missing cell of every world, appended to `out`; scorings and samples are kept in a folder beside it."""
    work = out.with_suffix("")
    (work / "scorings").mkdir(parents=True, exist_ok=True)
    done = {Cell(*(result[name] for name in Cell.__dataclass_fields__)).key for result in read_results(out)}
    for world, cell in list_cells(worlds, methods, lambdas, rates):
        if cell.key in done:
            continue
        result = run_cell(cell, world, work)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        told = (result["eval/reward_policy"], result["judge/policy"], result["eval/kl"], result["seconds"])
        print(f"{cell.key}: reward {told[0]:.2f}, judge {told[1]:.2f}, KL {told[2]:.2f}, {told[3]} s", flush=True)


def read_rates(texts: Sequence[str]) -> dict[int, list[float]]:
    """`8:1e-3,2e-3` → {8: [0.001, 0.002]}"""
    parts = [text.split(":") for text in texts]
    return {int(size): [float(rate) for rate in rates.split(",")] for size, rates in parts}


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench.presets", description="Run the presets' grid.")
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument("worlds", type=Path, nargs="+", metavar="WORLD")
    parser.add_argument("--methods", nargs="+", default=[*PRESETS, *BASELINES], choices=[*PRESETS, *BASELINES])
    parser.add_argument("--lambdas", nargs="+", type=float, default=[0.1, 0.3, 1.0])
    parser.add_argument("--rates", nargs="+", required=True, metavar="B:RATE,RATE", help="learning rates for each B")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run_grid(options.out, options.worlds, options.methods, options.lambdas, read_rates(options.rates))


if __name__ == "__main__":
    main()
