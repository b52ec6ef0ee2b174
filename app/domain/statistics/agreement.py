"""Whether judges agree: two of them pair by pair, and several voters of whom each saw only some pairs.

Judgements are words or numbers that are equal or not; what all see alike says nothing by itself, so chance is taken out:
J. Cohen's κ (1960) of two, K. Krippendorff's α for nominal data of any number (2004, Content Analysis, ch. 11).
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from app.domain.statistics.estimate import LEVEL, Estimate
from app.domain.statistics.resampling import sum_resamples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
else:
    Array = Any

Key = TypeVar("Key", bound=Hashable)


class JudgeAgreement(NamedTuple):
    """Of two judges: how many pairs both judged, in which share they say the same, and κ: 0 as by chance, 1 always."""

    num: int
    share: Estimate
    kappa: Estimate


def compare_judges(
    first: Mapping[Key, Hashable], second: Mapping[Key, Hashable], groups: Mapping[Key, Hashable] | None = None, *, seed: int = 0,
) -> JudgeAgreement | None:  # fmt: skip
    """Return how far two judges agree on what both judged; None where that is nothing.

    The intervals are a bootstrap over groups, a prompt with all of its pairs; without them each judgement stands for itself.
    """
    import numpy as np

    both = [key for key in first if key in second]
    if not both:
        return None
    words = {word: place for place, word in enumerate(sorted({*first.values(), *second.values()}, key=repr))}
    places = _places([groups[key] if groups else key for key in both])
    counts_GWW = np.zeros((max(places) + 1, len(words), len(words)))
    for place, key in zip(places, both, strict=True):
        counts_GWW[place, words[first[key]], words[second[key]]] += 1
    drawn_RWW = sum_resamples(counts_GWW, seed)
    whole_WW = counts_GWW.sum(0)[None]
    return JudgeAgreement(
        len(both), _estimate(_shares(whole_WW), _shares(drawn_RWW)), _estimate(_kappas(whole_WW), _kappas(drawn_RWW))
    )


def krippendorff_alpha(units: Sequence[Sequence[Hashable]], *, seed: int = 0) -> Estimate | None:
    """Return α of the judgements that each unit got, with its bootstrap interval over units; None where no unit got two.

    α = 1 − D_o/D_e of the coincidences: 1 where all agree, 0 as by chance. Missing judgements are simply not there. Where all
    ever said the same there is nothing to agree about, and α is told as 1.
    """
    import numpy as np

    judged = [Counter(unit) for unit in units if len(unit) > 1]
    if not judged:
        return None
    words = {word: place for place, word in enumerate(sorted({word for unit in judged for word in unit}, key=repr))}
    counts_UW = np.zeros((len(judged), len(words)))
    for place, unit in enumerate(judged):
        for word, num in unit.items():
            counts_UW[place, words[word]] = num
    sizes_U = counts_UW.sum(1)
    differing_U = (sizes_U**2 - (counts_UW**2).sum(1)) / (sizes_U - 1)
    table = np.column_stack([differing_U, counts_UW])
    return _estimate(_alphas(table.sum(0)[None]), _alphas(sum_resamples(table, seed)))


def _places(groups: Sequence[Hashable]) -> list[int]:
    known: dict[Hashable, int] = {}
    return [known.setdefault(group, len(known)) for group in groups]


def _estimate(whole: Array, drawn_R: Array) -> Estimate:
    import numpy as np

    value = float(whole[0])
    if len(drawn_R) < 2 or not np.isfinite(drawn_R).any():
        return Estimate(value)
    low, high = np.nanquantile(drawn_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, min(value, float(low)), max(value, float(high)), float(np.nanstd(drawn_R)))


def _shares(counts_RWW: Array) -> Array:
    import numpy as np

    return np.asarray(np.trace(counts_RWW, axis1=1, axis2=2) / counts_RWW.sum((1, 2)))


def _kappas(counts_RWW: Array) -> Array:
    import numpy as np

    total_R = counts_RWW.sum((1, 2))
    by_chance_R = (counts_RWW.sum(1) * counts_RWW.sum(2)).sum(1) / total_R**2
    room_R = 1 - by_chance_R
    return np.where(room_R > 1e-12, (_shares(counts_RWW) - by_chance_R) / np.maximum(room_R, 1e-12), 1.0)


def _alphas(sums_RX: Array) -> Array:
    import numpy as np

    differing_R, counts_RW = sums_RX[:, 0], sums_RX[:, 1:]
    total_R = counts_RW.sum(1)
    possible_R = (total_R**2 - (counts_RW**2).sum(1)) / np.maximum(total_R - 1, 1)
    return np.where(possible_R > 1e-12, 1 - differing_R / np.maximum(possible_R, 1e-12), 1.0)
