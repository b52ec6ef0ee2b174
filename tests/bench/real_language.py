"""Methods beside each other on real language: a small instruct model, real preferences, a reward model and another as judge.

    python -m tests.bench.real_language OUT.jsonl --model FOLDER          # makes what is missing, also after a stop
    python -m tests.bench.real_language OUT.jsonl --table

FOLDER is an instruct model that transformers loads (measured: 135 M parameters, ChatML). The pairs are those rows of HH
helpful-base and UltraFeedback (STUDIO_SHARED_DATA names their folder) that are short, in three parts, no conversation in two
of them: one for the reward model that the runs learn from, one for the judge, one for the runs, which hold out prompts for the
test. Reward model and judge are lower layers of the same model, trained by the studio's own `method: reward_model`.

A cell is one run: method × setting × seed of the training, LoRA, float32, B = 8. Each finished one is a line of OUT.jsonl with
what it said to every test prompt, so that the intervals are made of the lines alone; what the seeds of a method said to a prompt
counts by its mean. These are rows of HH's own test split: nothing here is a result on that benchmark.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.domain.jobs import RunSpec
from app.domain.recipe import Recipe
from app.domain.statistics.paired import compare_paired
from app.domain.weighting import DEFAULT_PRESET
from app.ingest.ingest import ingest
from tests.bench.presets import NEVER, folder, read_results, run_attempt
from tests.bench.presets_hh import read_lines, split_lines
from worker.models.prompts import Conversation
from worker.models.reward import RewardModel
from worker.models.template import ChatTurn

HH, ULTRAFEEDBACK = "data/hh/helpful-base.jsonl", "data/ultrafeedback/train_clean.first700.jsonl"
MOST_PROMPT, MOST_RESPONSE = 64, 48  # tokens of the texts alone, in the runs' part
MOST_NEW = 24  # tokens of an answer
MOST_READ = 160  # tokens of a conversation that reward model or judge learn from
NUM_APART, NUM_RUNS, NUM_TEST, NUM_LEARNT = 208, 144, 48, 390  # pairs; the runs get the shortest of those set apart
LAYERS = {"reward": 8, "judge": 6}
STEPS, BATCH, DRAWS, SEED = 24, 8, 8, 0
RATE, DPO_SHARE = 2e-4, 0.2  # what the studio proposes, and DPO's share of it
LAMBDAS = (0.3, 1.0)
ANSWER = ("judge", "reward", "length")
WEIGHTS = ("weight/ess_share", "weight/spearman_length", "weight/spearman_reward")
VAR: dict[str, dict[str, Any]] = {
    "length_normalised": {"preset": "length_normalised"},
    "reward, one scale": {"preset": "reward_weighted", "mean_one": "dataset"},
    "draws": {"preset": "draws"},
    "paper": {"preset": "paper"},
}


def list_cells() -> list[tuple[str, dict[str, Any]]]:
    """Return names and recipe parts: every method at its first setting before one is run at its second."""
    cells: list[tuple[str, dict[str, Any]]] = []
    plain = [("SFT on chosen", {"method": "sft", "weights": {"responses": "chosen"}}), ("SFT on all", {"method": "sft"})]
    for (title, parts), lambda_, beta in zip(plain, LAMBDAS, (0.1, 0.3), strict=True):
        for name, weights in VAR.items():
            cells.append((f"{name} / {lambda_:g}", {"weights": {**weights, "lambda": lambda_, "reward_norm": "zscore"}}))
        cells.append((f"DPO / β {beta:g}", {"method": "dpo", "dpo": {"beta": beta}}))
        cells.append((title, parts))
    return cells


def read_pairs(data: Path, tokenizer: Any, work: Path) -> list[str]:
    """Return the pairs as transcripts, shuffled by conversation, those of both sets that a reward model reads whole."""
    both = work / "pairs.jsonl"
    lines = (data / HH).read_text(encoding="utf-8").splitlines()
    for line in (data / ULTRAFEEDBACK).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts = {key: f"\n\nHuman: {row['prompt']}\n\nAssistant: {row[key]}" for key in ("chosen", "rejected")}
        if all(text.count("\n\nHuman:") == 1 and text.count("\n\nAssistant:") == 1 for text in texts.values()):
            lines.append(json.dumps(texts))
    both.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return [line for line in read_lines(both, SEED) if max(map(sum, count_tokens(tokenizer, line))) <= MOST_READ]


def count_tokens(tokenizer: Any, line: str) -> list[tuple[int, int]]:
    """Return the tokens of prompt and response, of the chosen and of the rejected one."""
    parts = (json.loads(line)[key].rsplit("\n\nAssistant:", 1) for key in ("chosen", "rejected"))
    return [tuple(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in both) for both in parts]  # type: ignore[misc]


def is_short(tokenizer: Any, line: str) -> bool:
    return all(prompt <= MOST_PROMPT and response <= MOST_RESPONSE for prompt, response in count_tokens(tokenizer, line))


def make_world(model: Path, data: Path, world: Path) -> None:
    """Write the three parts, and train reward model and judge on theirs."""
    world.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(model)
    lines = read_pairs(data, tokenizer, world)
    short = [line for line in lines if is_short(tokenizer, line)]
    (apart,) = split_lines(short, NUM_APART)[:1]
    for_runs = sorted(apart, key=lambda line: sum(map(sum, count_tokens(tokenizer, line))))[:NUM_RUNS]
    openings = {opening_of(line) for line in apart}
    rest = [line for line in lines if opening_of(line) not in openings]
    parts = dict(zip(("reward", "judge"), split_lines(rest, NUM_LEARNT, NUM_LEARNT), strict=False))
    for name, own in {**parts, "runs": for_runs}.items():
        (world / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in own), encoding="utf-8")
    for name, layers in LAYERS.items():
        if not (world / name).exists():
            cut_model(model, world / f"lower-{name}", layers)
            train_judge(world, name)
    print(f"{len(for_runs)} pairs for the runs, {', '.join(f'{len(own)} for {name}' for name, own in parts.items())}", flush=True)


def opening_of(line: str) -> str:
    return str(json.loads(line)["chosen"].split("\n\nAssistant:")[0])


def cut_model(model: Path, target: Path, layers: int) -> None:
    """Write the model's lower layers, with a pad token that ends no turn: scores are read from the last token."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    network = AutoModelForCausalLM.from_pretrained(model, num_hidden_layers=layers, dtype=torch.float32)
    network.config.pad_token_id = 0
    network.generation_config.pad_token_id = 0
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)


