import random
from collections.abc import Mapping
from typing import Any

import pytest

from app.domain.experiments.catalogue import EXPERIMENTS, conclude
from app.domain.experiments.outcomes import Evidence, ExperimentOutcome, Recited, Setting
from app.domain.statistics.estimate import Estimate
from app.domain.statistics.paired import PairedComparison, compare_paired
from app.system.numbers import number

LAMBDA, SIZE, RATE = "weights.lambda", "training.batch_size", "training.learning_rate"
PROMPTS = 40


def answers(gain: float, seed: int) -> list[float]:
    """Rewards of answers that are better by this than those of another model with gain 0."""
    chance = random.Random(seed)
    return [k % 7 + gain + chance.gauss(0, 0.2) for k in range(PROMPTS)]


def judged(name: str, *settings: tuple[Mapping[str, Any], float | None], **figures: Any) -> ExperimentOutcome:
    """The outcome where each setting (changes, gain) has answered the same prompts; those without a gain have failed."""
    rewards = [None if gain is None else answers(gain, seed) for seed, (_, gain) in enumerate(settings)]
    kls = figures.get("kls", [1.0] * len(settings))
    made = [
        Setting(EXPERIMENTS[name].label(changes), changes)
        if gain is None
        else Setting(EXPERIMENTS[name].label(changes), changes, Estimate(gain, gain - 0.1, gain + 0.1), gain, Estimate(kl))
        for (changes, gain), kl in zip(settings, kls, strict=True)
    ]

    def compare(first: int, second: int) -> PairedComparison | None:
        ours, theirs = rewards[first], rewards[second]
        return compare_paired(ours, theirs) if ours and theirs else None

    return conclude(EXPERIMENTS[name], Evidence(made, compare))


@pytest.mark.parametrize(
    ("gains", "kls", "state"),
    [((1.0, 0.5, 0.1), (3, 2, 1), "expected"), ((0.1, 0.5, 1.0), (3, 2, 1), "unexpected"),
     ((0.5, 0.5, 0.5), (3, 2, 1), "undecided"), ((1.0, 0.5, 0.1), (1, 2, 3), "unexpected")],
)  # fmt: skip
def test_a_smaller_temperature_gains_more_and_goes_further(gains: tuple[float, ...], kls: tuple[float, ...], state: str) -> None:
    settings = [({LAMBDA: value}, gain) for value, gain in zip((0.1, 0.4, 1.6), gains, strict=True)]
    outcome = judged("temperature", *settings, kls=kls)
    assert outcome.state == state
    assert outcome.sentences[0].startswith("λ 0.1 against λ 1.6: ")
    assert all(text.endswith(".") for text in outcome.sentences)
    assert ("not told apart" in outcome.sentences[0]) is (state == "undecided")


@pytest.mark.parametrize(("of_dpo", "state"), [(0.2, "expected"), (1.1, "undecided"), (2.0, "unexpected")])
def test_methods_are_compared_at_the_rates_that_validation_chose(of_dpo: float, state: str) -> None:
    outcome = judged(
        "methods", ({RATE: 1e-5}, 0.3), ({RATE: 1e-4}, 1.0), ({"baseline": "dpo", RATE: 1e-6}, of_dpo),
        ({"baseline": "dpo", RATE: 1e-5}, of_dpo - 0.5), ({"baseline": "sft_chosen", RATE: 1e-5}, 0.1),
    )  # fmt: skip
    assert outcome.state == state
    assert [text.split(":")[0] for text in outcome.sentences] == [
        "VAR at 0.0001 against DPO at 1e-06", "VAR at 0.0001 against SFT on chosen at 1e-05",
        "KL from the reference, the price of these gains",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("gains", "state"),
    [((0.3, 0.4, 0.9, 0.4), "expected"), ((0.3, 0.4, 0.4, 0.9), "unexpected"), ((0.05, 0.4, 0.9, 0.4), "undecided"),
     ((0.3, 0.4, 0.9, 0.9), "undecided")],
)  # fmt: skip
def test_eight_prompts_do_best_and_two_still_work(gains: tuple[float, ...], state: str) -> None:
    outcome = judged("batch", *(({SIZE: size}, gain) for size, gain in zip((2, 4, 8, 16), gains, strict=True)))
    assert outcome.state == state
    assert "B = 8 against B = 2" in outcome.sentences[0]
    assert outcome.sentences[-2].startswith(f"B = 2 gains +{number(gains[0])} (95 % interval ")


