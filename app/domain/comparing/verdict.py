"""What a comparison says first: one sentence by its leading judge, the same on the page, over REST and in the terminal."""

from collections.abc import Sequence

from app.domain.comparing.figures import VOTES, Figures, JudgeFigures, PairFigures
from app.domain.statistics.estimate import Estimate
from app.system.numbers import percent, signed


def find_leading_judge(figures: Figures) -> JudgeFigures | None:
    """Return the judge whose word is told first: a reward model, else any that ranks; None without one."""
    ranking = [judge for judge in figures.judges if judge.ranks and judge.pairs]
    return next((judge for judge in ranking if judge.kind == "reward"), ranking[0] if ranking else None)


def write_verdict(judge: JudgeFigures | None, names: Sequence[str]) -> str:
    """Return the sentence: who beats whom by this judge, or that they are not told apart and what it would take."""
    if judge is None:
        return "No judge has scored these answers yet, so nothing ranks them."
    if len(names) > 2 and judge.strengths is not None:
        return _write_ranking(judge, names)
    return " ".join(write_pair(pair, judge, names) for pair in judge.pairs)


def write_pair(pair: PairFigures, judge: JudgeFigures, names: Sequence[str]) -> str:
    """Return the sentence about two models."""
    if pair.is_same_model:
        return (
            f"{names[pair.first]} and {names[pair.second]} are the same model, asked in two ways: their answers are shown, "
            f"the model is not ranked against itself."
        )
    better, worse = (pair.first, pair.second) if pair.gain.value >= 0 else (pair.second, pair.first)
    rate = _of(pair.win_rate, turned=better != pair.first)
    wins = f"on {percent(rate.value)} of {pair.num_prompts} {_what(judge)}{_interval(rate)}"
    by = "" if judge.kind == VOTES else f"; by {judge.name}"
    if not pair.told_apart:
        more = _needed(pair)
        return f"{names[better]} and {names[worse]} are not told apart: {names[better]} wins {wins}{by}.{more}"
    controlled = pair.length_controlled
    length = f"; length-controlled {percent(_of(controlled, turned=better != pair.first).value)}" if controlled else ""
    if rate.value <= 0.5:
        gain = signed(abs(pair.gain.value))
        return f"{names[better]} gets more in the mean than {names[worse]} ({gain}), but wins only {wins}{by}{length}."
    return f"{names[better]} beats {names[worse]} {wins}{by}{length}."


def _write_ranking(judge: JudgeFigures, names: Sequence[str]) -> str:
    strengths = judge.strengths or []
    order = sorted(range(len(names)), key=lambda model: -strengths[model].value.value)
    best = [model for model in order if strengths[model].may_be_best]
    by = "by people's votes" if judge.kind == VOTES else f"by {judge.name}"
    if len(best) == 1:
        pair = judge.find_pair(order[0], order[1])
        second = f" {write_pair(pair, judge, names)}" if pair else ""
        return f"{names[order[0]]} is the strongest of {len(names)} models {by}.{second}"
    listed = ", ".join(names[model] for model in best[:-1]) + f" and {names[best[-1]]}"
    pair = judge.find_pair(best[0], best[1])
    shared = "where all pairs share an error of 5 %"
    return f"{listed} are not told apart at the top of {len(names)} models {by}, {shared}.{_needed(pair) if pair else ''}"


def _what(judge: JudgeFigures) -> str:
    return "prompts that people voted on" if judge.kind == VOTES else "prompts"


def _needed(pair: PairFigures) -> str:
    needed = pair.needed_prompts
    if needed is None:
        return " They do equally well here, so no number of prompts would tell this difference."
    return f" To tell a difference of this size takes about {max(needed, pair.num_prompts + 1):,} prompts.".replace(",", " ")


def _interval(rate: Estimate) -> str:
    return "" if rate.low is None or rate.high is None else f", 95 % interval {rate.low * 100:.0f} to {rate.high * 100:.0f}"


def _of(rate: Estimate, *, turned: bool) -> Estimate:
    """Return the share of the other side where the sentence turns the pair around."""
    if not turned or rate.low is None or rate.high is None:
        return Estimate(1 - rate.value) if turned else rate
    return Estimate(1 - rate.value, 1 - rate.high, 1 - rate.low, rate.standard_error)
