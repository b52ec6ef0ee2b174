"""Which form of the weights, on responses that π_ref itself has drawn, when the reward is known: the help desk, real models.

    python -m tests.bench.known_reward OUT.jsonl --seeds 0 1 2        # makes what is missing, also after a stop
    python -m tests.bench.known_reward OUT.jsonl --lengths spread --lambdas .3 .1 --offsets 0 2 --runs 0 1     # only these
    python -m tests.bench.known_reward OUT.jsonl --table

A world is a policy that is trained on the help desk's answers (`even`), or on one to five sentences of each (`spread`: lengths
differ), and K = 4 of its own answers to each prompt. The desk's true score stands in the place of a reward model, in standard
deviations of these answers, plus an offset of the prompt. Forms that no offset can move (it cancels in their Z(x)) are run once,
and in the first world at the largest offset too, as a proof. A cell is one run through the runner, 512 prompts held out, of
which nothing is chosen; each finished one is a line of OUT.jsonl with score and exact KL of every prompt.
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from random import Random
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import worker.stages.scoring.sources as sources
from app.domain.jobs import RunSpec
from app.domain.recipe import Recipe
from app.domain.statistics.estimate import estimate_over_seeds
from tests.bench.presets import NEVER, folder, read_results, run_attempt
from worker.demonstration.data import generate_answers, generate_cases, judge_answer, list_texts, split_sentences
from worker.demonstration.models import CONTEXT, train_policy
from worker.demonstration.tokenizer import build_tokenizer
from worker.models.generate import Sampling, generate
from worker.models.load import load_policy
from worker.models.prompts import Conversation, PromptFormat
from worker.stages.evaluation.answers import end_ids

NUM_TRAIN, NUM_TEST, NUM_ANSWERS, EACH, BATCH, DRAWS = 640, 512, 6400, 4, 8, 16
OFFSETS, LENGTHS, LAMBDAS, RUNS, RATE = (0.0, 1.0, 2.0), ("even", "spread"), (0.3, 0.1, 1.0, 0.6), 2, 1e-3
SAMPLED = {"max_new_tokens": 80}
FORMS: dict[str, dict[str, Any]] = {
    "length_normalised": {"preset": "length_normalised"},
    "draws": {"preset": "draws"},
    "reward, by batch": {"preset": "reward_weighted"},
    "reward, one scale": {"preset": "reward_weighted", "mean_one": "dataset"},
}
IMMUNE = ("length_normalised", "draws")  # an offset of the prompt cancels in their Z(x)
LEVELS, RESAMPLES = (0.5, 1.0, 2.0), 500


class TrueReward:
    """The help desk's own score in the place of a reward model; its folder says the scale and the offsets."""

    remark = cut_remark = ""

    def __init__(self, folder: Path, *, dtype: str, device: str, day: date | None = None) -> None:
        self.truth = json.loads((folder / "config.json").read_text())["truth"]

    def score(self, conversations: Sequence[Conversation], check: Callable[[], None] = lambda: None) -> list[float]:
        truth = self.truth
        found = []
        for turns, answer, *_ in conversations:
            prompt = turns[-1].content
            score = (judge_answer(prompt, answer.content) - truth["mean"]) / truth["deviation"]
            found.append(score + truth["offset"] * Random(prompt).gauss(0, 1))
        return found


