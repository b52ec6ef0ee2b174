"""Named signatures of degenerate weights and data: rule → evidence → remedy. None of them shows in a loss curve.

The rules take plain numbers (the metrics of app.domain.metrics, and counts), so that preview, run and API judge alike.
Thresholds and their reasons: docs/method.md.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import fmean, median, pstdev, stdev
from typing import TypeGuard

from app.domain.events import FindingRaised
from app.domain.scoring import FLAT_STD
from app.domain.signatures import SIGNATURES
from app.domain.training.fresh_responses import find_flat_groups, find_online_collapse, tell_below
from app.system.numbers import percent

Metrics = Mapping[str, float | None]


FLAT_ERRORS, FEWEST_PAIRS = 2.0, 10
LARGEST_EXPONENT = 80.0
COLLAPSED_SHARE = 0.2
PLAIN_SHARE, PLAIN_SPREAD = 0.9, 1e-3
LENGTH_CORRELATION = 0.5
FILLED_SHARE = 0.5
CUT_SHARE, UNFINISHED_SHARE = 0.05, 0.2
EXPLOSION, FEWEST_STEPS, WINDOW = 100.0, 10, 20


def raise_finding(name: str, evidence: str, step: int | None = None) -> FindingRaised:
    """Return the event of a signature, with the sentence that holds the measured numbers."""
    known = SIGNATURES[name]
    return FindingRaised(name=name, severity=known.severity, title=known.title, evidence=evidence, remedy=known.remedy, step=step)


def diagnose_step(metrics: Metrics, *, recent: Sequence[Metrics] = (), step: int | None = None) -> list[FindingRaised]:
    """Return what one step's metrics show; `divergence` first. Missing or None metrics are not judged, except a None loss or
    grad_norm.

    `recent`: metrics of the steps before, oldest first. Weights are then judged by their mean over the last 20 steps (the rank
    correlations of a single small batch are mostly noise), and divergence against the recent median.
    """
    window = mean_metrics([*recent[-(WINDOW - 1) :], metrics])
    found = [("divergence", find_divergence(metrics, recent))]
    found += [(name, rule(window)) for name, rule in STEP_RULES.items()]
    return [raise_finding(name, evidence, step) for name, evidence in found if evidence]


def diagnose_data(
    *,
    rewards: Sequence[float] = (),
    pairs: Sequence[tuple[float, float]] = (),
    lambda_: float | None = None,
    zscore: bool = False,
    batches: Iterable[tuple[Sequence[Hashable], Sequence[Hashable]]] = (),
    num_pairs: int = 0,
    num_equal_pairs: int = 0,
    cut_prompts: tuple[int, int] = (0, 0),
    cut_responses: tuple[int, int] = (0, 0),
    left_out: tuple[int, int, str] = (0, 0, ""),
    num_train: int = 0,
    num_held_out: int = 0,
    held_out_share: float = 0.0,
) -> list[FindingRaised]:
    """Return what a scored data set shows before the first step.

    `rewards`: of all responses; `pairs`: (chosen, rejected) rewards; `lambda_` and `zscore`: as the recipe has them;
    `batches`: for each batch of the plan, the prompt of each response and the responses, as anything that compares equal when
    they do; `num_equal_pairs` of `num_pairs`: pairs whose two responses are the same tokens after truncation;
    `cut_prompts` and `cut_responses`: how many were cut to the longest length, of how many; `left_out`: how many rows
    were, of how many, and in words why most of them; `num_train` and `num_held_out`:
    examples on both sides of the split, of which `held_out_share` was wanted for the second.
    """
    spread = pstdev(rewards) if len(rewards) > 1 else None
    centre, scale = (fmean(rewards), spread or 1.0) if zscore and rewards else (0.0, 1.0)
    largest = max((abs(reward - centre) for reward in rewards), default=0.0) / (scale * lambda_) if lambda_ else None
    found = [
        ("flat_rewards", find_flat_rewards(spread, [chosen - rejected for chosen, rejected in pairs])),
        ("inverted_rewards", find_inverted_rewards(pairs)),
        ("overflow_risk", find_overflow_risk({"weight/largest_exponent": largest})),
        ("low_diversity", find_low_diversity(batches)),
        ("truncated_pairs", find_truncated_pairs(num_equal_pairs, num_pairs)),
        ("truncated", find_truncated(cut_prompts, cut_responses)),
        ("rows_left_out", find_left_out(*left_out)),
        ("nothing_held_out", find_nothing_held_out(num_train, num_held_out, held_out_share)),
    ]
    return [raise_finding(name, evidence) for name, evidence in found if evidence]


def find_truncated(cut_prompts: tuple[int, int], cut_responses: tuple[int, int]) -> str | None:
    """Evidence of `truncated`; each as (how many were cut, of how many)."""
    both = (("prompts", *cut_prompts), ("responses", *cut_responses))
    told = [f"{percent(cut / num)} of the {what} ({cut} of {num})" for what, cut, num in both if cut > CUT_SHARE * num]
    return f"{' and '.join(told)} are longer than their limit." if told else None


def find_left_out(left_out: int, num: int, most: str) -> str | None:
    """Evidence of `rows_left_out`."""
    return f"{left_out} of {num} rows ({percent(left_out / num)}) are left out; {most}." if left_out > CUT_SHARE * num else None


def find_unfinished_answers(unfinished: int, num: int) -> str | None:
    """Evidence of `unfinished_answers`: how many of the policy's answers came to no end, of how many."""
    if unfinished <= UNFINISHED_SHARE * num:
        return None
    return f"{unfinished} of {num} answers ({percent(unfinished / num)}) reached evaluation.max_new_tokens without an end."


