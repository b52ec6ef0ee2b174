"""The figures of a comparison: models × judges with paired intervals, strengths, reward against length, who agrees with whom.

All lists of models run in the order of the comparison's answers, all lists of prompts in that of the prompt set.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from app.domain.comparing.ballot import Contest
from app.domain.dataset import Frozen
from app.domain.statistics.agreement import JudgeAgreement, compare_judges
from app.domain.statistics.association import spearman
from app.domain.statistics.estimate import Estimate, estimate_mean
from app.domain.statistics.length_control import length_controlled_win_rate
from app.domain.statistics.paired import compare_paired
from app.domain.statistics.strengths import Gains, Strength, find_strengths

VERSION = 3  # of what is computed: kept figures of another version are computed anew
LENGTH = "length"
VOTES = "votes"
FEWEST_RANKED = 3  # models, for strengths

Table = Sequence[Sequence[float | None]]  # prompts × models; None where there is none


class Judged(NamedTuple):
    """What one judge gave: the mean over the draws of each prompt and model."""

    key: str
    name: str
    kind: str
    scores: Table


class PairFigures(Frozen):
    """Model `first` against model `second` by one judge, on the prompts where both have a score."""

    first: int
    second: int
    is_same_model: bool
    num_prompts: int
    num_wins: int
    num_losses: int
    gain: Estimate
    win_rate: Estimate
    length_controlled: Estimate | None
    told_apart: bool
    p_value: float
    needed_prompts: int | None
    gain_by_length: Estimate | None  # ρ of the gain with how much longer the first's answer is

    @property
    def winner(self) -> int | None:
        """The model with the larger mean, where the two are told apart."""
        return (self.first if self.gain.value > 0 else self.second) if self.told_apart else None


class JudgeFigures(Frozen):
    """One judge over all models. A length ranks nobody; votes have no means."""

    key: str
    name: str
    kind: str
    means: list[Estimate | None]
    score_by_length: list[Estimate | None]  # ρ of the score with the answer's length, of each model
    pairs: list[PairFigures]
    strengths: list[Strength] | None

    @property
    def ranks(self) -> bool:
        return self.kind != LENGTH

    def find_pair(self, first: int, second: int) -> PairFigures | None:
        """Return the figures of two models, in either order, as they are kept."""
        return next((pair for pair in self.pairs if {pair.first, pair.second} == {first, second}), None)


class JudgesAgreement(Frozen):
    """How far two judges prefer the same answers: win, loss or tie of every pair on every prompt."""

    first: str
    second: str
    found: JudgeAgreement


class Figures(Frozen):
    """Everything that is computed of a comparison; kept, and read by pages and REST."""

    version: int = VERSION
    num_prompts: int
    judges: list[JudgeFigures]
    agreements: list[JudgesAgreement]


class PromptRows(Frozen):
    """By prompt: how long each model's answer is, what each judge gave it, where its texts lie; and what can be voted on."""

    lengths: Table
    scores: Mapping[str, Table]  # by the judge's key
    offsets: Sequence[int]
    contests: Sequence[Contest]
    num_draws: int  # that every model has of each prompt


def find_figures(judged: Sequence[Judged], lengths: Table, identities: Sequence[str]) -> Figures:
    """Return the figures of models with these weights (equal identities: one model, which is never ranked against itself)."""
    gains = {one.key: list_gains(one.scores) for one in judged}
    judges = [judge_models(one, gains[one.key], lengths, identities) for one in judged]
    ranking = [one.key for one in judges if one.ranks]
    return Figures(
        num_prompts=len(lengths),
        judges=judges,
        agreements=compare_all({key: gains[key] for key in ranking}),
    )


def list_gains(scores: Table) -> Gains:
    """Return by pair and prompt how much more the first got."""
    num_models = len(scores[0]) if scores else 0
    found: dict[tuple[int, int], dict[int, float]] = {}
    for pair in combinations(range(num_models), 2):
        for prompt, row in enumerate(scores):
            mine, other = row[pair[0]], row[pair[1]]
            if mine is not None and other is not None:
                found.setdefault(pair, {})[prompt] = mine - other
    return found


