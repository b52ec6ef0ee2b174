"""Whether a test set is large enough for what it shall show."""

import math
from collections.abc import Mapping

from app.domain.statistics.estimate import Z
from app.system.numbers import percent

SOUGHT_EFFECT = 0.1  # a win rate of 60 % against one half
ENOUGH = math.ceil((Z / (2 * SOUGHT_EFFECT)) ** 2)  # prompts for such an interval around any share: z² · ¼ / effect²
JUDGED_BY = (
    ("win_rate", "win rate", "num_prompts"),
    ("preference_accuracy", "preference accuracy", "num_preferences"),
    ("pair_accuracy", "accuracy on pairs", "num_pairs"),
)


def find_small_held_out(figures: Mapping[str, float | None]) -> str | None:
    """Evidence of `small_held_out` from the final figures: an interval wider than the effect that is sought, on either side."""
    for key, name, counted in JUDGED_BY:
        low, high, num = (figures.get(f"test/{part}") for part in (f"{key}_low", f"{key}_high", counted))
        if low is None or high is None or num is None:
            continue
        if (high - low) / 2 <= SOUGHT_EFFECT:
            return None
        return (
            f"On {num:.0f} test prompts the 95 % interval of the {name} is {percent(low)} to {percent(high)}, wider than "
            f"{percent(SOUGHT_EFFECT)} on either side; {ENOUGH} are always enough."
        )
    return None
