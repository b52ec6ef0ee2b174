from datetime import date
from types import SimpleNamespace

import pytest
import torch

from app.domain.jobs import ModelSource
from tests.worker.workshop import make_recipe
from worker.stages.examples import Prepared
from worker.stages.scoring.sources import RewardSource


@pytest.mark.parametrize(("asked", "computed"), [({}, "float32"), ({"dtype": "bfloat16"}, "bfloat16")])
def test_a_reward_model_computes_in_float32_unless_asked_otherwise(workshop, asked, computed):
    recipe = make_recipe(
        reward={"source": "model", "model": "tiny-reward", **asked}, policy={"model": "tiny", "dtype": "bfloat16"}
    )
    folder = ModelSource(source="folder", path=str(workshop.reward()))
    spec = SimpleNamespace(device="cpu", reward=folder, hub_dir="")
    attempt = SimpleNamespace(recipe=recipe, spec=spec, day=date(2026, 1, 1), log=lambda *_: None)
    source = RewardSource(attempt, SimpleNamespace(batches=[], prepared=Prepared([], [], 0, 0)))
    assert source.model.network.dtype == getattr(torch, computed)
    wanted = source.want("own")
    assert wanted.facts["dtype"] == wanted.identity["dtype"] == computed
