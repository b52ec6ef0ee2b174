"""A run's figures once more, from nothing but what it leaves: samples.jsonl, responses.jsonl, metrics.jsonl and numpy.

KL, gain, win rate, lengths, held-out loss, preference accuracy and margin, with their intervals. None of the studio's code has
a part in it; the definitions are those of docs/method.md.
"""

import json
from typing import Any

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import binomtest
from scipy.stats import t as student

from tests.worker.test_runner import artifacts
from tests.worker.workshop import fork_runner

RESAMPLES = 2000
PREFIXES = {"validation": "eval", "test": "test"}


@pytest.fixture(scope="module")
def finished(workshop):
    """Two runs with a reward model, made when first asked for: answers drawn as they come, or greedily."""
    kept: dict[float, Any] = {}

    def get(temperature: float):
        if temperature not in kept:
            evaluation = {"share": 0.5, "num_prompts": 18, "every": 8, "temperature": temperature}
            kept[temperature] = workshop.attempt(
                dataset=workshop.dataset(workshop.examples(72)), reward_folder=workshop.reward(), evaluation=evaluation,
                training={"steps": 8, "epochs": None, "checkpoint_every": 8},
            )  # fmt: skip
            process = fork_runner(kept[temperature])
            process.join(120)
            assert process.exitcode == 0
        return kept[temperature]

    return get


@pytest.fixture(params=[1.0, 0.0], ids=["sampled", "greedy"])
def left(request, finished) -> dict[str, list[dict[str, Any]]]:
    """The lines that a run has left."""
    folder = finished(request.param)
    names = ("samples.jsonl", "responses.jsonl", "metrics.jsonl")
    return {name: [json.loads(line) for line in (artifacts(folder) / name).read_text().splitlines()] for name in names}


def told(left, name: str) -> dict[str, float]:
    """The figures of the last evaluation, or the final ones, without their prefix."""
    kind = "evaluation" if name == "validation" else "final"
    metrics = [line["metrics"] for line in left["metrics.jsonl"] if line["kind"] == kind][-1]
    return {key.removeprefix(f"{PREFIXES[name]}/"): value for key, value in metrics.items()}


def rows(left, file: str, name: str) -> list[dict[str, Any]]:
    last = max(row["step"] for row in left[file])
    return [row for row in left[file] if (row["step"], row["set"]) == (last, name)]


def bootstrap_means(values: np.ndarray) -> np.ndarray:
    chosen = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    return values[chosen]


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Percentiles of the bootstrap at the level that makes them as wide as Student's t wants."""
    num = len(values)
    tail = ndtr(np.sqrt(num / (num - 1)) * student.ppf(0.025, num - 1))
    low, high = np.quantile(bootstrap_means(values).mean(axis=1), [tail, 1 - tail])
    return low, high


def skewed_interval(values: np.ndarray) -> tuple[float, float]:
    """Bootstrap-t."""
    resampled = bootstrap_means(values)
    error = values.std(ddof=1) / np.sqrt(len(values))
    t = (resampled.mean(axis=1) - values.mean()) / (resampled.std(axis=1, ddof=1) / np.sqrt(len(values)))
    left, right = np.quantile(t, [0.025, 0.975])
    return values.mean() - right * error, values.mean() - left * error


def share_interval(differences: np.ndarray) -> tuple[float, float]:
    """Tango's score interval of P(win) − P(loss), as a win rate."""
    num, wins, losses = len(differences), (differences > 0).sum(), (differences < 0).sum()

    def score(delta: float, z: float) -> float:
        linear = (2 * num - wins + losses) * delta - wins - losses
        q = (np.sqrt(max(0.0, linear**2 + 8 * num * losses * delta * (1 - delta))) - linear) / (4 * num)
        return float(wins - losses - num * delta - z * np.sqrt(max(0.0, num * (2 * q + delta * (1 - delta)))))

    ends = []
    for z, edge in ((1.959964, -1.0), (-1.959964, 1.0)):
        at_edge = (wins - losses) / num == edge
        ends.append(edge if at_edge else brentq(score, -1 + 1e-9, 1 - 1e-9, args=(z,)))
    return (1 + ends[0]) / 2, (1 + ends[1]) / 2


def wilson(happened: np.ndarray) -> tuple[float, float]:
    found = binomtest(int(happened.sum()), len(happened)).proportion_ci(method="wilson")
    return found.low, found.high


def share_won(differences: np.ndarray) -> float:
    return float((differences > 0).mean() + 0.5 * (differences == 0).mean())