def train_judge(world: Path, name: str) -> None:
    """A Bradley-Terry model on the part of that name, by the studio's own method."""
    recipe = {
        "method": "reward_model", "dataset": name, "policy": {"model": "lower"},
        "tokens": {"max_prompt": 160, "max_response": 160},
        "training": {
            "batch_size": BATCH, "epochs": 1, "learning_rate": 1e-4, "seed": SEED + len(name), "checkpoint_every": NEVER,
            "keep_checkpoints": 1,
        },
        "evaluation": {"share": 0.1, "every": NEVER, "test_share": 0.9, "seed": SEED},
    }  # fmt: skip
    artifacts = run(world, world / f"train-{name}", recipe, world / f"{name}.jsonl", policy=world / f"lower-{name}")
    (artifacts / "model").rename(world / name)
    figures = [json.loads(line)["metrics"] for line in (artifacts / "metrics.jsonl").read_text().splitlines()][-1]
    print(f"{name}: {json.dumps(figures)}", flush=True)
    shutil.rmtree(artifacts.parent)


def run(work: Path, run_dir: Path, recipe: dict[str, Any], data: Path, **models: Path) -> Path:
    """Run a recipe in this process and return the folder of its artifacts."""
    attempt_dir = run_dir / "attempts" / "1"
    attempt_dir.mkdir(parents=True)
    examples = data.with_suffix(".parquet")
    if not examples.exists():
        ingest(data, examples)
    spec = RunSpec(
        run_id=run_dir.name, attempt=1, recipe=Recipe.model_validate(recipe), dataset_path=str(examples),
        dataset_sha256="0" * 64, run_dir=str(run_dir), scorings_dir=str(work / "scorings"), hub_dir=str(work / "hub"),
        num_threads=torch.get_num_threads(), **{name: folder(path) for name, path in models.items()},
    )  # fmt: skip
    (attempt_dir / "spec.json").write_text(spec.model_dump_json(by_alias=True))
    if run_attempt([str(attempt_dir)]) != 0:
        raise SystemExit(f"{run_dir.name}: {(attempt_dir / 'events.jsonl').read_text().splitlines()[-1]}")
    return run_dir / "artifacts"