def wilson_interval(successes: float, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) when nothing was counted. z = 1.96: 95 %.

    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n), E. B. Wilson 1927.
    """
    if total <= 0:
        return 0.0, 1.0
    share = successes / total
    centre = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return max(0.0, (centre - half) / (1 + z * z / total)), min(1.0, (centre + half) / (1 + z * z / total))


def mean_metrics(steps: Sequence[Metrics]) -> dict[str, float]:
    """Mean of each metric over the steps that have it, as finite numbers."""
    keys = {key for step in steps for key in step}
    values = {key: [value for step in steps if _is_number(value := step.get(key))] for key in keys}
    return {key: fmean(series) for key, series in values.items() if series}


def find_flat_rewards(spread: float | None, gaps: Sequence[float] = ()) -> str | None:
    """Evidence of `flat_rewards`: `spread` is the rewards' standard deviation, `gaps` chosen minus rejected of each pair."""
    if spread is not None and spread < FLAT_STD:
        return f"The rewards' standard deviation is {spread:.2g}, below {FLAT_STD:g}."
    if len(gaps) >= FEWEST_PAIRS:
        gap, error = fmean(gaps), stdev(gaps) / math.sqrt(len(gaps))
        if abs(gap) <= FLAT_ERRORS * error or gap == 0:
            return (
                f"Chosen minus rejected is {gap:.3g} over {len(gaps)} pairs, within two standard errors ({error:.2g} each) of 0."
            )
    return None


def find_inverted_rewards(pairs: Sequence[tuple[float, float]]) -> str | None:
    """Evidence of `inverted_rewards` from (chosen, rejected) rewards; ties don't count."""
    num_right = sum(chosen > rejected for chosen, rejected in pairs)
    num_decided = sum(chosen != rejected for chosen, rejected in pairs)
    low, high = wilson_interval(num_right, num_decided)
    if num_decided == 0 or high >= 0.5:
        return None
    return (
        f"The chosen response has the higher reward in only {num_right} of {num_decided} pairs "
        f"({percent(num_right / num_decided)}; 95 % interval {percent(low)} to {percent(high)})."
    )


def find_overflow_risk(metrics: Metrics) -> str | None:
    largest = metrics.get("weight/largest_exponent")
    if largest is None or largest <= LARGEST_EXPONENT:
        return None
    return f"The largest |r/λ| is {largest:.3g}, above {LARGEST_EXPONENT:g}."


def find_weight_collapse(metrics: Metrics) -> str | None:
    share, size = metrics.get("weight/ess_share"), metrics.get("weight/ess")
    if share is None or share >= COLLAPSED_SHARE:
        return None
    worth = f" ({size:.1f} responses)" if size is not None else ""
    return f"The effective sample size is {tell_below(share, COLLAPSED_SHARE)} of the batch{worth}, below {COLLAPSED_SHARE:g}."


def find_gradient_clipped(norms: Sequence[float], limit: float, *, rescaled: bool = True) -> str | None:
    """Evidence of `gradient_clipped` from the gradient norms of the newest steps; `limit` 0: nothing is clipped.

    `rescaled`: the weights of each batch have mean 1.
    """
    norms = norms[-WINDOW:]
    num = sum(norm > limit for norm in norms)
    if limit <= 0 or len(norms) < FEWEST_STEPS or 2 * num <= len(norms):
        return None
    told = f"In {num} of the last {len(norms)} steps the gradient norm was above {limit:g}; its median is {median(norms):.3g}."
    if rescaled:
        return told
    return (
        f"{told} With weights.mean_one off or dataset the size of a batch's weights is meant to count, and clipping takes it "
        "away: a clipped step is as long whatever its weights are, which is the bias that one scale for all batches avoids."
    )


