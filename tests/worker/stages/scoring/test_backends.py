from dataclasses import replace

import pytest
import torch

from tests.worker.test_scoring_runs import logs, scoring_of
from tests.worker.workshop import read_events
from worker.models import load
from worker.models.adapter import LanguageModel
from worker.stages.scoring import backends
from worker.stages.scoring.backends import FLEX, NAIVE, SHARED, choose_backend, score_by

pytestmark = pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile.*")


def go_on() -> None:
    """Never stop."""


@pytest.fixture(params=["llama", "gpt2", "qwen2"])
def model(request, workshop) -> LanguageModel:
    return load.load_policy(workshop.policy(request.param), dtype="float32", device="cpu").language_model


@pytest.mark.parametrize("backend", [SHARED, FLEX])
@pytest.mark.parametrize("row_tokens", [200, 16_384])
def test_every_backend_gives_the_numbers_of_full_passes(model, batches, backend, row_tokens, monkeypatch):
    monkeypatch.setattr(backends, "ROW_TOKENS", row_tokens)
    batch = batches[0]
    wanted = torch.rand(len(batch), 2 * len(batch), generator=torch.Generator().manual_seed(0)) < 0.7
    want, have = (score_by(name, model, batch, wanted, go_on) for name in (NAIVE, backend))
    assert torch.equal(have.isfinite(), wanted)
    torch.testing.assert_close(have[wanted], want[wanted], rtol=1e-5, atol=1e-3)


def choose(model: LanguageModel, wanted: str, batches, told: list[str], **options: bool) -> str:
    return choose_backend(model, wanted, batches[0], told.append, go_on, **options)


def test_the_quickest_backend_with_the_right_numbers_is_chosen(policy, batches):
    told: list[str] = []
    model = policy.language_model
    assert choose(model, "auto", batches, told) == SHARED
    assert choose(model, "flex", batches, told) == FLEX
    assert choose(model, "flex", batches, told, chunks=True) == SHARED
    assert choose(model, "naive", batches, told) == NAIVE
    assert told == []


def test_a_backend_with_wrong_numbers_is_told_and_left(policy, batches, monkeypatch):
    score, told = backends.score_pairs, []
    monkeypatch.setattr(backends, "score_pairs", lambda *parts: score(*parts) * 1.01)
    assert choose(policy.language_model, "auto", batches, told) == NAIVE
    (sentence,) = told
    assert sentence.startswith(
        "The shared prompt cache is not used for this model: on 4 pairs it differs from full passes by up to "
    )


def test_an_architecture_that_flex_does_not_know_falls_back(policy, batches, monkeypatch):
    told: list[str] = []

    def refuse(*_):
        raise ValueError("FlexAttention is set up for plain causal attention only, not ['softcap']")

    monkeypatch.setattr(backends, "run_flex", refuse)
    assert choose(policy.language_model, "flex", batches, told) == SHARED
    assert "FlexAttention is not used for this model: it can't run it (FlexAttention is set up for" in told[0]


def test_a_model_that_can_not_share_prefixes_is_still_scored_right(policy, batches):
    model = replace(policy.language_model, shares_prefix=False)
    wanted = torch.ones(len(batches[0]), 2 * len(batches[0]), dtype=torch.bool)
    have, want = (score_by(name, model, batches[0], wanted, go_on) for name in (SHARED, NAIVE))
    torch.testing.assert_close(have, want, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("backend", ["auto", "flex", "naive"])
def test_a_run_tells_which_backend_scored(workshop, run, backend):
    folder = workshop.attempt(kind="scoring", scoring={"backend": backend})
    assert run(folder) == 0, read_events(folder)[-1]
    assert scoring_of(folder).logprob.backend == ("shared" if backend == "auto" else backend)
    assert "is not used for this model" not in logs(folder)
