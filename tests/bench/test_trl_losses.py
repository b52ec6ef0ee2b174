"""TRL's losses and gradients are still those that are kept: `make bench ARGS=tests/bench/test_trl_losses.py`."""

import importlib.util
import json

import pytest

from tests.bench.trl_losses import KEPT, theirs

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed; make bench installs it"),
]


def test_the_kept_numbers_are_trls():
    kept = json.loads(KEPT.read_text())
    for name, found in theirs().items():
        assert found["loss"] == pytest.approx(kept[name]["loss"], rel=1e-6), name
        assert found["gradient"] == pytest.approx(kept[name]["gradient"], rel=1e-5, abs=1e-9), name