def write_recipe(parts: dict[str, Any], steps: int, rate: float, seed: int) -> dict[str, Any]:
    rate *= DPO_SHARE if parts.get("method") == "dpo" else 1.0
    return {
        "dataset": "runs", "policy": {"model": "policy", "adaptation": "lora"}, "weights": {},
        "reward": {"source": "model", "model": "reward", "accept_inverted": True},
        "draws": {"num_draws": DRAWS, "max_new_tokens": MOST_NEW, "seed": SEED},
        "tokens": {"max_prompt": 160, "max_response": 64},
        "training": {
            "batch_size": BATCH, "steps": steps, "learning_rate": rate, "seed": seed, "checkpoint_every": NEVER,
            "keep_checkpoints": 1,
        },
        "evaluation": {
            "share": NUM_TEST / NUM_RUNS, "test_share": 0, "num_prompts": NUM_TEST, "every": NEVER, "num_samples_shown": 0,
            "max_new_tokens": MOST_NEW, "seed": SEED,
        },
        **parts,
    }  # fmt: skip


def run_cell(name: str, recipe: dict[str, Any], model: Path, world: Path) -> dict[str, Any]:
    """Return a line: the cell's figures, and what the reward model says of each test prompt's answers."""
    wall, processor = time.perf_counter(), time.process_time()
    seed = recipe["training"]["seed"]
    run_dir = world / "runs" / f"{name.replace(' ', '_').replace('/', '-')}-{seed}"
    shutil.rmtree(run_dir, ignore_errors=True)
    kept = world / "reference.json"  # what the untrained policy says is the same in all cells
    if kept.exists():
        (run_dir / "checkpoints").mkdir(parents=True)
        shutil.copy(kept, run_dir / "checkpoints" / "reference.json")
    artifacts = run(world, run_dir, recipe, world / "runs.jsonl", policy=model, reward=world / "reward")
    shutil.copy(run_dir / "checkpoints" / "reference.json", kept)
    lines = [json.loads(line) for line in (artifacts / "metrics.jsonl").read_text().splitlines()]
    steps = [line["metrics"] for line in lines if line["kind"] == "step"]
    told = {key: statistics.fmean(step[key] for step in steps) for key in WEIGHTS if steps[-1].get(key) is not None}
    samples = [json.loads(line) for line in (artifacts / "samples.jsonl").read_text().splitlines()]
    shutil.rmtree(run_dir)
    return {
        "cell": name, "seed": seed, **told,
        "kl": [s["draw"]["kl"] for s in samples], "prompt": [s["prompt"] for s in samples],
        **{
            who: [{"text": s[who]["text"], "reward": s[who]["reward"], "length": len(s[who]["ids"])} for s in samples]
            for who in ("policy", "reference")
        },
        "unfinished": statistics.fmean(not s["policy"]["finished"] for s in samples),
        "seconds": round(time.perf_counter() - wall, 1), "processor_seconds": round(time.process_time() - processor, 1),
    }  # fmt: skip


def ask_judge(world: Path, results: Sequence[dict[str, Any]]) -> None:
    """Add to every answer what the judge says of it."""
    judge = RewardModel(world / "judge", dtype="float32", device="cpu")
    known: dict[str, float] = {}
    for result in results:
        for who in ("policy", "reference"):
            pairs = list(zip(result["prompt"], result[who], strict=True))
            fresh = {json.dumps([turns, a["text"]]): (turns, a["text"]) for turns, a in pairs}
            fresh = {key: pair for key, pair in fresh.items() if key not in known}
            asked = [
                Conversation(tuple(ChatTurn(t["role"], t["content"]) for t in turns), ChatTurn("assistant", text))
                for turns, text in fresh.values()
            ]
            known |= dict(zip(fresh, judge.score(asked), strict=True))
            for turns, answer in pairs:
                answer["judge"] = known[json.dumps([turns, answer["text"]])]


def tell_judges(world: Path) -> None:
    """Print how often reward model and judge prefer what people chose, on the runs' pairs, which neither has seen."""
    rows = pq.read_table(world / "runs.parquet").to_pylist()
    signs = {}
    for name in LAYERS:
        model = RewardModel(world / name, dtype="float32", device="cpu")
        sides = [
            model.score([
                Conversation(tuple(ChatTurn(t["role"], t["content"]) for t in row["prompt"]), ChatTurn("assistant", r["content"]))
                for row in rows for r in row["responses"] if r["preference"] == side
            ])
            for side in (1, -1)
        ]  # fmt: skip
        signs[name] = [chosen > rejected for chosen, rejected in zip(*sides, strict=True)]
        print(f"{name}: prefers the chosen response in {statistics.fmean(signs[name]):.1%} of {len(rows)} pairs")
    agree = statistics.fmean(a == b for a, b in zip(*signs.values(), strict=True))
    print(f"the two agree in {agree:.1%}\n")


