"""What the test set is for: a choice by validation figures makes these too good, and leaves the test figures as they are."""

import numpy as np

from app.domain.statistics.paired import paired_gain

REPETITIONS, NUM_VARIANTS, NUM_PROMPTS, GAIN, SPREAD = 500, 8, 48, 0.5, 1.5


def test_the_best_of_several_is_too_good_by_validation_and_as_good_as_it_is_by_test() -> None:
    """500 sweeps of eight equal variants: the one with the largest validation gain is chosen, then read on the test set."""
    chance = np.random.default_rng(0)
    held, optimism, noise = {"validation": 0, "test": 0}, [], []
    for _ in range(REPETITIONS):
        reference = chance.normal(0, 1, NUM_PROMPTS)
        policies = reference + GAIN + chance.normal(0, SPREAD, (NUM_VARIANTS, NUM_PROMPTS))
        best = policies[policies.mean(axis=1).argmax()]
        unread = chance.normal(0, 1, NUM_PROMPTS)
        for name, policy, beside in (
            ("validation", best, reference),
            ("test", unread + GAIN + chance.normal(0, SPREAD, NUM_PROMPTS), unread),
        ):
            found = paired_gain(policy.tolist(), beside.tolist())
            held[name] += found.low <= GAIN <= found.high
            (optimism if name == "validation" else noise).append(found.value - GAIN)
    assert 0.93 <= held["test"] / REPETITIONS <= 0.97
    assert held["validation"] / REPETITIONS < 0.9
    assert np.mean(optimism) > 1.2 * SPREAD / np.sqrt(NUM_PROMPTS)  # the largest of eight lies 1.42 errors up
    assert abs(np.mean(noise)) < 0.2 * SPREAD / np.sqrt(NUM_PROMPTS)
