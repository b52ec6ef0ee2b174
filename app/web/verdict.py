"""The reward check in words and pictures: whether the rewards know what the labels know, and more than length does."""

from dataclasses import dataclass

from app.domain.scoring import RewardCheck
from app.web.format import percent
from app.web.histogram import Agreement, Histogram, agreement_of, rewards_of


@dataclass(frozen=True)
class Verdict:
    """The reward check in words and pictures; `tone` "good", "warn" or "bad"."""

    tone: str
    title: str
    text: str
    agreement: Agreement | None
    histogram: Histogram | None


def verdict_of(check: RewardCheck, source: str) -> Verdict:
    """What the check means; `source` is the reward's."""
    return Verdict(*judge(check, source), agreement_of(check), rewards_of(check))


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
        return "warn", "The rewards hardly tell", f"{ranked}, with little difference in size."
    if check.length_accuracy is not None and check.high < max(check.length_low, 1 - check.length_high):
        return "warn", "Length alone knows more", f"{ranked}; a rule about length does better."
    if check.low <= 0.5:
        return "warn", "The rewards may not know the labels", f"{ranked}, which includes guessing."
    return "good", "The rewards know the labels", f"{ranked}."