def make_world(world: Path, seed: int, lengths: str) -> None:
    """Train the policy, let it answer every prompt K times, and write data and rewards."""
    cases = [case.prompt for case in generate_cases(Random(f"known reward {seed}"), NUM_TRAIN + NUM_TEST)]
    answers = generate_answers(seed, NUM_ANSWERS, set(cases))
    if lengths == "spread":
        chance = Random(f"lengths {seed}")
        answers = [(prompt, shorten(answer, chance)) for prompt, answer in answers]
    tokenizer = build_tokenizer(list_texts(), CONTEXT)
    fresh = world.with_suffix(".part")
    if not (fresh / "policy" / "tokenizer.json").exists():  # written last
        train_policy(tokenizer, answers, seed, lambda *_: None).save_pretrained(fresh / "policy")
        tokenizer.save_pretrained(fresh / "policy")
    model = load_policy(fresh / "policy", dtype="float32", device="cpu").language_model
    texts, lengths_N = draw_responses(model, PromptFormat.choose(tokenizer), cases, seed)
    scores = [judge_answer(prompt, text) for prompt, own in zip(cases, texts, strict=True) for text in own]
    for offset in OFFSETS:
        write_truth(fresh, offset, fmean(scores), pstdev(scores))
    rows = [
        {
            "example_id": k, "line": k + 1, "prompt": [{"role": "user", "content": prompt}], "meta": "{}",
            "responses": [{"content": text, "rating": None, "preference": None} for text in own],
        }
        for k, (prompt, own) in enumerate(zip(cases, texts, strict=True))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), fresh / "examples.parquet")
    facts = {"mean": fmean(scores), "deviation": pstdev(scores), "tokens": fmean(lengths_N), "spread": pstdev(lengths_N)}
    (fresh / "made.json").write_text(json.dumps(facts))
    fresh.rename(world)
    print(f"{world.name}: {json.dumps(facts)}", flush=True)


def shorten(answer: str, chance: Random) -> str:
    """Return one to all of its sentences, in their order."""
    sentences = split_sentences(answer)
    kept = sorted(chance.sample(range(len(sentences)), chance.randint(1, len(sentences))))
    return " ".join(sentences[k] for k in kept)


def draw_responses(
    model: Any, prompt_format: PromptFormat, prompts: Sequence[str], seed: int
) -> tuple[list[list[str]], list[int]]:
    """Return K answers of π_ref to each prompt, and how many tokens each answer has."""
    write, text = prompt_format.tokenizer.apply_chat_template, {"tokenize": False, "add_generation_prompt": True}
    read = prompt_format.tokenizer
    ids = [read(write([{"role": "user", "content": p}], **text), add_special_tokens=False)["input_ids"] for p in prompts]
    sampling = Sampling(80, 1.0, 1.0, seed, end_ids(model, prompt_format), prompt_format.is_ended)
    drawn = generate(model, [prompt for prompt in ids for _ in range(EACH)], sampling)
    texts = [prompt_format.decode_response(answer) or "?" for answer in drawn]
    return [texts[k : k + EACH] for k in range(0, len(texts), EACH)], [len(answer) for answer in drawn]


def write_truth(world: Path, offset: float, mean: float, deviation: float) -> None:
    """Write what the runner takes for a reward model's folder."""
    truth = world / f"truth-{offset:g}"
    shutil.copytree(world / "policy", truth, dirs_exist_ok=True)  # any weights that load
    config = json.loads((truth / "config.json").read_text())
    config["truth"] = {"offset": offset, "mean": mean, "deviation": deviation}
    (truth / "config.json").write_text(json.dumps(config))


class Cell(NamedTuple):
    """One run in a world; `run` seeds its batches and their order."""

    form: str
    lambda_: float
    offset: float
    run: int


def list_cells(
    is_first: bool,
    lambdas: Sequence[float] = LAMBDAS,
    offsets: Sequence[float] = OFFSETS,
    runs: Sequence[int] = tuple(range(RUNS)),
) -> Iterator[Cell]:
    """Yield a world's cells, those of the first run at the first λ first."""
    for run in runs:
        for lambda_ in lambdas:
            for offset in offsets:
                is_proof = is_first and offset == max(OFFSETS) and lambda_ == LAMBDAS[0] and run == 0
                for form in FORMS:
                    if offset == 0 or form not in IMMUNE or is_proof:
                        yield Cell(form, lambda_, offset, run)


