"""What the fresh responses of a policy show of it: evidence of findings, or None."""

from collections.abc import Mapping

from app.system.numbers import percent

Metrics = Mapping[str, float | None]

DISTINCT_SHARE = 0.2
FLAT_SHARE = 0.5


def find_online_collapse(metrics: Metrics) -> str | None:
    share = metrics.get("online/distinct_share")
    if share is None or share >= DISTINCT_SHARE:
        return None
    told = tell_below(share, DISTINCT_SHARE)
    return f"Only {told} of a prompt's fresh responses differ from its others, below {DISTINCT_SHARE:g}."


def find_flat_groups(metrics: Metrics) -> str | None:
    share = metrics.get("group/flat_share")
    if share is None or share <= FLAT_SHARE:
        return None
    return f"The fresh responses to {percent(share)} of the prompts all have the same reward."


def tell_below(value: float, limit: float) -> str:
    """Return two decimals, or as many as show that the value lies below the limit."""
    texts = (f"{value:.{decimals}f}" for decimals in range(2, 18))
    return next((text for text in texts if float(text) < limit), str(value))
