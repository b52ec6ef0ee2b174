"""What a reward costs by each method on the help desk: `python -m tests.bench.convergence OUT.jsonl WORLD...`.

A world is made by `python -m worker.demonstration WORLD --seed S`; the digits that its name ends in seed data and run. All
methods have the same prompts, batches, number of fresh responses and evaluations. Each finished cell (world × method × rate) is
a line of OUT.jsonl with every evaluation's gain, KL, tokens and seconds; a second call makes only what is missing.
`python -m tests.bench.convergence OUT.jsonl --table` tells what each gain has cost.
"""

import argparse
import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

from app.domain.jobs import RunSpec
from app.domain.recipe import Recipe
from tests.bench.presets import NEVER, RECIPES, folder, ingest, read_results, run_attempt

STEPS, EVERY, BATCH = 40, 2, 8
FRESH = {"every": 4, "num_responses": 4, "max_new_tokens": 80}
VAR = {"lambda": 0.3, "reward_norm": "zscore"}
CELLS: dict[str, dict[str, Any]] = {
    "var offline": {"weights": {**VAR, "preset": "length_normalised"}, "rate": 1e-3},
    "var online": {"weights": {**VAR, "preset": "within_prompt", "logprob_norm": "sum"}, "online": FRESH, "rate": 1e-3},
    "var online, per token": {
        "weights": {**VAR, "preset": "within_prompt", "logprob_norm": "mean"}, "online": FRESH, "rate": 1e-3,
    },
    "raft": {"method": "raft", "online": FRESH, "rate": 1e-3},
    **{
        f"{method} {rate:g}": {"method": method, "online": FRESH, "rate": rate}
        for method in ("rloo", "grpo")
        for rate in (3e-4, 1e-3)
    },
}  # fmt: skip
GAINS = (0.5, 1.0, 1.5)  # in standard deviations of the untrained policy's rewards


def write_recipe(cell: dict[str, Any], seed: int) -> Recipe:
    common = RECIPES["helpdesk"]
    parts = {name: value for name, value in cell.items() if name != "rate"}
    return Recipe.model_validate({
        "dataset": "preferences", "policy": {"model": "policy"}, "reward": {"source": "model", "model": "reward"},
        "weights": {}, **parts, "tokens": common["tokens"],
        "training": {
            "batch_size": BATCH, "steps": STEPS, "learning_rate": cell["rate"], "seed": seed, "checkpoint_every": NEVER,
            "schedule": "constant",
        },
        "evaluation": {**common["evaluation"], "num_prompts": 64, "every": EVERY, "seed": seed, "test_share": 0,
                       "num_samples_shown": 0},
    })  # fmt: skip


def run_cell(name: str, world: Path, work: Path) -> dict[str, Any]:
    """One run, scored anew, so that the seconds of each method hold all that it needs."""
    seed = int(re.findall(r"\d+$", world.name)[0])
    run_dir = work / f"{world.name}-{name.replace(' ', '_')}"
    shutil.rmtree(run_dir, ignore_errors=True)
    attempt_dir = run_dir / "attempts" / "1"
    attempt_dir.mkdir(parents=True)
    dataset = work / f"examples-{world.name}.parquet"
    if not dataset.exists():
        ingest(world / "preferences.jsonl", dataset)
    spec = RunSpec(
        run_id=run_dir.name, attempt=1, recipe=write_recipe(CELLS[name], seed), dataset_path=str(dataset),
        dataset_sha256="0" * 64,
        policy=folder(world / "policy"), reward=folder(world / "reward"), run_dir=str(run_dir),
        scorings_dir=str(run_dir / "scorings"), hub_dir=str(work / "hub"), num_threads=1,
    )  # fmt: skip
    (attempt_dir / "spec.json").write_text(spec.model_dump_json(by_alias=True))
    if run_attempt([str(attempt_dir)]) != 0:
        raise SystemExit(f"{name}: {(attempt_dir / 'events.jsonl').read_text().splitlines()[-1]}")
    lines = [json.loads(line) for line in (run_dir / "artifacts" / "metrics.jsonl").read_text().splitlines()]
    spent = {line["step"]: line["metrics"] for line in lines if line["kind"] == "step"}
    samples = (run_dir / "artifacts" / "samples.jsonl").read_text().splitlines()
    spread = statistics.pstdev(json.loads(line)["reference"]["reward"] for line in samples[:64])
    course = [
        {"step": line["step"], "gain": line["metrics"]["eval/reward_gain"] / spread, "kl": line["metrics"]["eval/kl"],
         "tokens": spent[line["step"]]["cost/tokens"], "seconds": spent[line["step"]]["cost/seconds"],
         "length": line["metrics"]["eval/length_policy"]}
        for line in lines if line["kind"] == "evaluation" and line["step"] > 0
    ]  # fmt: skip
    shutil.rmtree(run_dir)
    return {"world": world.name, "cell": name, "course": course}


def tell(results: list[dict[str, Any]]) -> None:
    """A row per method: steps, tokens and seconds to each gain, medians over the worlds that reach it; and where it ends."""
    for name in CELLS:
        mine = [result["course"] for result in results if result["cell"] == name]
        if not mine:
            continue
        told = []
        for gain in GAINS:
            reached = [next((point for point in course if point["gain"] >= gain), None) for course in mine]
            found = [point for point in reached if point is not None]
            middle = (
                {key: statistics.median(point[key] for point in found) for key in ("step", "tokens", "seconds")} if found else {}
            )
            costs = f"{middle['step']:.0f} / {middle['tokens'] / 1000:.0f}k / {middle['seconds']:.0f} s" if found else "–"
            told.append(f"{costs} ({len(found)}/{len(mine)})")
        ends = " ".join(f"{course[-1]['gain']:.2f}" for course in mine)
        kl = statistics.fmean(course[-1]["kl"] for course in mine)
        length = statistics.fmean(course[-1]["length"] for course in mine)
        print(f"| {name} | {' | '.join(told)} | {ends} | {kl:.1f} | {length:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("worlds", type=Path, nargs="*")
    parser.add_argument("--cells", nargs="*", default=list(CELLS))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    work = options.out.with_suffix("")
    work.mkdir(parents=True, exist_ok=True)
    done = {(result["world"], result["cell"]) for result in read_results(options.out)}
    for world in options.worlds:
        for name in options.cells:
            if (world.name, name) not in done:
                result = run_cell(name, world, work)
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
    if options.table:
        tell(read_results(options.out))


if __name__ == "__main__":
    main()
