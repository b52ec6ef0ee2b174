"""The memory plan against what a run really took, for two sizes of model, each in a process of its own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from app.domain.memory import FACTOR
from tests.worker.workshop import Workshop, fork_runner, make_tokenizer, read_events

SIZES = {"narrow": (256, 4, 704), "wide": (512, 6, 1408)}  # hidden, layers, intermediate: 7 and 27 million parameters


def build_policy(root: Path, size: str) -> Path:
    folder = root / f"policy-{size}"
    hidden, layers, intermediate = SIZES[size]
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8000,
            hidden_size=hidden,
            num_hidden_layers=layers,
            intermediate_size=intermediate,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=512,
            eos_token_id=0,
            pad_token_id=1,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def long_examples(workshop: Workshop) -> Path:
    rows: list[dict[str, Any]] = workshop.examples(8)
    for row in rows:
        row["prompt"][0]["content"] += " again" * 40
        for response in row["responses"]:
            response["content"] = response["content"] * 3
    return workshop.dataset(rows, "long")  # two whole batches, both of which are trained on


@pytest.mark.parametrize("size", SIZES)
def test_the_plan_holds_within_its_factor(size: str, workshop: Workshop) -> None:
    folder = workshop.attempt(
        dataset=long_examples(workshop),
        policy=build_policy(workshop.root, size),
        tokens={"max_prompt": 256, "max_response": 128},
        training={"batch_size": 4, "steps": 2},
        evaluation={"share": 0, "num_prompts": 0},
    )
    runner = fork_runner(folder)
    runner.join(200)
    assert runner.exitcode == 0, (folder / "log.txt").read_text()
    first, last = (event["payload"] for event in read_events(folder, "memory"))
    assert read_events(folder, "step")[-1]["payload"]["metrics"]["peak_memory_bytes"] == last["actual_bytes"]
    assert first["actual_bytes"] is None
    predicted, calibrated, actual = (last[f"{name}_bytes"] for name in ("predicted", "calibrated", "actual"))
    print(f"\n{size}: predicted {predicted / 2**20:.0f} MiB, calibrated {calibrated / 2**20:.0f}, actual {actual / 2**20:.0f}")
    assert sum(last["parts"].values()) == predicted < last["limit_bytes"]
    assert 1 / FACTOR < predicted / actual < FACTOR
    assert 1 / 1.25 < calibrated / actual < 1.25
