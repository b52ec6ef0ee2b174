"""What whole runs cost beside plain fine-tuning, scoring included: `make bench ARGS=tests/bench/test_whole_runs.py`.

One response per prompt, so that cross scoring is B² continuations for B responses trained on: its dearest case. Policy, reference
and reward model are of one size. Processor seconds of forked runners, imports excluded, one thread, runs in turn.
"""

import random
import resource
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from tests.worker.workshop import Workshop, fork_runner, make_tokenizer, read_events

LAMBDAS = (0.03, 0.1, 0.3, 0.5, 1.0, 3.0)
RUN_GOAL, SWEEP_GOAL = 1.9, 1.15
NUM_EXAMPLES, BATCH_SIZE, EPOCHS = 64, 8, 3
SHAPE = {
    "vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 704, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1,
}  # fmt: skip

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]


def save_models(root: Path) -> tuple[Path, Path]:
    tokenizer = make_tokenizer()
    policy, reward = root / "policy", root / "reward"
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(policy)
    LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=1)).save_pretrained(reward)
    for folder in (policy, reward):
        tokenizer.save_pretrained(folder)
    return policy, reward


def draw_rows() -> list[dict[str, object]]:
    """Prompts of about 128 tokens with their turns, responses of 64 to 128: a letter each, so the reward model reads as many."""
    chance = random.Random(0)

    def text(num_letters: int) -> str:
        return "".join(chance.choice("bcdfghjklmnpqrstvwxz") for _ in range(num_letters))

    return [
        {
            "example_id": k, "line": k + 1, "prompt": [{"role": "user", "content": text(112)}],
            "responses": [{"content": text(chance.randint(64, 127)), "rating": chance.random(), "preference": None}],
        }
        for k in range(NUM_EXAMPLES)
    ]  # fmt: skip


def run(folder: Path) -> float:
    """Processor seconds of the attempt in a fork of this process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = fork_runner(folder)
    process.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    outcome = read_events(folder, "outcome")[0]["payload"]
    assert outcome["outcome"] == "succeeded", outcome
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_run_and_a_sweep_cost_little_more_than_plain_fine_tuning(tmp_path):
    shop = Workshop(tmp_path)
    policy, reward = save_models(tmp_path)
    dataset = shop.dataset(draw_rows())
    parts = {
        "tokens": {"max_prompt": 128, "max_response": 128, "prompt_format": "plain"},
        "training": {"batch_size": BATCH_SIZE, "epochs": EPOCHS, "learning_rate": 1e-5, "checkpoint_every": 1000},
        "evaluation": {"share": 0.0, "num_prompts": 0},
    }

    def sft() -> float:
        return run(shop.attempt(dataset=dataset, policy=policy, reward_folder=reward, method="sft", **parts))

    def var(lambda_: float, scorings: Path) -> float:
        weights = {"preset": "length_normalised", "lambda": lambda_}
        folder = shop.attempt(
            dataset=dataset, policy=policy, reward_folder=reward, weights=weights, scorings=scorings, **parts
        )  # fmt: skip
        return run(folder)

    sft()  # the first run pays for warming up
    var_seconds, sft_seconds = [], []
    for lambda_ in LAMBDAS:
        var_seconds.append(var(lambda_, tmp_path / "scorings"))
        sft_seconds.append(sft())
    ratio, sweep = var_seconds[0] / (sum(sft_seconds) / len(sft_seconds)), sum(var_seconds) / sum(sft_seconds)
    print(
        f"\n\n{NUM_EXAMPLES} prompts of 128 tokens, one response each, B={BATCH_SIZE}, {EPOCHS} epochs, Llama of 4 layers × 256"
    )
    for name, seconds in (("VAR, the first with its scoring", var_seconds), ("SFT", sft_seconds)):
        print(f"{name:<36}{'  '.join(f'{s:.1f}' for s in seconds)} s")
    print()
    print(f"{'seconds / seconds of':<48}{'goal':>6}{'measured':>10}")
    for what, goal, measured in (
        ("a VAR run, scoring included / an SFT run", RUN_GOAL, ratio),
        ("a sweep of six λ / six SFT runs", SWEEP_GOAL, sweep),
    ):
        print(f"{what:<48}{goal:>6}{measured:>10.2f}{'' if measured <= goal else '  missed'}")
    assert ratio < 3.0
    assert sweep < 1.5
