"""The method once more, slowly: plain Python, one number at a time, straight from the equations of docs/method.md.

Nothing is shared with the product. `exact` numbers come from fractions of floats wide enough for the tests' ranges.
"""

from dataclasses import dataclass
from decimal import Decimal, getcontext

getcontext().prec = 60
getcontext().Emin, getcontext().Emax = -(10**9), 10**9  # exp(1e4) and exp(-1e4) are ordinary numbers here


@dataclass(frozen=True)
class Batch:
    """own[j]: prompt of response j; logprob[i][j], reward[i][j]; tokens[j]."""

    own: list[int]
    logprob: list[list[float]]
    tokens: list[int]
    reward: list[list[float]]


def weights(
    batch: Batch,
    *,
    weight_form: str,
    partition_scope: str = "batch",
    logprob_norm: str = "sum",
    cross_reward: str = "score",
    reward_norm: str = "none",
    mean_one: bool = False,
    lambda_: float = 1.0,
    reward_mean: float = 0.0,
    reward_std: float = 1.0,
) -> list[float]:
    """w of every response, by definition."""

    def log_reference(i: int, j: int) -> Decimal:
        summed = Decimal(batch.logprob[i][j])
        return summed / batch.tokens[j] if logprob_norm == "mean" else summed

    def boost(i: int, j: int) -> Decimal:
        reward = Decimal(batch.reward[batch.own[j] if cross_reward == "reuse" else i][j])
        if reward_norm == "zscore":
            reward = (reward - Decimal(reward_mean)) / Decimal(reward_std)
        return (reward / Decimal(lambda_)).exp()

    def weigh(j: int) -> Decimal:
        i = batch.own[j]
        competitors = [k for k in range(len(batch.own)) if partition_scope == "batch" or batch.own[k] == i]
        if weight_form == "posterior":
            z = sum(log_reference(i, k).exp() * boost(i, k) for k in competitors)
            return log_reference(i, j).exp() * boost(i, j) / z
        if weight_form == "ratio":
            omega = {k: (log_reference(i, k) - log_reference(batch.own[k], k)).exp() for k in competitors}
            z = sum(omega[k] * boost(i, k) for k in competitors) / sum(omega.values())
            return boost(i, j) / z
        return boost(i, j)

    found = [weigh(j) for j in range(len(batch.own))]
    if mean_one:
        mean = sum(found) / len(found)
        found = [weight / mean for weight in found]
    return [float(weight) for weight in found]