def judge_models(judged: Judged, gains: Gains, lengths: Table, identities: Sequence[str]) -> JudgeFigures:
    """Return what one judge says of all models."""
    columns = [[row[model] for row in judged.scores] for model in range(len(identities))]
    long = [[row[model] for row in lengths] for model in range(len(identities))]
    is_length = judged.kind == LENGTH
    return JudgeFigures(
        key=judged.key,
        name=judged.name,
        kind=judged.kind,
        means=[estimate_mean(known) if (known := _known(column)) else None for column in columns],
        score_by_length=[None if is_length else _relate(*both) for both in zip(columns, long, strict=True)],
        pairs=find_pairs(gains, lengths, identities, with_length=not is_length),
        strengths=None if is_length else rank(gains, identities),
    )


def find_pairs(gains: Gains, lengths: Table, identities: Sequence[str], *, with_length: bool) -> list[PairFigures]:
    """Return every pair that met on a prompt, each compared on those prompts alone."""
    return [
        _compare(pair, found, lengths, is_same=identities[pair[0]] == identities[pair[1]], with_length=with_length)
        for pair, found in gains.items()
        if found
    ]


def rank(gains: Gains, identities: Sequence[str]) -> list[Strength] | None:
    """Return the strengths of three models or more; None where one is there twice, or where some never met."""
    if len(identities) < FEWEST_RANKED or len(set(identities)) < len(identities):
        return None
    try:
        return find_strengths(len(identities), gains)
    except ValueError:
        return None


def compare_all(gains: Mapping[str, Gains]) -> list[JudgesAgreement]:
    """Return the agreement of every two judges, by their keys; the intervals draw whole prompts."""
    verdicts = {key: _verdicts(found) for key, found in gains.items()}
    agreements = []
    for first, second in combinations(verdicts, 2):
        prompts = {key: key[1] for key in verdicts[first]}
        found = compare_judges(verdicts[first], verdicts[second], prompts)
        if found is not None:
            agreements.append(JudgesAgreement(first=first, second=second, found=found))
    return agreements


def _verdicts(gains: Gains) -> dict[tuple[tuple[int, int], int], int]:
    return {(pair, prompt): (gain > 0) - (gain < 0) for pair, found in gains.items() for prompt, gain in found.items()}


def _compare(
    pair: tuple[int, int], gains: Mapping[int, float], lengths: Table, *, is_same: bool, with_length: bool
) -> PairFigures:
    differences, nothing = list(gains.values()), [0.0] * len(gains)
    found = compare_paired(differences, nothing)
    measured = [(gains[p], mine, other) for p in gains if (mine := lengths[p][pair[0]]) is not None
                and (other := lengths[p][pair[1]]) is not None]  # fmt: skip
    is_measured = with_length and len(measured) == len(differences)
    first, second = [one[1] for one in measured], [one[2] for one in measured]
    return PairFigures(
        first=pair[0],
        second=pair[1],
        is_same_model=is_same,
        num_prompts=len(differences),
        num_wins=sum(gain > 0 for gain in differences),
        num_losses=sum(gain < 0 for gain in differences),
        gain=found.gain,
        win_rate=found.win_rate,
        length_controlled=length_controlled_win_rate(differences, nothing, first, second) if is_measured else None,
        told_apart=found.told_apart and not is_same,
        p_value=found.p_value,
        needed_prompts=None if is_same else found.needed_prompts,
        gain_by_length=spearman(differences, [one - two for one, two in zip(first, second, strict=True)])
        if is_measured
        else None,
    )


def _known(column: Sequence[float | None]) -> list[float]:
    return [value for value in column if value is not None]


def _relate(scores: Sequence[float | None], lengths: Sequence[float | None]) -> Estimate | None:
    both = [(one, other) for one, other in zip(scores, lengths, strict=True) if one is not None and other is not None]
    return spearman([one for one, _ in both], [other for _, other in both])
