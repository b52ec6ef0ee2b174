"""A world of real preferences for the presets' grid: `python -m tests.bench.presets_hh WORLD --seed S`.

The pairs of hh/helpful-base.jsonl in three parts, no conversation in two of them: one for the reward model that the runs learn
from, one for the judge, one for the runs. Both models begin as stories260K with a new head (the judge without its upper layers)
and read their pairs twice. The policy is stories260K after one pass over all answers, good and bad, of the first two parts: it
could only tell children's stories before. These are rows of HH's own test split, so nothing here is a result on that benchmark.
"""

import argparse
import json
import math
import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForSequenceClassification
from transformers.utils import logging

from app.domain.jobs import ModelSource, RunSpec
from app.domain.recipe import Recipe
from app.ingest.ingest import ingest
from worker.demonstration.models import Plan, Tokenized, preference_loss, score_pairs, train
from worker.models.load import load_tokenizer
from worker.runner import main as run_attempt

SOURCE, BASE = "data/hh/helpful-base.jsonl", "models/stories260K-hf"
NUM_REWARD, NUM_JUDGE = 700, 700  # pairs; of the rest the runs get those with short texts
SHORT = 500  # characters of the prompt and of each answer, at most: about as many tokens as the runs' limits take
JUDGE_LAYERS = 3  # of stories260K's five
PAD = 0  # stories260K has no padding token; its <unk> never occurs in a text, as unknown characters become bytes
MOST_TOKENS = 256  # of a conversation, its end kept, while a reward model is trained
READ_TWICE, BATCH = 2, 16
Pair = tuple[Tokenized, Tokenized]


def read_lines(path: Path, seed: int) -> list[str]:
    """Lines whose two answers belong to one prompt and aren't empty, conversation by conversation, the conversations shuffled."""
    groups: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        pair = json.loads(line)
        (prompt, chosen), (other, rejected) = (pair[key].rsplit("\n\nAssistant:", 1) for key in ("chosen", "rejected"))
        if prompt == other and chosen.strip() and rejected.strip():
            groups.setdefault(prompt.split("\n\nAssistant:")[0], []).append(line)
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    return [line for key in order for line in groups[key]]


def split_lines(lines: Sequence[str], *sizes: int) -> list[list[str]]:
    """Parts of about these sizes and the rest; a conversation is never divided."""
    parts: list[list[str]] = [[]]
    last = None
    for line in lines:
        opening = json.loads(line)["chosen"].split("\n\nAssistant:")[0]
        if len(parts) <= len(sizes) and len(parts[-1]) >= sizes[len(parts) - 1] and opening != last:
            parts.append([])
        parts[-1].append(line)
        last = opening
    return parts


def encode(tokenizer: Any, text: str) -> Tokenized:
    """A conversation as reward models read it, with its end kept; leading to the same ids as in a run."""
    head, answer = text.rsplit("\n\nAssistant:", 1)
    ids = tokenizer(f"{head}\n\nAssistant: {answer.strip()}")["input_ids"]
    return Tokenized(ids if len(ids) <= MOST_TOKENS else [*ids[:1], *ids[1 - MOST_TOKENS :]], 0)


def encode_lines(tokenizer: Any, lines: Sequence[str]) -> list[Pair]:
    pairs = [json.loads(line) for line in lines]
    return [(encode(tokenizer, pair["chosen"]), encode(tokenizer, pair["rejected"])) for pair in pairs]