def assert_told(figures: dict[str, float], key: str, value: float, interval: tuple[float, float], within: float = 0.0) -> None:
    """`within`: how far resampling with other random numbers may move the ends, as a share of the interval's width."""
    assert figures[key] == pytest.approx(value, rel=1e-9, abs=1e-9)
    for end, want in zip(("low", "high"), interval, strict=True):
        assert figures[f"{key}_{end}"] == pytest.approx(want, abs=1e-6 + within * (interval[1] - interval[0])), (key, end)


@pytest.mark.parametrize("name", PREFIXES)
def test_the_divergence_and_its_interval(left, name):
    figures, samples = told(left, name), rows(left, "samples.jsonl", name)
    kls = np.array([sum(sample["draw"]["token_kl"]) for sample in samples])
    assert_told(figures, "kl", kls.mean(), skewed_interval(kls), within=0.05)
    assert figures["kl_se"] == pytest.approx(kls.std(ddof=1) / np.sqrt(len(kls)))
    assert figures["num_prompts"] == len(samples) == 18
    # The draws are the policy's own: the log ratios along them are another estimate of the same, only wider.
    ratios = np.array([sample["draw"]["logprob_policy"] - sample["draw"]["logprob_reference"] for sample in samples])
    assert abs(ratios.mean() - kls.mean()) < 4 * ratios.std(ddof=1) / np.sqrt(len(ratios))


@pytest.mark.parametrize("name", PREFIXES)
def test_gain_win_rate_and_lengths(left, name):
    figures, samples = told(left, name), rows(left, "samples.jsonl", name)
    policy, reference = (np.array([sample[who]["reward"] for sample in samples]) for who in ("policy", "reference"))
    assert_told(figures, "reward_gain", (policy - reference).mean(), mean_interval(policy - reference), within=0.05)
    assert_told(figures, "win_rate", share_won(policy - reference), share_interval(policy - reference))
    assert (figures["reward_policy"], figures["reward_reference"]) == pytest.approx((policy.mean(), reference.mean()))
    for who, rewards in (("policy", policy), ("reference", reference)):
        assert_told(figures, f"reward_{who}", rewards.mean(), mean_interval(rewards), within=0.05)
        lengths = np.array([float(len(sample[who]["ids"])) for sample in samples])
        assert_told(figures, f"length_{who}", lengths.mean(), mean_interval(lengths), within=0.05)
        cut = np.array([not sample[who]["finished"] for sample in samples])
        assert_told(figures, f"unfinished_{who}", cut.mean(), wilson(cut))
    cut = np.array([not sample["draw"]["finished"] for sample in samples])
    assert_told(figures, "unfinished_draws", cut.mean(), wilson(cut))


@pytest.mark.parametrize("name", PREFIXES)
def test_preferences_and_the_held_out_loss(left, name):
    figures, responses = told(left, name), rows(left, "responses.jsonl", name)
    gains: dict[int, dict[int, list[float]]] = {}
    for row in responses:
        sides = gains.setdefault(row["example_id"], {1: [], -1: []})
        sides[row["preference"]].append(row["logprob_policy"] - row["logprob_reference"])
    margins = np.array([np.mean(sides[1]) - np.mean(sides[-1]) for sides in gains.values()])
    assert_told(figures, "preference_margin", margins.mean(), mean_interval(margins), within=0.05)
    assert_told(figures, "preference_accuracy", share_won(margins), share_interval(margins))
    assert figures["num_preferences"] == len(margins) == 18
    best = [row for row in responses if row["best"]]
    by_example: dict[int, np.ndarray] = {}
    for row in best:
        found = by_example.setdefault(row["example_id"], np.zeros(2))
        found += (-row["logprob_policy"], row["num_tokens"])
    sums, nums = np.array(list(by_example.values())).T
    loss = sums.sum() / nums.sum()
    assert_told(figures, "loss", loss, mean_interval(loss + (sums - loss * nums) / nums.mean()), within=0.05)


def test_every_row_holds_the_tokens_and_both_models_log_probabilities(left):
    for sample in left["samples.jsonl"]:
        assert sample["prompt_ids"]
        for part in ("reference", "policy", "draw"):
            record = sample[part]
            for who in ("policy", "reference"):
                assert len(record[f"token_logprob_{who}"]) == len(record["ids"])
                assert record[f"logprob_{who}"] == pytest.approx(sum(record[f"token_logprob_{who}"]), abs=1e-5)
        assert len(sample["draw"]["token_kl"]) == len(sample["draw"]["ids"])
        assert min(sample["draw"]["token_kl"]) >= 0


def test_no_prompt_of_the_test_set_was_asked_before(left):
    asked = {name: {row["example_id"] for row in left["responses.jsonl"] if row["set"] == name} for name in PREFIXES}
    assert not asked["validation"] & asked["test"]
    assert {row["step"] for row in left["responses.jsonl"] if row["set"] == "test"} == {8}