def run_cell(world: Path, seed: int, cell: Cell, clip: float | None) -> dict[str, Any]:
    """Run one cell and return its line."""
    wall, processor = time.perf_counter(), time.process_time()
    run_dir = world / "runs" / "-".join(map(str, cell)).replace(", ", "-").replace(" ", "-")
    shutil.rmtree(run_dir, ignore_errors=True)
    attempt_dir = run_dir / "attempts" / "1"
    attempt_dir.mkdir(parents=True)
    kept = world / "reference.json"
    if kept.exists():
        (run_dir / "checkpoints").mkdir()
        shutil.copy(kept, run_dir / "checkpoints" / "reference.json")
    spec = RunSpec(
        run_id=run_dir.name, attempt=1, recipe=write_recipe(seed, cell, clip),
        dataset_path=str(world / "examples.parquet"),
        dataset_sha256="0" * 64, policy=folder(world / "policy"), reward=folder(world / f"truth-{cell.offset:g}"),
        judge=folder(world / "truth-0"), run_dir=str(run_dir), scorings_dir=str(world / "scorings"),
        hub_dir=str(world / "hub"), num_threads=1,
    )  # fmt: skip
    (attempt_dir / "spec.json").write_text(spec.model_dump_json(by_alias=True))
    if run_attempt([str(attempt_dir)]) != 0:
        raise SystemExit(f"{run_dir.name}: {(attempt_dir / 'events.jsonl').read_text().splitlines()[-1]}")
    shutil.copy(run_dir / "checkpoints" / "reference.json", kept)
    artifacts = run_dir / "artifacts"
    samples = [json.loads(line) for line in (artifacts / "samples.jsonl").read_text().splitlines()]
    lines = [json.loads(line) for line in (artifacts / "metrics.jsonl").read_text().splitlines()]
    shares = [line["metrics"]["weight/ess_share"] for line in lines if line["kind"] == "step"]
    shutil.rmtree(run_dir)
    return {
        "form": cell.form, "lambda": cell.lambda_, "offset": cell.offset, "run": cell.run, "ess_share": fmean(shares),
        "prompts": [s["example_id"] for s in samples],
        "reward": [round(s["policy"]["reward"], 4) for s in samples],
        "reference": [round(s["reference"]["reward"], 4) for s in samples],
        "kl": [round(s["draw"]["kl"], 4) for s in samples],
        "length": [len(s["policy"]["ids"]) for s in samples],
        "length_reference": [len(s["reference"]["ids"]) for s in samples],
        "seconds": round(time.perf_counter() - wall, 1), "processor_seconds": round(time.process_time() - processor, 1),
    }  # fmt: skip


def write_recipe(seed: int, cell: Cell, clip: float | None = None) -> Recipe:
    return Recipe.model_validate(
        {
            "dataset": "responses", "policy": {"model": "policy"}, "weights": {**FORMS[cell.form], "lambda": cell.lambda_},
            "reward": {"source": "model", "model": "truth", "judge": "truth"},
            "draws": {"num_draws": DRAWS, **SAMPLED, "seed": seed},
            "tokens": {"max_prompt": 48, "max_response": 80},
            "training": {
                "batch_size": BATCH, "epochs": 1, "learning_rate": RATE, "seed": seed + 1000 * cell.run,
                "checkpoint_every": NEVER, "keep_checkpoints": 1, **({} if clip is None else {"grad_clip": clip}),
            },
            "evaluation": {
                "share": NUM_TEST / (NUM_TRAIN + NUM_TEST), "test_share": 0, "num_prompts": NUM_TEST, **SAMPLED,
                "every": NEVER, "num_samples_shown": 0, "seed": seed,
            },
        }
    )  # fmt: skip


def run_all(options: argparse.Namespace) -> None:
    """Make every missing cell of those that were asked for."""
    out = options.out
    torch.set_num_threads(1)
    sources.RewardModel = TrueReward
    root = out.with_suffix("")
    root.mkdir(parents=True, exist_ok=True)
    done = {(r["seed"], r["lengths"], r["form"], r["lambda"], r["offset"], r.get("run", 0)) for r in read_results(out)}
    for seed in options.seeds:
        for lengths in options.lengths:
            world = root / f"{lengths}-{seed}"
            is_first = seed == 0 and lengths == LENGTHS[0]
            cells = list(list_cells(is_first, options.lambdas, options.offsets, options.runs))
            missing = [cell for cell in cells if (seed, lengths, *cell) not in done]
            if missing and not world.exists():
                make_world(world, seed, lengths)
            for cell in missing:
                result = {"seed": seed, "lengths": lengths, **run_cell(world, seed, cell, options.clip)}
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
                told = (fmean(result["reward"]) - fmean(result["reference"]), fmean(result["kl"]), result["processor_seconds"])
                print(f"{world.name} {tuple(cell)}: gain {told[0]:.2f}, KL {told[1]:.2f}, {told[2]} s", flush=True)


