import math

import pytest
import torch

from app.domain.events import FindingRaised
from tests.worker.workshop import read_events
from worker.stages.training import gradients
from worker.stages.training import loop as stage
from worker.stages.training.loop import TrainingProgress, settled_findings


def finding(name: str) -> FindingRaised:
    return FindingRaised(name=name, severity="warning", title="t", evidence="e", remedy="r")


def raised(pattern: str, name: str = "length_driven", num_steps: int = 100) -> list[int]:
    """At which steps a finding that shows at the steps marked x is told."""
    progress, told = TrainingProgress(), []
    for step, mark in enumerate(pattern, start=1):
        progress.step = step
        if settled_findings(progress, [finding(name)] if mark == "x" else [], num_steps):
            told.append(step)
    return told


def test_one_odd_batch_does_not_cry():
    assert raised("x....x....") == []
    assert raised("xx........") == []


def test_three_of_five_do():
    assert raised("x.x.x") == [5]
    assert raised("xxx") == [3]


def test_a_run_of_two_steps_can_still_have_findings():
    assert raised("xx", num_steps=2) == [2]


def test_divergence_is_told_at_once():
    assert raised("x", name="divergence") == [1]


@pytest.fixture
def poisoned(monkeypatch):
    """Makes the loss of chosen steps NaN, where the forward pass makes it; the first pass is the one that measures memory."""

    def at(*steps: int) -> None:
        real, seen = gradients.weighted_nll, []

        def weighted_nll(*args, **options):
            seen.append(1)
            loss, logprob = real(*args, **options)
            return (loss * math.nan if len(seen) - 1 in steps else loss), logprob

        monkeypatch.setattr(gradients, "weighted_nll", weighted_nll)

    return at


def test_a_step_with_a_loss_that_is_not_finite_changes_no_weight(workshop, run, poisoned, monkeypatch):
    poisoned(3)
    snapshots = []
    record = stage.record

    def snapshot(training, *rest):
        snapshots.append(torch.cat([p.detach().flatten().clone() for p in training.model.network.parameters()]))
        record(training, *rest)

    monkeypatch.setattr(stage, "record", snapshot)
    folder = workshop.attempt()
    assert run(folder) == 0
    assert torch.equal(snapshots[2], snapshots[1])
    assert not torch.equal(snapshots[3], snapshots[2])
    steps = read_events(folder, "step")
    assert [step["payload"]["metrics"]["loss"] is None for step in steps].index(True) == 2
    assert [f["payload"]["name"] for f in read_events(folder, "finding")].count("divergence") == 1


def test_a_loss_that_stays_not_finite_ends_the_attempt_with_a_remedy(workshop, run, poisoned):
    poisoned(2, 3, 4)
    folder = workshop.attempt()
    assert run(folder) == 10
    outcome = read_events(folder)[-1]["payload"]
    assert "3 steps in a row up to step 4" in outcome["reason"]
    assert "learning_rate" in outcome["remedy"]
    assert outcome["retry"] is False


def test_gradient_checkpointing_changes_no_number(workshop, run):
    plain, recomputed = workshop.attempt(), workshop.attempt(policy_settings={"gradient_checkpointing": True})
    assert run(plain) == run(recomputed) == 0
    losses = [[step["payload"]["metrics"]["loss"] for step in read_events(folder, "step")] for folder in (plain, recomputed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