def train_judge(base: Path, folder: Path, lines: Sequence[str], seed: int, layers: int | None) -> None:
    """A Bradley-Terry reward model on the pairs, saved with its tokenizer."""
    tokenizer = load_tokenizer(base)
    torch.manual_seed(seed)
    changes = {} if layers is None else {"num_hidden_layers": layers}
    model = LlamaForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=PAD, **changes)
    pairs = encode_lines(tokenizer, lines)
    plan = Plan(steps=READ_TWICE * len(pairs) // BATCH, batch_size=BATCH, learning_rate=1e-3)
    train(model, lambda batch, _: preference_loss(model, batch, PAD), pairs, plan, seed, lambda *_: None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def margins(folder: Path, pairs: Sequence[Pair]) -> torch.Tensor:
    """r(chosen) − r(rejected) of each pair."""
    model = LlamaForSequenceClassification.from_pretrained(folder).eval()
    parts = [score_pairs(model, pairs[start : start + 64], PAD) for start in range(0, len(pairs), 64)]
    return torch.cat([chosen_B - rejected_B for chosen_B, rejected_B in parts])


def tune_policy(base: Path, world: Path, lines: Sequence[str], seed: int) -> None:
    """One pass of plain fine-tuning over both answers of every pair, by the runner itself (equal weights)."""
    work = world / "tuning"
    attempt_dir = work / "attempts" / "1"
    attempt_dir.mkdir(parents=True)
    (work / "pairs.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    ingest(work / "pairs.jsonl", work / "examples.parquet")
    recipe = Recipe.model_validate(
        {
            "dataset": "pairs", "policy": {"model": "stories260K"},
            "weights": {"preset": "reward_weighted", "lambda": 1e6},
            "tokens": {"max_prompt": 128, "max_response": 128},
            "training": {"batch_size": 8, "epochs": 1, "learning_rate": 2e-3, "seed": seed, "checkpoint_every": 10_000_000},
            "evaluation": {"share": 0.0},
        }
    )  # fmt: skip
    spec = RunSpec(
        run_id="tuning", attempt=1, recipe=recipe, dataset_path=str(work / "examples.parquet"), dataset_sha256="0" * 64,
        policy=ModelSource(source="folder", path=str(base)), run_dir=str(work), scorings_dir=str(work / "scorings"),
        hub_dir=str(work / "hub"), num_threads=1,
    )  # fmt: skip
    (attempt_dir / "spec.json").write_text(spec.model_dump_json(by_alias=True))
    if run_attempt([str(attempt_dir)]) != 0:
        raise SystemExit((attempt_dir / "events.jsonl").read_text().splitlines()[-1])
    (work / "artifacts" / "model").rename(world / "policy")
    shutil.rmtree(work)


def make_world(shared: Path, world: Path, seed: int) -> None:
    """Write the world's folder and say how good its two judges are on the runs' pairs, which neither has seen."""
    base = (shared / BASE).resolve()
    world.mkdir(parents=True)
    for_reward, for_judge, rest = split_lines(read_lines(shared / SOURCE, seed), NUM_REWARD, NUM_JUDGE)
    for_runs = [line for line in rest if is_short(line)]
    (world / "preferences.jsonl").write_text("".join(f"{line}\n" for line in for_runs), encoding="utf-8")
    train_judge(base, world / "reward", for_reward, seed, None)
    train_judge(base, world / "judge", for_judge, seed + 100, JUDGE_LAYERS)
    told = describe(world, rest)
    print(json.dumps(told), flush=True)
    tune_policy(base, world, [*for_reward, *for_judge], seed)
    (world / "made.json").write_text(json.dumps(told))


def is_short(line: str) -> bool:
    head, chosen = json.loads(line)["chosen"].rsplit("\n\nAssistant:", 1)
    return max(len(head), len(chosen), len(json.loads(line)["rejected"].rsplit("\n\nAssistant:", 1)[1])) <= SHORT


def describe(world: Path, lines: Sequence[str]) -> dict[str, float]:
    """How often the reward model, the judge and "the longer answer" agree with the people, on pairs that neither has seen."""
    pairs = encode_lines(load_tokenizer(world / "reward"), lines)
    reward_N, judge_N = margins(world / "reward", pairs), margins(world / "judge", pairs)
    texts = [json.loads(line) for line in lines]
    longer_N = torch.tensor([float(len(text["chosen"]) - len(text["rejected"])) for text in texts])
    return {
        "pairs": len(lines), "short": sum(map(is_short, lines)), "standard_error": round(math.sqrt(0.25 / len(lines)), 3),
        "reward_accuracy": share(reward_N > 0), "judge_accuracy": share(judge_N > 0), "longer_accuracy": share(longer_N > 0),
        "agreement": share((reward_N > 0) == (judge_N > 0)),
    }  # fmt: skip


def share(true_N: torch.Tensor) -> float:
    return round(float(true_N.double().mean()), 3)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench.presets_hh", description="Make a world of real preferences.")
    parser.add_argument("world", type=Path, metavar="WORLD")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("STUDIO_SHARED_DATA", "../shared")))
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    make_world(options.data, options.world, options.seed)


if __name__ == "__main__":
    main()