def tell(results: Sequence[dict[str, Any]]) -> None:
    """Print a row per cell: gains over the untrained model's answers, in their standard deviations, and beside the default."""
    by_name = {name: average([r for r in results if r["cell"] == name]) for name in {result["cell"] for result in results}}
    print("| method / λ or β | seeds | judge | reward | wins | KL | length | ESS/B | ρ(w, len) | ρ(w, r) | judge − default |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, _ in list_cells():
        if (own := by_name.get(name)) is None:
            continue
        gains = {}
        for by in ("judge", "reward"):
            ours, theirs = (own[who][by] for who in ("policy", "reference"))
            gains[by] = (compare_paired(ours, theirs), statistics.stdev(theirs))
        kl, error = statistics.fmean(own["kl"]), statistics.stdev(own["kl"]) / len(own["kl"]) ** 0.5
        length, before = (statistics.fmean(own[who]["length"]) for who in ("policy", "reference"))
        columns = [
            str(own["num_seeds"]),
            *(_interval(found.gain, spread) for found, spread in gains.values()), f"{gains['judge'][0].win_rate.value:.2f}",
            f"{kl:.2f} ± {1.96 * error:.2f}", f"{length / before:.2f}",
            *(f"{own[key]:.2f}" if own.get(key) is not None else "" for key in WEIGHTS),
            _beside(own, find_default(by_name, name), gains["judge"][1]),
        ]  # fmt: skip
        print(f"| {name} | {' | '.join(columns)} |")


def average(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the seeds of a cell say together: KL, scores and lengths of each test prompt, and the weights' figures."""
    told = {key: statistics.fmean(r[key] for r in results) for key in WEIGHTS if all(r.get(key) is not None for r in results)}
    by_prompt = {
        who: {key: [statistics.fmean(r[who][i][key] for r in results) for i in range(len(results[0][who]))] for key in ANSWER}
        for who in ("policy", "reference")
    }
    kl = [statistics.fmean(values) for values in zip(*(r["kl"] for r in results), strict=True)]
    return {"num_seeds": len(results), **told, **by_prompt, "kl": kl}


def find_default(by_name: dict[str, dict[str, Any]], name: str) -> dict[str, Any] | None:
    """Return the default preset's cell at the same λ; for a method without one, that at the first."""
    first = by_name.get(f"{DEFAULT_PRESET} / {LAMBDAS[0]:g}")
    return by_name.get(f"{DEFAULT_PRESET} / {name.rpartition('/')[2].strip()}", first)


def _beside(own: dict[str, Any], base: dict[str, Any] | None, spread: float) -> str:
    """Return the judge's paired difference from the default preset at the same λ."""
    if base is None or base is own:
        return ""
    ours, theirs = (cell["policy"]["judge"] for cell in (own, base))
    return _interval(compare_paired(ours, theirs).gain, spread)


def _interval(estimate: Any, spread: float) -> str:
    return f"{estimate.value / spread:+.2f} ({estimate.low / spread:+.2f} to {estimate.high / spread:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench.real_language", description="Methods on real language.")
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--model", type=Path, help="folder of the instruct model")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("STUDIO_SHARED_DATA", "../shared")))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rate", type=float, default=RATE, help="learning rate; DPO's is a fifth of it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[SEED], help="seeds of the training; the world stays")
    parser.add_argument("--world", action="store_true", help="make data, reward model and judge only")
    parser.add_argument("--cells", action="store_true", help="make cells only; the judge may still be missing")
    parser.add_argument("--only", nargs="+", default=[""], metavar="TEXT", help="make cells whose names hold one of these texts")
    parser.add_argument("--table", action="store_true", help="print the table of what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    world = options.out.with_suffix("")
    if options.table:
        results = read_results(options.out)
        tell_judges(world)
        ask_judge(world, results)
        tell(results)
        return
    if not options.cells and not all((world / name).exists() for name in LAYERS):
        make_world(options.model, options.data, world)
    if options.world:
        return
    done = {(result["cell"], result["seed"]) for result in read_results(options.out)}
    for seed, (name, parts) in itertools.product(options.seeds, list_cells()):
        if (name, seed) not in done and any(text in name for text in options.only):
            result = run_cell(name, write_recipe(parts, options.steps, options.rate, seed), options.model, world)
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            kl = statistics.fmean(result["kl"])
            print(f"{name}, seed {seed}: KL {kl:.2f}, {result['processor_seconds']} s of processor", flush=True)


if __name__ == "__main__":
    main()
