"""Our losses and their gradients beside those of TRL's own code (tests/bench/trl_losses.py), on fixed responses."""

import json
from pathlib import Path

import pytest

from tests.var.trl import ours

THEIRS = json.loads(Path(__file__).with_name("trl_losses.json").read_text())


@pytest.mark.parametrize("method", sorted(THEIRS))
def test_loss_and_gradient_are_trls(method):
    loss, gradient = ours()[method]
    assert loss == pytest.approx(THEIRS[method]["loss"], rel=1e-6)
    assert gradient == pytest.approx(THEIRS[method]["gradient"], rel=1e-5, abs=1e-9)


def test_every_method_that_trl_has_is_compared():
    assert set(THEIRS) == set(ours())
