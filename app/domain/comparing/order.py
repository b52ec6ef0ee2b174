"""In which order the prompts of a comparison are looked at: by what one judge makes of two models, or where judges disagree."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from statistics import pstdev

ByJudge = Mapping[str, Mapping[int, float]]  # of two models: by the judge's key and the prompt, how much more the first got


class Sort(StrEnum):
    """The first model's losses come first, or its gains, or what the judges see differently, or the prompts as they are."""

    LOSSES = "losses"
    GAINS = "gains"
    DISAGREEMENT = "disagreement"
    PROMPTS = "prompts"


def order_prompts(num_prompts: int, gains: ByJudge, judge: str, sort: Sort) -> list[int]:
    """Return the prompts in this order; by a judge those that it has judged, by disagreement those where two contradict."""
    mine = gains.get(judge, {})
    if sort == Sort.PROMPTS or not mine:
        return list(range(num_prompts))
    if sort == Sort.DISAGREEMENT:
        spreads = {key: pstdev(found.values()) or 1.0 for key, found in gains.items() if found}
        contradicted = {prompt: far for prompt in range(num_prompts) if (far := _contradiction(gains, spreads, prompt)) > 0}
        return sorted(contradicted, key=lambda prompt: (-contradicted[prompt], prompt))
    sign = 1 if sort == Sort.LOSSES else -1
    return sorted(mine, key=lambda prompt: (sign * mine[prompt], prompt))


def page_of(order: Sequence[int], wanted: set[int] | None, after: int | None, limit: int) -> tuple[list[int], int | None]:
    """Return the next prompts of an order after one of them, those found by a search alone, and whom the next page follows."""
    found = [prompt for prompt in order if wanted is None or prompt in wanted]
    start = found.index(after) + 1 if after is not None and after in found else 0
    shown = found[start : start + limit]
    return shown, shown[-1] if start + limit < len(found) else None


def _contradiction(gains: ByJudge, spreads: Mapping[str, float], prompt: int) -> float:
    """Return how far apart the judges are that disagree most, each in deviations of its own; 0 where none contradict."""
    said = [gains[key][prompt] / spread for key, spread in spreads.items() if prompt in gains[key]]
    return max(said) - min(said) if said and min(said) < 0 < max(said) else 0.0
