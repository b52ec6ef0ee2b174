"""Make the demonstration's data and models: `python -m worker.demonstration OUT_DIR [--seed N] [--scale F]`.

    OUT_DIR/preferences.jsonl   prompt, chosen, rejected: to upload
    OUT_DIR/policy/  reward/    Hugging Face folders (safetensors, tokenizer): to register
    OUT_DIR/made.json           written last: what was made, and from which code; a second call with the same code makes nothing

The two models are trained side by side, a process and a thread each. Progress goes to standard output, a line at a time.
Every part is written beside its place and moved there when whole, so a killed call leaves nothing half-made behind.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from app.system.files import filling, remove_tree, remove_unfinished, writing
from app.system.installation import inherit_environment, module_command
from app.system.numbers import percent
from worker.demonstration.data import Pair, generate_answers, generate_pairs, list_texts

NUM_PAIRS = 800  # uploaded; a fifth of them is held out by the recipe
NUM_ANSWERS = 6400  # the policy's pretraining: each is read once
NUM_COMPARISONS = 3200  # the reward model's
NUM_TEST_PAIRS = 200
PARTS = ("policy", "reward")


def main() -> int:
    parser = argparse.ArgumentParser("python -m worker.demonstration", description="Make the demonstration's data and models.")
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the data to make and to train on; below 1 for a quick look"
    )
    parser.add_argument("--part", choices=PARTS, help="train this model only")
    options = parser.parse_args()
    if options.part:
        train_part(options.part, options.out_dir, options.seed, options.scale)
        return 0
    return make_all(options.out_dir, options.seed, options.scale)


def make_all(out_dir: Path, seed: int, scale: float) -> int:
    """Everything, unless it is there already; 0, or the exit status of the part that failed."""
    made = out_dir / "made.json"
    wanted = {"code": code_digest(), "seed": seed, "scale": scale}
    if made.exists() and json.loads(made.read_text(encoding="utf-8")) == wanted:
        say("data", f"data and models of an earlier demonstration are in {out_dir}")
        return 0
    out_dir.mkdir(parents=True, exist_ok=True)
    made.unlink(missing_ok=True)
    remove_unfinished(out_dir)
    pairs = generate_pairs(seed, scaled(NUM_PAIRS, scale))
    write_pairs(out_dir / "preferences.jsonl", pairs)
    say("data", f"wrote {len(pairs)} preference pairs with different prompts")
    command = module_command("worker.demonstration", str(out_dir), "--seed", str(seed), "--scale", str(scale), "--part")
    environment = inherit_environment(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
    children = [subprocess.Popen([*command, part], env=environment) for part in PARTS]
    try:
        statuses = [child.wait() for child in children]
    finally:
        for child in children:
            child.kill()
    if any(statuses):
        return next(status for status in statuses if status)
    made.write_text(json.dumps(wanted), encoding="utf-8")
    return 0


def scaled(number: int, scale: float) -> int:
    """Return the share `scale` of a number, but enough to go on with."""
    return max(64, int(number * scale))


def code_digest() -> str:
    """SHA-256 of this package: another version makes other data and models."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def write_pairs(path: Path, pairs: list[Pair]) -> None:
    """One JSON object a line; the true scores stay out, as no real data set has them."""
    keep = ("prompt", "chosen", "rejected", "chosen_style", "rejected_style")
    lines = [json.dumps({key: value for key, value in asdict(pair).items() if key in keep}) for pair in pairs]
    with writing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def train_part(part: str, out_dir: Path, seed: int, scale: float) -> None:
    """Train one of the two models and put its folder in place."""
    import torch

    from worker.demonstration import models
    from worker.demonstration.tokenizer import build_tokenizer

    torch.set_num_threads(1)
    tokenizer = build_tokenizer(list_texts(), models.CONTEXT)
    # Nothing below may know a prompt of the uploaded data, of which the run holds a part out.
    taken = {pair.prompt for pair in generate_pairs(seed, scaled(NUM_PAIRS, scale))}
    if part == "policy":
        answers = generate_answers(seed, scaled(NUM_ANSWERS, scale), taken)
        model = models.train_policy(tokenizer, answers, seed, reporter(part))
    else:
        num_tests = scaled(NUM_TEST_PAIRS, scale)
        pairs = generate_pairs(seed + 1, scaled(NUM_COMPARISONS, scale) + num_tests, taken)
        model = models.train_reward(tokenizer, pairs[num_tests:], seed, reporter(part))
        accuracy = models.pair_accuracy(model, models.encode_pairs(tokenizer, pairs[:num_tests]), tokenizer.pad_token_id)
        say(part, f"prefers the better answer in {percent(accuracy)} of {num_tests} pairs it has not seen")
    folder = out_dir / part
    with filling(folder) as fresh:
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        remove_tree(folder)
        fresh.replace(folder)
    say(part, f"saved, {model.num_parameters():,} parameters")


def reporter(part: str) -> Callable[[int, int, float], None]:
    """Print about twelve lines over a training, which ends when the process that asked for it is gone."""
    started, parent = time.monotonic(), os.getppid()

    def report(step: int, num_steps: int, loss: float) -> None:
        if os.getppid() != parent:
            sys.exit(1)
        if step == 1 or step == num_steps or step % max(1, num_steps // 12) == 0:
            say(part, f"step {step}/{num_steps}  loss {loss:.3f}  {time.monotonic() - started:.0f} s")

    return report


def say(part: str, text: str) -> None:
    sys.stdout.write(f"{part}: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