Cells = dict[tuple[tuple[int, int], float], dict[str, Any]]  # of one form at one offset, by world's seed and run, and by λ


def gather(results: Sequence[dict[str, Any]], form: str, offset: float, lengths: str) -> Cells:
    at = 0.0 if form in IMMUNE else offset
    mine = (r for r in results if (r["form"], r["offset"], r["lengths"]) == (form, at, lengths))
    return {((r["seed"], r.get("run", 0)), r["lambda"]): r for r in mine}


def read_at(points: Sequence[tuple[float, float]], level: float) -> float:
    """Return the gain at a KL, straight over its root, from 0; beyond the points NaN."""
    roots, gains = zip(*sorted((math.sqrt(max(0.0, kl)), gain) for kl, gain in [(0.0, 0.0), *points]), strict=True)
    return float(np.interp(math.sqrt(level), roots, gains, right=math.nan))


class Gap(NamedTuple):
    """A form's own value, its difference from another's with the interval over prompts, and that of each world and run."""

    own: float
    difference: float
    low: float
    high: float
    each: tuple[float, ...]


def compare(own: Cells, base: Cells, level: float | None, lambda_: float = 0.0) -> Gap | None:
    """Return own gain, and the difference from base with its paired bootstrap interval over prompts, means over worlds and runs.

    At a KL, between the λ that both have; or, without a level, of what is maximised, r − λ KL, at the λ. None: nothing there.
    """
    shared = set(own) & set(base) if level is not None else {key for key in set(own) & set(base) if key[1] == lambda_}
    if not shared:
        return None
    columns = [
        {side: _columns(cells, seed, shared) for side, cells in (("own", own), ("base", base))}
        for seed in sorted({seed for seed, _ in shared})
    ]
    num, chance = NUM_TEST, np.random.default_rng(0)
    picks = [np.arange(num), *(chance.integers(0, num, num) for _ in range(RESAMPLES))]

    def values(side: str, pick: Any) -> list[float]:
        return [_read(each[side], pick, level) for each in columns]

    mine, gaps = fmean(values("own", picks[0])), np.array([np.subtract(values("own", p), values("base", p)) for p in picks])
    each, means = tuple(map(float, gaps[0])), gaps[1:].mean(axis=1)
    if math.isnan(fmean(each)) or np.isnan(means).mean() > 0.05:
        return Gap(mine, math.nan, math.nan, math.nan, each)
    low, high = np.nanpercentile(means, [2.5, 97.5])
    return Gap(mine, fmean(each), float(low), float(high), each)


def _columns(cells: Cells, seed: tuple[int, int], shared: set[Any]) -> list[tuple[float, Any, Any]]:
    mine = [cell for key, cell in sorted(cells.items()) if key[0] == seed and key in shared]
    return [(c["lambda"], np.array(c["reward"]) - np.array(c["reference"]), np.array(c["kl"])) for c in mine]


def _read(columns: Sequence[tuple[float, Any, Any]], pick: Any, level: float | None) -> float:
    if level is None:
        lambda_, gain, kl = columns[0]
        return float(gain[pick].mean() - lambda_ * kl[pick].mean())
    return read_at([(float(kl[pick].mean()), float(gain[pick].mean())) for _, gain, kl in columns], level)


def tell_each(results: Sequence[dict[str, Any]]) -> None:
    """Print gain and KL of every world and training seed by itself, with r − λ KL less the default's and its interval."""
    print(f"| world | lengths | run | λ | offset | {' | '.join(FORMS)} |")
    places = sorted({(r["seed"], r["lengths"], r.get("run", 0)) for r in results})
    for seed, lengths, run in places:
        mine = [r for r in results if (r["seed"], r["lengths"], r.get("run", 0)) == (seed, lengths, run)]
        for lambda_, offset in sorted({(r["lambda"], r["offset"]) for r in mine}):
            base, told = gather(mine, IMMUNE[0], offset, lengths), []
            for form in FORMS:
                cells = gather(mine, form, offset, lengths)
                gap = compare(cells, base, None, lambda_) if form != IMMUNE[0] else None
                beside = f" ({gap.difference:+.2f}, {gap.low:+.2f} to {gap.high:+.2f})" if gap else ""
                told.append(f"{_tell_cells(cells, lambda_)}{beside}")
            print(f"| {seed} | {lengths} | {run} | {lambda_:g} | {offset:g} | {' | '.join(told)} |")
    print()


