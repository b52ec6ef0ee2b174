"""Which model a run leaves, in whole runs whose evaluations are told what to find."""

import pytest
import torch
from safetensors.torch import load_file

from tests.worker.test_runner import artifacts, outcome, wait_for, weights_digest
from tests.worker.workshop import fork_runner, read_events
from worker.models.checkpoint import load_step
from worker.stages.training import gradients, methods

EVERY_TWO = {"evaluation": {"every": 2, "num_prompts": 2}, "training": {"keep_checkpoints": 100}}


@pytest.fixture
def told(monkeypatch):
    """Makes the validation set find these shares of preferences, by step."""

    def set_to(found: dict[int, float]) -> None:
        real = methods.evaluate

        def evaluate(attempt, held_out, model, step):
            return real(attempt, held_out, model, step) | {"eval/preference_accuracy": found.get(step, 0.5)}

        monkeypatch.setattr(methods, "evaluate", evaluate)

    return set_to


def kept(folder) -> dict:
    (event,) = read_events(folder, "kept")
    return event["payload"]


def is_model_of(folder, step: int) -> bool:
    """Return whether the model left is that of a checkpoint's own step."""
    saved = load_file(artifacts(folder) / "model" / "model.safetensors")
    values = load_step(folder.parents[1] / "checkpoints", step).tensors
    return all(torch.equal(saved[name], values[f"value/{name}"]) for name in saved)


def test_the_best_on_validation_is_the_model_and_is_what_the_test_set_judges(workshop, run, told):
    told({0: 0.5, 2: 0.6, 4: 0.9, 6: 0.7, 8: 0.8, 10: 0.7})
    evaluation = EVERY_TWO["evaluation"] | {"recite": 1}
    folder = workshop.attempt(**{**EVERY_TWO, "evaluation": evaluation}, keep={"model": "best"})
    assert run(folder) == 0, outcome(folder)
    assert (kept(folder)["step"], kept(folder)["last_step"], kept(folder)["stopped"]) == (4, 10, "")
    assert is_model_of(folder, 4)
    (final,), (recital,) = (read_events(folder, kind) for kind in ("final", "recital"))
    assert final["payload"]["step"] == recital["payload"]["step"] == 4
    assert not is_model_of(folder, 10)


def test_a_run_that_has_stopped_by_a_rule_goes_on_after_a_kill_and_ends_bit_equal(workshop, run, told):
    told({0: 0.5, 2: 0.6, 4: 0.9, 6: 0.7, 8: 0.8, 10: 1.0})
    parts = {**EVERY_TWO, "keep": {"model": "best", "patience": 2}}
    undisturbed = workshop.attempt(**parts)
    assert run(undisturbed) == 0, outcome(undisturbed)
    assert (kept(undisturbed)["step"], kept(undisturbed)["last_step"]) == (4, 8)
    folder = workshop.attempt(**parts)
    process = fork_runner(folder)
    wait_for(folder, "step", 7)
    process.kill()
    process.join()
    second = workshop.next_attempt(folder)
    assert run(second) == 0, outcome(second)
    assert kept(second) == kept(undisturbed)
    assert weights_digest(second) == weights_digest(undisturbed)


def test_a_loss_that_stays_not_finite_leaves_the_best_model_where_the_best_is_kept(workshop, run, told, monkeypatch):
    told({0: 0.5, 2: 0.9, 4: 0.6})
    real, seen = gradients.weighted_nll, []

    def weighted_nll(*args, **options):
        seen.append(1)
        loss, logprob = real(*args, **options)
        return (loss * float("nan") if len(seen) > 6 else loss), logprob

    monkeypatch.setattr(gradients, "weighted_nll", weighted_nll)
    folder = workshop.attempt(**EVERY_TWO, keep={"model": "best"})
    assert run(folder) == 0, outcome(folder)
    assert kept(folder)["step"] == 2
    assert kept(folder)["stopped"] == "the loss or its gradient was not finite, or exploded, 3 steps in a row"
    assert is_model_of(folder, 2)


def test_a_rule_that_the_data_leave_no_time_to_fire_is_refused(workshop, run):
    folder = workshop.attempt(keep={"patience": 3})
    assert run(folder) == 10
    assert "It can never stop this run" in read_events(folder)[-1]["payload"]["reason"]


@pytest.mark.parametrize(
    ("method", "keep", "field"),
    [
        ("var", {"model": "best"}, "keep.model"),
        ("dpo", {"patience": 1}, "keep.patience"),
        ("reward_model", {"model": "best"}, "keep.model"),
    ],
)
def test_the_best_of_data_of_one_conversation_is_refused_as_nothing_can_be_held_out(workshop, run, method, keep, field):
    rows = [{**row, "prompt": [{"role": "user", "content": "One for all."}]} for row in workshop.examples(8)]
    weights = {} if method == "var" else {"lambda": None}
    folder = workshop.attempt(
        dataset=workshop.dataset(rows, "one-prompt"), method=method, weights=weights, keep=keep, training={"steps": 8}
    )
    assert run(folder) == 10
    said = outcome(folder)["reason"]
    assert said.startswith("All examples belong to one conversation, so none is held out that could decide this")
    assert field in str(outcome(folder))


def test_the_model_of_a_named_step_is_that_of_the_whole_runs_checkpoint(workshop, run):
    """A point of the frontier: the same recipe, ended there."""
    whole = workshop.attempt(**EVERY_TWO)
    assert run(whole) == 0, outcome(whole)
    folder = workshop.attempt(**EVERY_TWO, keep={"step": 4})
    assert run(folder) == 0, outcome(folder)
    assert kept(folder)["text"] == "The model is that of step 4 of 10, as the recipe asks."
    assert read_events(folder, "final")[0]["payload"]["step"] == 4
    values = load_step(whole.parents[1] / "checkpoints", 4).tensors
    saved = load_file(artifacts(folder) / "model" / "model.safetensors")
    assert all(torch.equal(saved[name], values[f"value/{name}"]) for name in saved)
