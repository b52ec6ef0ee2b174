"""What a run says to prompts that it was trained on."""

import pyarrow.parquet as pq
import pytest

from app.domain.events import RecitalHeld
from tests.worker.test_runner import outcome
from tests.worker.workshop import read_events

HEART = {
    "max_examples": 3, "method": "sft", "weights": {"responses": "chosen"},
    "training": {"batch_size": 3, "steps": 60, "learning_rate": 2e-2, "schedule": "constant", "checkpoint_every": 60},
    "policy_settings": {"adaptation": "full"},
}  # fmt: skip


@pytest.mark.parametrize("recite", [0, 2])
def test_a_run_recites_what_it_learned_by_heart_where_it_is_asked(workshop, run, recite):
    folder = workshop.attempt(**HEART, evaluation={"share": 0.0, "recite": recite, "max_new_tokens": 1})
    assert run(folder) == 0, outcome(folder)
    held = [RecitalHeld.model_validate(event["payload"]) for event in read_events(folder, "recital")]
    assert len(held) == bool(recite)
    for recital in held:
        assert recital.step == 60
        asked = {row["example_id"]: row for row in workshop.examples()}
        assert len({one.example_id for one in recital.prompts}) == recite
        for one in recital.prompts:
            row = asked[one.example_id]
            assert [turn.content for turn in one.prompt] == [turn["content"] for turn in row["prompt"]]
            assert one.learned == row["responses"][0]["content"]
            assert one.is_same, one
            assert one.weight is None  # plain fine-tuning has none


def test_what_var_learned_is_told_with_its_weight(workshop, run):
    weights = {"preset": "within_prompt", "responses": "chosen", "lambda": 0.5}
    short = {**HEART, "method": "var", "weights": weights, "training": {**HEART["training"], "steps": 2}}
    folder = workshop.attempt(**short, evaluation={"share": 0.0, "recite": 2, "max_new_tokens": 1})
    assert run(folder) == 0, outcome(folder)
    (recital,) = (RecitalHeld.model_validate(event["payload"]) for event in read_events(folder, "recital"))
    rows = pq.read_table(folder.parents[1] / "artifacts" / "weights.parquet").to_pylist()
    kept = {(row["example_id"], row["response"]): row["weight"] for row in rows}
    assert [one.weight for one in recital.prompts] == [pytest.approx(kept[one.example_id, 0]) for one in recital.prompts]
