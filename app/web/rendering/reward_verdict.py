"""The reward check in words and pictures: whether the rewards know what the labels know, and more than length does."""

from dataclasses import dataclass

from app.domain.scoring import EnsembleCheck, RewardCheck
from app.domain.signatures import SIGNATURES
from app.system.numbers import signed
from app.web.rendering.format import percent
from app.web.rendering.histogram import Agreement, Histogram, agreement_of, rewards_of

LITTLE_EXPLAINED = 0.05


@dataclass(frozen=True)
class RewardVerdict:
    """The reward check in words and pictures; `tone` "good", "warn", "bad" or none."""

    tone: str
    title: str
    text: str
    agreement: Agreement | None
    histogram: Histogram | None


def verdict_of(check: RewardCheck, source: str) -> RewardVerdict:
    """Return what the check means; `source` is the reward's."""
    tone, title, text = judge(check, source)
    text += f"{tell_ensemble(check.ensemble)}{tell_length(check)}"
    return RewardVerdict(tone, title, text, agreement_of(check), rewards_of(check))


def tell_length(check: RewardCheck) -> str:
    """Return what a straight line of the rewards over lengths explains, and what is left without it; empty where it is little."""
    if check.length_explains is None or check.length_slope is None or check.length_explains < LITTLE_EXPLAINED:
        return ""
    line = f"{percent(check.length_explains)} of the rewards' variance, {signed(check.length_slope)} a token"
    if check.accuracy is None or check.controlled_accuracy is None:
        return f" Length explains {line}: “Take length out of rewards” removes it."
    return (
        f" Length explains {line}: “Take length out of rewards” removes it, and the pairs that are ranked right go from "
        f"{percent(check.accuracy)} to {percent(check.controlled_accuracy)}."
    )


def tell_ensemble(ensemble: EnsembleCheck | None) -> str:
    """Return how far several reward models agree, and what each is right in alone; empty for one."""
    if ensemble is None:
        return ""
    num = len(ensemble.accuracies)
    if ensemble.correlation is None:
        return f" One of the {num} models gives every response the same reward."
    text = f" They are {num} models’ mean less {ensemble.caution:g} deviations; the models correlate by "
    text += f"{ensemble.correlation:.2f}"
    if ensemble.same_order is not None:
        text += f" and rank {percent(ensemble.same_order)} of the pairs alike"
    alone = [percent(share) for share in ensemble.accuracies if share is not None]
    return f"{text}; alone they would be right in {', '.join(alone)}." if len(alone) == num else f"{text}."


def judge(check: RewardCheck, source: str) -> tuple[str, str, str]:
    """Tone, title and sentence: agreement with the labels, beside what length alone would reach."""
    if check.num_pairs == 0 or check.accuracy is None:
        return (
            "warn" if check.flat else "good",
            "No labels to compare with",
            "The data has no pairs of a chosen and a rejected response, so only the spread of the rewards can be judged.",
        )
    measured = f"{percent(check.accuracy)} of the pairs (95 % interval {percent(check.low)} to {percent(check.high)})"
    if check.inverted:
        return "bad", "The rewards contradict the labels", f"They rank chosen above rejected in only {measured}."
    if source == "preference":
        return "good", "The rewards are the labels", "Chosen counts +1 and rejected −1, so they agree by definition."
    ranked = f"They rank chosen above rejected in {measured}"
    if check.flat:
        return "warn", SIGNATURES["flat_rewards"].title, f"{ranked}, with little difference in size."
    share, low, high, rule = length_of(check)
    beside = f"{ranked}; {rule} would reach {percent(share)}."
    if check.high < low:
        return "warn", "Length alone knows more", beside
    if check.low <= 0.5:
        return "warn", "The rewards may not know the labels", f"{ranked}, which includes guessing."
    if check.length_accuracy is None:
        return "good", "The rewards know the labels", f"{ranked}."
    if check.low <= high:
        return "", "The rewards agree with the labels, like length does", beside
    return "good", "The rewards know the labels", beside


def length_of(check: RewardCheck) -> tuple[float, float, float, str]:
    """Return the better of the two rules about length: its agreement, its interval, and its name."""
    share = check.length_accuracy
    if share is None:  # every pair is of equal length
        return 0.5, 0.5, 0.5, "length"
    if share >= 0.5:
        return share, check.length_low, check.length_high, "preferring the longer one"
    return 1 - share, 1 - check.length_high, 1 - check.length_low, "preferring the shorter one"