def test_noise_and_fresh_responses_are_compared_at_their_ends() -> None:
    noisy = judged("noise", ({"noise.reward_std": 2.0}, 0.1), ({"noise.reward_std": 0.0}, 0.9), ({"noise.reward_std": 1.0}, 0.5))
    fresh = judged("online", ({"online.every": None}, 0.9), ({"online.every": 12}, 0.1))
    assert (noisy.state, fresh.state) == ("expected", "unexpected")
    assert fresh.sentences[0].startswith("fresh every 12 steps against the data's own: −")


@pytest.mark.parametrize(("losses", "state"), [((3.0, 0.1), "expected"), ((3.0, 0.2), "unexpected"), (None, "undecided")])
def test_a_batch_is_learnt_by_heart_when_its_loss_is_nearly_gone(losses: tuple[float, float] | None, state: str) -> None:
    evidence = Evidence([Setting("the recipe", {}, losses=losses)], lambda *_: None)
    assert conclude(EXPERIMENTS["overfit"], evidence).state == state


def test_what_is_not_recited_is_told_with_its_weight() -> None:
    """Seven of eight, the eighth with no weight to speak of: the loss is gone without it."""
    settings = [Setting("the recipe", {}, losses=(3.0, 0.001))]
    told = [
        conclude(EXPERIMENTS["overfit"], Evidence(settings, lambda *_: None, recited)).sentences[-1]
        for recited in (Recited(7, 8, 0.0032), Recited(8, 8))
    ]
    assert told == [
        "Of its 8 training prompts it answers 7 word for word as it learned; the heaviest of the others weighs 0.00320.",
        "Of its 8 training prompts it answers 8 word for word as it learned.",
    ]


def test_a_setting_whose_runs_have_failed_is_named_and_the_others_are_judged() -> None:
    """A rate that is too large ends in a divergence: the other rates still answer the question."""
    rates = judged(
        "methods", ({RATE: 1e-4}, 1.0), ({RATE: 1.0}, None), ({"baseline": "dpo", RATE: 1e-6}, 0.2),
        ({"baseline": "sft_chosen", RATE: 1e-5}, 0.1),
    )  # fmt: skip
    assert rates.state == "expected"
    assert rates.sentences[-1] == "Left out, as no run of it has the figures: VAR at 1."
    ends = judged(
        "temperature", *(({LAMBDA: value}, gain) for value, gain in ((0.1, None), (0.4, 1.0), (1.6, 0.2))), kls=(9, 2, 1)
    )
    assert (ends.state, ends.sentences[0][:21]) == ("expected", "λ 0.4 against λ 1.6: ")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        (
            "methods",
            [({RATE: 1e-4}, 1.0), ({"baseline": "dpo", RATE: 1e-6}, None), ({"baseline": "sft_chosen", RATE: 1e-5}, 0.1)],
        ),
        ("batch", [({SIZE: 2}, 0.4), ({SIZE: 4}, None), ({SIZE: 8}, 0.9), ({SIZE: 16}, 0.3)]),
        ("batch", [({SIZE: 2}, 0.4), ({SIZE: 8}, None), ({SIZE: 16}, 0.3)]),
        ("noise", [({"noise.reward_std": 0.0}, 0.4), ({"noise.reward_std": 2.0}, None)]),
        ("online", [({"online.every": None}, 0.4), ({"online.every": 5}, None)]),
        ("temperature", [({LAMBDA: 0.1}, None), ({LAMBDA: 1.6}, None)]),
    ],
)
def test_what_misses_the_runs_that_would_answer_it_is_not_decided(
    name: str, settings: list[tuple[dict[str, Any], float | None]]
) -> None:
    """All have ended, so nothing is waited for."""
    outcome = judged(name, *settings)
    assert outcome.state == "undecided"
    assert outcome.sentences[-1].startswith("Left out, as no run of it has the figures: ")


@pytest.mark.parametrize("name", ["methods", "online", "noise", "batch"])
def test_a_gain_is_told_with_the_distance_that_it_was_reached_at(name: str) -> None:
    settings = {
        "methods": [({RATE: 1e-4}, 1.0), ({"baseline": "dpo", RATE: 1e-6}, 0.2)],
        "online": [({"online.every": None}, 0.2), ({"online.every": 5}, 1.0)],
        "noise": [({"noise.reward_std": 0.0}, 1.0), ({"noise.reward_std": 2.0}, 0.2)],
        "batch": [({SIZE: 2}, 0.3), ({SIZE: 8}, 1.0)],
    }[name]
    outcome = judged(name, *settings, kls=(2.5, 10.8))
    assert "2.50 (" in outcome.sentences[-1]
    assert "10.8 (" in outcome.sentences[-1]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_without_runs_decides_nothing(name: str) -> None:
    assert conclude(EXPERIMENTS[name], Evidence([], lambda *_: None)).state == "undecided"
