"""What a finished scoring says of itself, for tests that have no runner."""

from typing import Any

from app.domain.scoring import RewardCheck, ScorePart, ScoringFacts


def make_part(key: str, **changes: Any) -> ScorePart:
    parts = {"key": key, "hit": False, "cross": True, "backend": "shared", "num_pairs": 1280, "num_scored": 1280}
    return ScorePart.model_validate({**parts, "size_bytes": 5120, "seconds": 12.5, **changes})


def make_check(**changes: Any) -> RewardCheck:
    parts: dict[str, Any] = {
        "num_responses": 20, "num_pairs": 10, "num_ties": 1, "accuracy": 7 / 9, "low": 0.45, "high": 0.94,
        "length_accuracy": 0.6, "length_low": 0.31, "length_high": 0.83, "mean": 0.2, "std": 1.1,
        "chosen_mean": 0.8, "rejected_mean": -0.4, "edges": [-2.0, -1.0, 0.0, 1.0, 2.0], "counts": [3, 5, 8, 4],
        "inverted": False, "flat": False,
    }  # fmt: skip
    return RewardCheck.model_validate({**parts, **changes})


def make_facts(**changes: Any) -> ScoringFacts:
    """Ten pairs in two batches, all scored."""
    parts: dict[str, Any] = {
        "index_key": "index-aaaa", "batch_size": 8, "num_batches": 2, "num_examples": 10, "num_responses": 20,
        "logprob": make_part("logprob-aaaa"), "reward": None, "check": make_check(),
    }  # fmt: skip
    return ScoringFacts.model_validate({**parts, **changes})