def tell(results: Sequence[dict[str, Any]]) -> None:
    """Print all cells, both comparisons, and how far the forms that no offset moves have been moved."""
    base_name = "length_normalised"
    tell_each(results)
    print(f"gain / KL\n| lengths | offset | λ | {' | '.join(FORMS)} |")
    rows = [(lengths, offset) for lengths in LENGTHS for offset in OFFSETS if any(r["lengths"] == lengths for r in results)]
    for lengths, offset in rows:
        for lambda_ in sorted(LAMBDAS):
            told = [_tell_cells(gather(results, form, offset, lengths), lambda_) for form in FORMS]
            print(f"| {lengths} | {offset:g} | {lambda_:g} | {' | '.join(told)} |")
    for level, lambda_ in [*((None, lambda_) for lambda_ in sorted(LAMBDAS)), *((level, 0.0) for level in LEVELS)]:
        print(f"\n{f'r − λ KL at λ = {lambda_:g}' if level is None else f'gain at a KL of {level:g}'}; minus {base_name}")
        for lengths, offset in rows:
            base = gather(results, base_name, offset, lengths)
            told = [_tell_gap(compare(gather(results, form, offset, lengths), base, level, lambda_)) for form in FORMS]
            print(f"| {lengths} | {offset:g} | {' | '.join(told)} |")
    at_zero = {_place(r): r for r in results if r["offset"] == 0}
    for proof in (r for r in results if r["form"] in IMMUNE and r["offset"] > 0 and _place(r) in at_zero):
        equal = fmean(float(a == b) for a, b in zip(proof["reward"], at_zero[_place(proof)]["reward"], strict=True))
        print(f"{proof['form']} at an offset of {proof['offset']:g}: {equal:.1%} of the scores are those at 0")


def _place(result: dict[str, Any]) -> tuple[Any, ...]:
    return result["form"], result["seed"], result["lengths"], result["lambda"], result.get("run", 0)


def _tell_cells(cells: Cells, lambda_: float) -> str:
    mine = [cell for (_, own), cell in sorted(cells.items()) if own == lambda_]
    gains = ", ".join(f"{fmean(c['reward']) - fmean(c['reference']):.2f} / {fmean(c['kl']):.2f}" for c in mine)
    return gains or "–"


def _tell_gap(found: Gap | None) -> str:
    if found is None:
        return "–"
    if math.isnan(found.difference):
        return f"{found.own:.2f}"
    return f"{found.own:.2f} ({found.difference:+.2f}, {found.low:+.2f} to {found.high:+.2f}{_tell_seeds(found.each)})"


def _tell_seeds(gaps: Sequence[float]) -> str:
    """Return each seed's difference, and the interval that seeds give, which knows more than prompts of the same seeds do."""
    if len(gaps) < 2:
        return ""
    _, low, high, _ = estimate_over_seeds(gaps)
    return f"; seeds {low:+.2f} to {high:+.2f}: {', '.join(f'{gap:+.2f}' for gap in gaps)}"


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench.known_reward", description="Forms of the weights, true reward.")
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--lengths", nargs="+", choices=LENGTHS, default=list(LENGTHS))
    parser.add_argument("--lambdas", type=float, nargs="+", default=list(LAMBDAS))
    parser.add_argument("--offsets", type=float, nargs="+", default=list(OFFSETS))
    parser.add_argument("--runs", type=int, nargs="+", default=list(range(RUNS)), help="training seeds within a world")
    parser.add_argument("--clip", type=float, help="training.grad_clip; empty: as the studio launches it, 0: none")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there")
    options = parser.parse_args()
    if options.table:
        tell(read_results(options.out))
    else:
        run_all(options)


if __name__ == "__main__":
    main()