def find_plain_sft(metrics: Metrics) -> str | None:
    above, spread, mean = (metrics.get(f"weight/{name}") for name in ("share_above", "std", "mean"))
    if _is_lone(metrics):
        return None
    if above is not None and above > PLAIN_SHARE:
        return f"{percent(above)} of the responses make more than 0.99 of their own prompt's Z(x)."
    mean = 1.0 if mean is None else mean
    if spread is not None and mean > 0 and spread < PLAIN_SPREAD * mean:
        return f"The weights' standard deviation is {spread:.2g} at a mean of {mean:.2g}: they are all alike."
    return None


def find_length_driven(metrics: Metrics) -> str | None:
    length, reward = metrics.get("weight/spearman_length"), metrics.get("weight/spearman_reward") or 0.0
    if length is None or abs(length) <= max(LENGTH_CORRELATION, abs(reward)):
        return None
    direction = "shorter" if length < 0 else "longer"
    return f"Spearman(w, length) is {length:+.2f}, Spearman(w, reward) {reward:+.2f}: {direction} responses get the weight."


def find_low_diversity(batches: Iterable[tuple[Sequence[Hashable], Sequence[Hashable]]]) -> str | None:
    """Evidence of `low_diversity`; each batch as (prompt of each response, responses).

    One such batch of many is not held against them: the last of an epoch may well be a single prompt.
    """
    repetitive, num_batches, worst = 0, 0, 0.0
    for prompts, responses in batches:
        num_batches += 1
        if not responses:
            continue
        of_one_prompt = max(Counter(prompts).values()) / len(prompts)
        copies = sum(count for count in Counter(responses).values() if count > 1) / len(responses)
        repetitive += max(of_one_prompt, copies) > FILLED_SHARE
        worst = max(worst, of_one_prompt, copies)
    return tell_low_diversity(repetitive, num_batches, worst)


def tell_low_diversity(repetitive: int, num_batches: int, worst: float) -> str | None:
    """Evidence of `low_diversity` from counts: `repetitive` batches of all, and the largest share that repeats."""
    if repetitive == 0 or (repetitive == 1 and num_batches > 1):
        return None
    return (
        f"In {repetitive} of {num_batches} batches copies of responses or one prompt fill more than half "
        f"(at worst {percent(worst)})."
    )


def find_truncated_pairs(num_equal: int, num_pairs: int) -> str | None:
    if num_equal <= 0:
        return None
    return f"{num_equal} of {num_pairs} pairs ({percent(num_equal / max(num_pairs, num_equal), 1)}) are equal after truncation."


def find_nothing_held_out(num_train: int, num_held_out: int, share: float) -> str | None:
    if num_held_out > 0 or share <= 0 or num_train == 0:
        return None
    return f"None of {num_train} examples could be held out, though a share of {share:g} was wanted: all are of one conversation."


def find_divergence(metrics: Metrics, recent: Sequence[Metrics] = ()) -> str | None:
    """Evidence of `divergence`: a None, NaN or infinite loss or grad_norm, or one 100 times its median of 10 steps or more.

    Both are taken per unit of mean weight, since the weights of an unscaled batch may differ by orders of magnitude.
    """
    for key, name in (("loss", "loss"), ("grad_norm", "gradient norm")):
        if key not in metrics:
            continue
        value = metrics[key]
        if not _is_number(value):
            return f"The {name} is not a finite number."
        usual = [_per_weight(step, past) for step in recent[-WINDOW:] if _is_number(past := step.get(key))]
        now = _per_weight(metrics, value)
        if len(usual) >= FEWEST_STEPS and now > EXPLOSION * median(usual) > 0:
            return f"The {name} is {value:.3g}: per unit of weight {now / median(usual):.0f} times its recent median."
    return None


def _find_flat_step(metrics: Metrics) -> str | None:
    return None if _is_lone(metrics) else find_flat_rewards(metrics.get("reward/std"))


STEP_RULES: dict[str, Callable[[Metrics], str | None]] = {
    "flat_rewards": _find_flat_step,
    "overflow_risk": find_overflow_risk,
    "weight_collapse": find_weight_collapse,
    "plain_sft": find_plain_sft,
    "length_driven": find_length_driven,
    "online_collapse": find_online_collapse,
    "flat_groups": find_flat_groups,
}


def _is_lone(metrics: Metrics) -> bool:
    """Return a batch of one response, as the last of an epoch may be: it can neither spread nor differ."""
    return metrics.get("weight/ess") == 1.0 == metrics.get("weight/ess_share")


def _per_weight(metrics: Metrics, value: float) -> float:
    mean = metrics.get("weight/mean")
    return abs(value) / (mean if mean is not None and mean > 0 else 1.0)


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
