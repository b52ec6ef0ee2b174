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
from app.system.numbers import number, percent

BY_HEART, LEAST_TOLD = 0.05, 0.01  # of the first loss
PAPERS_SIZE = 8
FEWEST = 2  # settings that can be compared


class Setting(NamedTuple):
    """Runs of an experiment that differ in seeds only. Figures are None where none of them has one yet.

    `gain`: reward over the reference on the test prompts, over seeds where there are several, else over prompts.
    `chosen`: the same on the validation prompts, by which a learning rate is chosen. `losses`: of the first and the last steps.
    """

    label: str
    changes: Mapping[str, Any]
    gain: Estimate | None = None
    chosen: float | None = None
    kl: float | None = None
    losses: tuple[float, float] | None = None


@dataclass(frozen=True)
class Evidence:
    """`compare(i, j)`: setting i against setting j on the test prompts that both have answered; None where there are none.

    `recited`: how many of its training prompts a run answers word for word as it learned, of how many; None: not asked.
    """

    settings: Sequence[Setting]
    compare: Callable[[int, int], PairedComparison | None]
    recited: tuple[int, int] | None = None


@dataclass(frozen=True)
class ExperimentOutcome:
    """`state`: as expected, otherwise, not decided by these runs, or not known before they have ended."""

    state: Literal["waiting", "expected", "unexpected", "undecided"]
    sentences: tuple[str, ...] = ()


WAITING = ExperimentOutcome("waiting")


def by_value(evidence: Evidence, paths: Sequence[str]) -> list[int]:
    """Return the settings in the order of their values of the first of these paths that they change."""

    def value(place: int) -> float:
        changes = evidence.settings[place].changes
        return float(next(changes[path] for path in paths if path in changes))

    return sorted(range(len(evidence.settings)), key=value)


def signed(value: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)}"


def tell_apart(evidence: Evidence, better: int, worse: int) -> ExperimentOutcome:
    """Judge whether one setting gains more reward than another, as was expected of it."""
    found = evidence.compare(better, worse)
    if found is None:
        return WAITING
    first, second = evidence.settings[better].label, evidence.settings[worse].label
    interval = (
        f" (95 % interval {signed(found.gain.low)} to {signed(found.gain.high or 0.0)})" if found.gain.low is not None else ""
    )
    text = f"{first} against {second}: {signed(found.gain.value)}{interval} reward on the same {found.num_prompts} test prompts"
    if not found.told_apart:
        more = found.needed_prompts
        needed = f"; about {more} would tell a difference of this size" if more and more > found.num_prompts else ""
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
    recited = evidence.recited
    told = (f"Of its {recited[1]} prompts it answers {recited[0]} word for word as it learned.",) if recited else ()
    text = f"The loss went from {number(first)} to {number(last)}"
    if first > 0 and last <= BY_HEART * first:
        left = percent(last / first) if last >= LEAST_TOLD * first else f"less than {percent(LEAST_TOLD)}"
        return ExperimentOutcome("expected", (f"{text}, {left} of what it was: the batch is learnt by heart.", *told))
    advice = "more steps or a larger learning rate may do it; if they don't, the data or the model's end of turn are at fault"
    return ExperimentOutcome("unexpected", (f"{text} and not to {percent(BY_HEART)} of it: {advice}.", *told))


def judge_temperatures(evidence: Evidence) -> ExperimentOutcome:
    """Judge whether the smallest λ gains more reward than the largest, and moves further from the reference."""
    order = by_value(evidence, (LAMBDA,))
    if len(order) < FEWEST:
        return WAITING
    small, large = order[0], order[-1]
    near, far = evidence.settings[large].kl, evidence.settings[small].kl
    if near is None or far is None:
        return WAITING
    labels = evidence.settings[small].label, evidence.settings[large].label
    moved = f"KL {number(far)} at {labels[0]}, {number(near)} at {labels[1]}."
    return join(tell_apart(evidence, small, large), ExperimentOutcome("expected" if far > near else "unexpected", (moved,)))


def judge_methods(evidence: Evidence) -> ExperimentOutcome:
    """Judge whether VAR gains no less than the other methods, each at the learning rate that its validation prompts choose."""
    best: dict[str, int] = {}
    for number_, setting in enumerate(evidence.settings):
        method = str(setting.changes.get("baseline", ""))
        if setting.chosen is None:
            return WAITING
        known = best.get(method)
        if known is None or setting.chosen > (evidence.settings[known].chosen or 0.0):
            best[method] = number_
    claims = [tell_apart(evidence, best[""], other) for method, other in best.items() if method] if "" in best else []
    return join(*(ExperimentOutcome("expected", one.sentences) if one.state == "undecided" else one for one in claims))


def judge_batch_sizes(evidence: Evidence) -> ExperimentOutcome:
    """Judge whether no B gains more than 8, and 2 still gains."""
    by_size = {int(setting.changes[SIZE]): number_ for number_, setting in enumerate(evidence.settings)}
    smallest = evidence.settings[by_size[min(by_size)]] if len(by_size) >= FEWEST else None
    if PAPERS_SIZE not in by_size or smallest is None or smallest.gain is None:
        return WAITING
    against = [tell_apart(evidence, by_size[PAPERS_SIZE], other) for size, other in by_size.items() if size != PAPERS_SIZE]
    no_less = [ExperimentOutcome("expected", one.sentences) if one.state == "undecided" else one for one in against]
    works = smallest.gain.low is not None and smallest.gain.low > 0
    text = f"{smallest.label} gains {signed(smallest.gain.value)}{'' if works else ', which is not told apart from nothing'}."
    return join(*no_less, ExperimentOutcome("expected" if works else "undecided", (text, *tell_distances(evidence))))


def tell_distances(evidence: Evidence) -> tuple[str, ...]:
    """Return how far from the reference each setting ends, where that is known: gains at different distances are no equals."""
    far = [f"{number(one.kl)} ({one.label})" for one in evidence.settings if one.kl is not None]
    return (f"KL from the reference: {', '.join(far)}.",) if len(far) == len(evidence.settings) else ()


def judge_noise(evidence: Evidence) -> ExperimentOutcome:
    """Judge whether what is learnt from clean rewards gains more than what is learnt from the noisiest."""
    order = by_value(evidence, NOISES)
    return tell_apart(evidence, order[0], order[-1]) if len(order) >= FEWEST else WAITING


def judge_online(evidence: Evidence) -> ExperimentOutcome:
    """Judge whether fresh responses gain more than the data's own."""
    online = [n for n, setting in enumerate(evidence.settings) if setting.changes[ONLINE] is not None]
    offline = [n for n, setting in enumerate(evidence.settings) if setting.changes[ONLINE] is None]
    return tell_apart(evidence, online[0], offline[0]) if online and offline else WAITING
