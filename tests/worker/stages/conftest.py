"""Prepared examples and a policy, without a run around them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.recipe import Recipe
from tests.worker.workshop import Workshop, make_recipe
from worker.models.load import Policy, load_policy
from worker.models.prompts import PromptFormat
from worker.stages.batches import plan_batches
from worker.stages.examples import Encoded, Lengths, Prepared, prepare


@pytest.fixture(scope="session")
def policy(workshop: Workshop) -> Policy:
    return load_policy(workshop.policy(), dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def prepare_rows(workshop: Workshop, policy: Policy) -> Callable[..., Prepared]:
    """prepare() on a data set file with the tiny policy's tokenizer."""

    def run(path: Path, recipe: Recipe | None = None, lengths: Lengths | None = None) -> Prepared:
        prompt_format = PromptFormat.choose(policy.tokenizer)
        return prepare(recipe or make_recipe(), path, prompt_format, lengths or Lengths(64, 48, 12), lambda *_: None)

    return run


@pytest.fixture(scope="session")
def batches(workshop: Workshop, prepare_rows: Callable[..., Prepared]) -> list[list[Encoded]]:
    """Batches of 4 prompts with 2 responses each."""
    prepared = prepare_rows(workshop.dataset(workshop.examples()))
    return [[prepared.train[i] for i in batch] for batch in plan_batches(len(prepared.train), 4, seed=1)]
