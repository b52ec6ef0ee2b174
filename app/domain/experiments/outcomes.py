"""What came of an experiment: its settings side by side, and whether they differ as expected.

Two settings are compared on the same test prompts (app.domain.statistics.paired), never by two means; where the prompts don't
tell them apart, that is the outcome.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from app.domain.experiments.plans import NOISES, ONLINE, SIZE
from app.domain.statistics.estimate import Estimate
from app.domain.statistics.paired import PairedComparison
from app.domain.sweep import LAMBDA
from app.system.numbers import count, number, percent

BY_HEART, LEAST_TOLD = 0.05, 0.01  # of the first loss
PAPERS_SIZE = 8
FEWEST = 2  # settings that can be compared


class Setting(NamedTuple):
    """Runs of an experiment that differ in seeds only. Figures are None where none of them has one yet.

    `gain` and `kl`: reward over the reference and distance from it on the test prompts, over seeds where there are several, else
    over prompts; where no test prompt tells the distance, that on the validation prompts. `chosen`: the gain on the validation
    prompts, by which a learning rate is chosen. `losses`: of the first and the last steps.
    """

    label: str
    changes: Mapping[str, Any]
    gain: Estimate | None = None
    chosen: float | None = None
    kl: Estimate | None = None
    losses: tuple[float, float] | None = None


class Recited(NamedTuple):
    """How many of its training prompts a run answers word for word as it learned, of how many; of the others the largest
    weight, None where there are none or weights are not told.
    """

    num_same: int
    num: int
    heaviest_other: float | None = None


@dataclass(frozen=True)
class Evidence:
    """`compare(i, j)`: setting i against setting j on the test prompts that both have answered; None where there are none.
    `recited` None: not asked.
    """

    settings: Sequence[Setting]
    compare: Callable[[int, int], PairedComparison | None]
    recited: Recited | None = None


@dataclass(frozen=True)
class ExperimentOutcome:
    """`state`: as expected, otherwise, not decided by these runs, or not known before they have ended."""

    state: Literal["waiting", "expected", "unexpected", "undecided"]
    sentences: tuple[str, ...] = ()


WAITING = ExperimentOutcome("waiting")


def by_value(evidence: Evidence, paths: Sequence[str]) -> list[int]:
    """Return the settings that have a gain in the order of their values of the first of these paths that they change."""

    def value(place: int) -> float:
        changes = evidence.settings[place].changes
        return float(next(changes[path] for path in paths if path in changes))

    return sorted(list_gaining(evidence), key=value)


def list_gaining(evidence: Evidence) -> list[int]:
    """Return the settings of which a run has answered the test prompts."""
    return [place for place, setting in enumerate(evidence.settings) if setting.gain is not None]


def signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"


def tell_interval(gain: Estimate) -> str:
    return "" if gain.low is None or gain.high is None else f" (95 % interval {signed(gain.low)} to {signed(gain.high)})"


def tell_apart(evidence: Evidence, better: int, worse: int) -> ExperimentOutcome:
    """Judge whether one setting gains more reward than another, as was expected of it."""
    found = evidence.compare(better, worse)
    if found is None:
        return WAITING
    first, second = evidence.settings[better].label, evidence.settings[worse].label
    gain = f"{signed(found.gain.value)}{tell_interval(found.gain)}"
    text = f"{first} against {second}: {gain} reward on the same {found.num_prompts} test prompts"
    if not found.told_apart:
        more = found.needed_prompts
        needed = f"; about {count(more)} would tell a difference of this size" if more and more > found.num_prompts else ""
        return ExperimentOutcome("undecided", (f"{text}: not told apart{needed}.",))
    return ExperimentOutcome("expected" if found.gain.value > 0 else "unexpected", (f"{text}.",))


def join(*outcomes: ExperimentOutcome) -> ExperimentOutcome:
    """Return the outcome of several claims: the worst of their states, and all that they say."""
    order = ("waiting", "unexpected", "undecided", "expected")
    state = min((one.state for one in outcomes or (WAITING,)), key=order.index)
    return ExperimentOutcome(state, tuple(text for one in outcomes for text in one.sentences))


def judge_by_heart(evidence: Evidence) -> ExperimentOutcome:
    losses = evidence.settings[0].losses if evidence.settings else None
    if losses is None:
        return WAITING
    first, last = losses
    told = (tell_recited(evidence.recited),) if evidence.recited else ()
    text = f"The loss went from {number(first)} to {number(last)}"
    if first > 0 and last <= BY_HEART * first:
        left = percent(last / first) if last >= LEAST_TOLD * first else f"less than {percent(LEAST_TOLD)}"
        return ExperimentOutcome("expected", (f"{text}, {left} of what it was: the batch is learnt by heart.", *told))
    advice = "more steps or a larger learning rate may do it; if they don't, the data or the model's end of turn are at fault"
    return ExperimentOutcome("unexpected", (f"{text} and not to {percent(BY_HEART)} of it: {advice}.", *told))


def tell_recited(recited: Recited) -> str:
    """Return how much is known by heart, and the weight of what is not: of next to none, its part in the loss is next to none."""
    others = "" if recited.heaviest_other is None else f"; the heaviest of the others weighs {number(recited.heaviest_other)}"
    return f"Of its {recited.num} training prompts it answers {recited.num_same} word for word as it learned{others}."


def judge_temperatures(evidence: Evidence) -> ExperimentOutcome:
    """Judge whether the smallest λ gains more reward than the largest, and moves further from the reference."""
    order = by_value(evidence, (LAMBDA,))
    if len(order) < FEWEST:
        return WAITING
    small, large = order[0], order[-1]
    return join(tell_apart(evidence, small, large), tell_further(evidence.settings[small], evidence.settings[large]))


def tell_further(far: Setting, near: Setting) -> ExperimentOutcome:
    """Judge whether one setting ends further from the reference than another, as was expected of it."""
    if far.kl is None or near.kl is None:
        return WAITING
    text = f"KL {tell(far.kl)} at {far.label}, {tell(near.kl)} at {near.label}"
    if do_overlap(far.kl, near.kl):
        return ExperimentOutcome("undecided", (f"{text}: the intervals overlap.",))
    return ExperimentOutcome("expected" if far.kl.value > near.kl.value else "unexpected", (f"{text}.",))


def tell(figure: Estimate) -> str:
    interval = f" ({number(figure.low)} to {number(figure.high or 0.0)})" if figure.low is not None else ""
    return f"{number(figure.value)}{interval}"


def do_overlap(first: Estimate, second: Estimate) -> bool:
    """Return whether two intervals have a value in common; an estimate without one is its value alone."""
    (low, high), (other_low, other_high) = (
        (one.value if one.low is None else one.low, one.value if one.high is None else one.high) for one in (first, second)
    )
    return low <= other_high and other_low <= high


def judge_methods(evidence: Evidence) -> ExperimentOutcome:
    """Judge whether VAR gains no less than the other methods, each at the learning rate that its validation prompts choose.

    What the prompts don't tell apart is not decided: that VAR gains as much is no result of too few prompts.
    """
    methods = {str(setting.changes.get("baseline", "")) for setting in evidence.settings}
    best: dict[str, int] = {}
    for place in list_gaining(evidence):
        chosen, method = evidence.settings[place].chosen, str(evidence.settings[place].changes.get("baseline", ""))
        if chosen is None:
            continue
        known = best.get(method)
        if known is None or chosen > (evidence.settings[known].chosen or 0.0):
            best[method] = place
    if "" not in best:
        return WAITING
    claims = [tell_apart(evidence, best[""], other) for method, other in best.items() if method]
    waited = [WAITING for _ in methods - best.keys()]
    return join(*claims, *waited, *tell_distances(evidence, list(best.values())))


def judge_batch_sizes(evidence: Evidence) -> ExperimentOutcome:
    """Judge whether no B gains more than 8, and 2 still gains."""
    by_size = {int(setting.changes[SIZE]): number_ for number_, setting in enumerate(evidence.settings)}
    smallest = evidence.settings[by_size[min(by_size)]] if len(by_size) >= FEWEST else None
    if PAPERS_SIZE not in by_size or smallest is None or smallest.gain is None:
        return WAITING
    against = [tell_apart(evidence, by_size[PAPERS_SIZE], other) for size, other in by_size.items() if size != PAPERS_SIZE]
    works = smallest.gain.low is not None and smallest.gain.low > 0
    gain = f"{signed(smallest.gain.value)}{tell_interval(smallest.gain)}"
    text = f"{smallest.label} gains {gain}{'' if works else ', which is not told apart from nothing'}."
    still = ExperimentOutcome("expected" if works else "undecided", (text,))
    return join(*against, still, *tell_distances(evidence, list_gaining(evidence)))


def tell_distances(evidence: Evidence, places: Sequence[int]) -> tuple[ExperimentOutcome, ...]:
    """Return how far from the reference these settings end, where that is known: gains at different distances are no equals."""
    settings = [evidence.settings[place] for place in places]
    far = [f"{number(one.kl.value)} ({one.label})" for one in settings if one.kl is not None]
    text = f"KL from the reference, the price of these gains: {', '.join(far)}."
    return (ExperimentOutcome("expected", (text,)),) if far and len(far) == len(settings) else ()


def judge_noise(evidence: Evidence) -> ExperimentOutcome:
    """Judge whether what is learnt from clean rewards gains more than what is learnt from the noisiest."""
    order = by_value(evidence, NOISES)
    if len(order) < FEWEST:
        return WAITING
    ends = [order[0], order[-1]]
    return join(tell_apart(evidence, *ends), *tell_distances(evidence, ends))


def judge_online(evidence: Evidence) -> ExperimentOutcome:
    """Judge whether fresh responses gain more than the data's own."""
    online = [n for n in list_gaining(evidence) if evidence.settings[n].changes[ONLINE] is not None]
    offline = [n for n in list_gaining(evidence) if evidence.settings[n].changes[ONLINE] is None]
    if not online or not offline:
        return WAITING
    ends = [online[0], offline[0]]
    return join(tell_apart(evidence, *ends), *tell_distances(evidence, ends))


def close(outcome: ExperimentOutcome, missing: Sequence[str]) -> ExperimentOutcome:
    """Return the outcome of runs that have all ended, so that nothing is waited for; `missing`: settings without figures."""
    left = (f"Left out, as no run of it has the figures: {', '.join(missing)}.",) if missing else ()
    state = "undecided" if outcome.state == "waiting" else outcome.state
    sentences = (*outcome.sentences, *left)
    if outcome.state == "waiting" and not sentences:
        sentences = ("Its runs have no figures that could be compared.",)
    return ExperimentOutcome(state, sentences)
