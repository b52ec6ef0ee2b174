"""The figures of one evaluation, from what was recorded, each with its 95 % interval over prompts: nothing but arithmetic.

A key stands without the prefix of its set; `_low` and `_high` are the ends of an interval, `_se` is a standard error.
"""

import math
from collections.abc import Sequence
from statistics import fmean

from app.domain.findings import wilson_interval
from app.domain.statistics.estimate import Estimate, Z, estimate_mean, estimate_ratio
from app.domain.statistics.length_control import length_controlled_win_rate
from app.domain.statistics.paired import paired_gain, win_rate
from app.domain.statistics.studentized import estimate_skewed_mean
from worker.stages.evaluation.records import AnswerRecord, ExampleRecord, PromptRecord, RewardRecord

Figures = dict[str, float | None]


def figure_prompts(records: Sequence[PromptRecord]) -> Figures:
    """Return rewards, gain, win rate, KL, lengths and how many answers came to no end, over the answered prompts."""
    if not records:
        return {}
    figures: Figures = {"num_prompts": len(records)}
    for name, answers in (("policy", [r.policy for r in records]), ("reference", [r.reference for r in records])):
        figures |= tell(f"length_{name}", estimate_mean([float(len(answer.ids)) for answer in answers]))
        figures |= tell(f"unfinished_{name}", share([not answer.finished for answer in answers]))
    figures |= tell("kl", divergence([record.draw.kl for record in records]), with_error=True)
    figures |= tell("unfinished_draws", share([not record.draw.finished for record in records]))
    return figures | _compare([record.policy for record in records], [record.reference for record in records])


def _compare(policy: Sequence[AnswerRecord], reference: Sequence[AnswerRecord]) -> Figures:
    pairs = [
        (p.reward, r.reward) for p, r in zip(policy, reference, strict=True) if p.reward is not None and r.reward is not None
    ]
    if not pairs:
        return {}
    ours, theirs = zip(*pairs, strict=True)
    figures = tell("reward_policy", mean(ours)) | tell("reward_reference", mean(theirs))
    if not all(map(math.isfinite, (*ours, *theirs))):
        return figures
    lengths = [[len(answer.ids) for answer in answers] for answers in (policy, reference)]
    if len(pairs) == len(policy):
        figures |= tell("length_win_rate", length_controlled_win_rate(ours, theirs, *lengths))
    return figures | tell("reward_gain", paired_gain(ours, theirs)) | tell("win_rate", win_rate(ours, theirs))


def figure_examples(records: Sequence[ExampleRecord]) -> Figures:
    """Return the held-out loss per token of the best responses, and what the policy makes of the preferences.

    An example counts once, however many pairs it has; an exact tie counts half.
    """
    if not records:
        return {}
    sums, nums = zip(*((-record.best, float(record.num_best)) for record in records), strict=True)
    return tell("loss", ratio(sums, nums)) | _figure_margins(
        "preference", [margin for record in records if (margin := record.margin) is not None]
    )


def figure_pairs(records: Sequence[RewardRecord]) -> Figures:
    """Return what a reward model makes of the preferences: margins count each held-out example once, the loss each pair."""
    if not records:
        return {}
    losses = [record.pair_losses for record in records]
    loss = ratio([math.fsum(found) for found in losses], [float(len(found)) for found in losses])
    return _figure_margins("pair", [record.margin for record in records]) | tell("pair_loss", loss)


def _figure_margins(name: str, margins: Sequence[float]) -> Figures:
    if not margins:
        return {}
    figures: Figures = {f"num_{name}s": len(margins)} | tell(f"{name}_margin", mean(margins))
    if all(map(math.isfinite, margins)):
        figures |= tell(f"{name}_accuracy", win_rate(margins, [0.0] * len(margins)))
    return figures


def divergence(kls: Sequence[float]) -> Estimate:
    """Return the KL over prompts with its interval, which never reaches below 0."""
    if not all(map(math.isfinite, kls)):
        return Estimate(math.nan)
    found = estimate_skewed_mean(kls)
    return found if found.low is None else found._replace(low=max(0.0, found.low))


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean with its interval; without one where a value is not finite."""
    return estimate_mean(values) if all(map(math.isfinite, values)) else Estimate(math.nan)


def ratio(sums: Sequence[float], nums: Sequence[float]) -> Estimate:
    """Return the ratio of two sums over examples with its interval; without one where a value is not finite."""
    return estimate_ratio(sums, nums) if all(map(math.isfinite, sums)) else Estimate(sum(sums) / sum(nums))


def share(happened: Sequence[bool]) -> Estimate:
    """Return how often it happened, with Wilson's interval, which also tells something where it never did."""
    low, high = wilson_interval(sum(happened), len(happened), Z)
    return Estimate(fmean(happened), low, high)


def tell(key: str, estimate: Estimate, *, with_error: bool = False) -> Figures:
    """Return an estimate as figures, the ends of its interval beside it."""
    figures: Figures = {key: estimate.value}
    if estimate.low is not None:
        figures |= {f"{key}_low": estimate.low, f"{key}_high": estimate.high}
        if with_error:
            figures[f"{key}_se"] = estimate.standard_error
    return figures
