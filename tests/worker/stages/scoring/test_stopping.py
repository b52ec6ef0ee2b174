"""Early stopping against the full computation: the same weights, from fewer tokens and fewer questions to the reward model."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.domain.recipe import Recipe
from app.domain.run import RunKind
from tests.worker.test_third_party import POLICY, read_transcripts
from tests.worker.workshop import make_recipe, read_events
from worker.models import load
from worker.runner import read_spec
from worker.running.spool import Spool
from worker.running.stop import StopSignals
from worker.stages.attempt import AttemptContext
from worker.stages.prepare import lay_ground
from worker.stages.scoring import pairs, stopping
from worker.stages.scoring.cache import CROSS, EARLY
from worker.stages.scoring.pairs import mark_pairs, score_pairs, score_until_hopeless
from worker.stages.scoring.sources import ReferenceSource, RewardSource
from worker.stages.scoring.stage import Scores, score_all
from worker.stages.scoring.stopping import find_stopping_lambda
from worker.stages.training.methods import make_weights
from worker.stages.training.weights import Weighing

PAPER = {"preset": "paper"}


def score_as_told(folder: Path) -> tuple[Scores, Weighing]:
    """Stages prepare and score of an attempt, and the weights that they give."""
    with closing(Spool(folder / "events.jsonl")) as spool:
        attempt = AttemptContext(read_spec(folder), spool, StopSignals(folder))
        ground = lay_ground(attempt)
        scores = score_all(attempt, ground)
        return scores, make_weights(attempt, ground, scores)


def weights_of(weighing: Weighing) -> torch.Tensor:
    return torch.cat([batch.weight_M for batch in weighing.batches])


@pytest.fixture
def exactly(monkeypatch):
    """Networks in float64: in float32 sums move by 1e-5 with the rows that share a pass, and the weights with them."""
    monkeypatch.setattr(load, "DTYPES", {"float32": torch.float64})


def compare(workshop, lambda_: float, **parts) -> tuple[Scores, Scores]:
    """Scores with and without early stopping, proven to give the same weights."""
    parts["weights"] = {**PAPER, "lambda": lambda_, **parts.get("weights", {})}
    whole, whole_weights = score_as_told(
        workshop.attempt(scoring={"early_stopping": False}, scorings=workshop.root / "in-full", **parts)
    )
    part, part_weights = score_as_told(workshop.attempt(**parts))
    torch.testing.assert_close(weights_of(part_weights), weights_of(whole_weights), rtol=0, atol=1e-6)
    for batch, other in zip(part_weights.batches, whole_weights.batches, strict=True):
        ours, theirs = part_weights.describe(batch), whole_weights.describe(other)
        assert ours["weight/off_diagonal"] == pytest.approx(theirs["weight/off_diagonal"], abs=1e-6)
    return whole, part


@pytest.mark.parametrize("lambda_", [0.1, 0.3, 1.0, 10.0])
def test_the_weights_are_those_of_the_full_computation(workshop, exactly, lambda_):
    whole, part = compare(workshop, lambda_, reward_folder=workshop.reward())
    assert whole.facts is not None
    assert part.facts is not None
    assert whole.facts.logprob.num_scored == whole.facts.logprob.num_pairs == part.facts.logprob.num_pairs
    assert part.facts.logprob.num_scored < 0.9 * part.facts.logprob.num_pairs
    assert part.facts.reward is not None
    assert part.facts.reward.num_scored == part.facts.logprob.num_scored
    assert part.facts.logprob.smallest_lambda == lambda_
    dropped = torch.cat([(logprob_BM == -torch.inf).flatten() for logprob_BM in part.logprobs])
    assert torch.equal(dropped, torch.cat([reward_BM.isnan().flatten() for reward_BM in part.rewards]))


@pytest.mark.shared
@pytest.mark.parametrize(("source", "lambda_"), [("model", 0.1), ("model", 1.0), ("preference", 0.3)])
def test_the_weights_are_those_of_the_full_computation_on_real_text(workshop, exactly, shared, source, lambda_):
    dataset = workshop.dataset(read_transcripts(shared / "data/hh/helpful-base.jsonl", 18), "helpful-stopped")
    parts = {"reward_folder": workshop.reward()} if source == "model" else {}
    _, part = compare(
        workshop, lambda_, policy=shared / POLICY, dataset=dataset, tokens={"max_prompt": 64, "max_response": 96},
        training={"batch_size": 8}, evaluation={"split": "prompt"}, **parts,
    )  # fmt: skip
    assert part.facts is not None
    assert part.facts.logprob.num_scored < 0.8 * part.facts.logprob.num_pairs
    if source == "model":
        assert part.facts.reward is not None
        assert part.facts.reward.num_scored < 0.8 * part.facts.reward.num_pairs


@pytest.mark.parametrize("how", [{"weights": {"cross_reward": "reuse"}}, {"weights": {"reward_norm": "zscore"}}])
def test_reused_and_z_scored_rewards_are_stopped_early_too(workshop, exactly, how):
    _, part = compare(workshop, 0.5, reward_folder=workshop.reward(), **how)
    assert part.facts is not None
    assert part.facts.logprob.num_scored < part.facts.logprob.num_pairs


def test_a_bound_that_was_too_low_is_raised_and_what_it_uncovers_is_scored(workshop, monkeypatch):
    monkeypatch.setattr(stopping, "bound_rewards", lambda reward_N: float(reward_N.max()) + 1e-3)
    rows = workshop.examples(24, seed=3)
    folder = workshop.attempt(
        reward_folder=workshop.reward(), dataset=workshop.dataset(rows, "bound"),
        weights={**PAPER, "lambda": 0.02}, scoring={"early_stopping": True},
    )  # fmt: skip

    # A reward model that praises other prompts' responses beyond anything it says of own ones.
    def praise(source, batch, wanted_BM):
        own_BM = mark_pairs(batch, cross=False)
        return torch.where(wanted_BM & ~own_BM, 5.0, score(source, batch, wanted_BM & own_BM))

    score = RewardSource.score
    monkeypatch.setattr(RewardSource, "score", praise)
    scores, _ = score_as_told(folder)
    texts = [event["payload"]["text"] for event in read_events(folder, "log")]
    assert any("is above the assumed bound of" in text for text in texts)
    assert max(float(reward_BM.nan_to_num(-torch.inf).max()) for reward_BM in scores.rewards) == 5.0


def test_larger_lambdas_of_a_sweep_find_everything(workshop, monkeypatch):
    scorings = workshop.root / "scorings-stopped"
    parts = {"reward_folder": workshop.reward(), "scorings": scorings}
    early = {"early_stopping": True, "smallest_lambda": 0.3}
    score_as_told(workshop.attempt(weights={**PAPER, "lambda": 1.0}, scoring=early, **parts))

    def refuse(_self):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(RewardSource, "model", property(refuse))
    monkeypatch.setattr(ReferenceSource, "model", property(refuse))
    for lambda_ in (0.3, 3.0):
        scores, weighing = score_as_told(workshop.attempt(weights={**PAPER, "lambda": lambda_}, scoring=early, **parts))
        assert scores.facts is not None
        assert scores.facts.logprob.hit
        assert scores.facts.reward is not None
        assert scores.facts.reward.hit
        assert scores.facts.logprob.smallest_lambda == 0.3
        assert weights_of(weighing).isfinite().all()
    with pytest.raises(AssertionError, match="a model was loaded"):
        score_as_told(workshop.attempt(weights={**PAPER, "lambda": 0.1}, scoring={}, **parts))


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_chunks_of_any_size_give_the_sums_of_whole_responses(workshop, batches, monkeypatch, size, kind):
    monkeypatch.setattr(pairs, "CHUNK", size)
    model = load.load_policy(workshop.policy(kind), dtype="float32", device="cpu").language_model
    batch = batches[0]
    wanted = mark_pairs(batch, cross=True)
    want = score_pairs(model, batch, wanted)
    never = torch.full_like(want, -torch.inf)
    torch.testing.assert_close(score_until_hopeless(model, batch, wanted, never, go_on), want, rtol=1e-5, atol=1e-3)
    floor = want.mean() + never.nan_to_num(neginf=0.0)
    found = score_until_hopeless(model, batch, wanted, floor, go_on)
    kept = found >= floor
    assert torch.equal(kept, want >= floor)
    torch.testing.assert_close(found[kept], want[kept], rtol=1e-5, atol=1e-3)
    assert (found[~kept] >= want[~kept] - 1e-3).all()
    plain = score_until_hopeless(replace(model, shares_prefix=False), batch, wanted, floor, go_on)
    torch.testing.assert_close(plain, want, rtol=1e-5, atol=1e-3)


def go_on() -> None:
    """Never stop."""


def test_weights_know_from_which_temperature_on_their_scores_serve(workshop):
    """Below the λ of the certificate the pairs that were dropped may count."""
    parts = {"reward_folder": workshop.reward(), "weights": {**PAPER, "lambda": 10.0}}
    _, weighing = score_as_told(workshop.attempt(**parts))
    assert weighing.served == 10.0
    assert (weighing.temperatures.balanced or 10.0) >= 10.0
    _, complete = score_as_told(workshop.attempt(scoring={"early_stopping": False}, scorings=workshop.root / "in-full", **parts))
    assert complete.served is None


def test_pairs_are_dropped_only_where_the_certificate_holds():
    def lambda_of(kind: RunKind = RunKind.TRAINING, **parts) -> float | None:
        weights = {**PAPER, "lambda": 0.5, **parts.pop("weights", {})}
        recipe: Recipe = make_recipe(True, weights=weights, **parts)
        return find_stopping_lambda(recipe, kind)

    assert lambda_of() == 0.5
    assert lambda_of(scoring={"smallest_lambda": 0.1}) == 0.1
    assert lambda_of(scoring={"smallest_lambda": 0.7}) == 0.5
    refused: Sequence[dict] = (
        {"weights": {"preset": "length_normalised"}},
        {"weights": {"weight_form": "ratio"}},
        {"weights": {"partition_scope": "prompt"}},
        {"weights": {"lambda": None, "target_ess": 0.5}},
        {"scoring": {"early_stopping": False}},
        {"noise": {"label_flip_share": 0.1}},
        {"noise": {"reward_std": 0.1}},
        {"method": "dpo"},
        {"kind": RunKind.SCORING},
    )
    assert [lambda_of(**parts) for parts in refused] == [None] * len(refused)
    assert {CROSS, EARLY} == {"cross", "early"}
