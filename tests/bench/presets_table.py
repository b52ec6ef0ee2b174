"""Tables of the presets' grid: `python -m tests.bench.presets_table OUT.jsonl --worlds demo --rates 8:1e-3 2:5e-4`.

Gains are against the untrained policy's answers to the same prompts: `reward` by the model that the runs learn from, `judge` by
the one that they don't, both in standard deviations over the untrained policy's answers. Means over the worlds named.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from tests.bench.presets import BASELINES, PRESETS, read_rates, read_results

Result = dict[str, Any]
ORDER = [*BASELINES, *PRESETS]
KL_LEVELS = (1.0, 2.0, 3.0, 4.0)


def judge_gain(result: Result) -> float:
    return float((result["judge/policy"] - result["judge/reference"]) / result["judge/spread"])


def reward_gain(result: Result) -> float:
    return float(result["eval/reward_gain"] / result["reward/spread"])


def length_share(result: Result) -> float:
    return float(result["eval/length_policy"] / result["eval/length_reference"])


def average(results: Sequence[Result], value: Callable[[Result], float] | str) -> float:
    """Mean over the worlds; a correlation that no weights have counts as 0."""
    return fmean(value(r) if callable(value) else float(r.get(value) or 0.0) for r in results)


def span(results: Sequence[Result], value: Callable[[Result], float]) -> str:
    values = [value(r) for r in results]
    return f"{fmean(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def write_grid(results: Sequence[Result]) -> list[str]:
    """A row for every method × λ × B."""
    lines = [
        "| method | λ | B | worlds | reward | judge (least–most) | wins | KL | length | ESS/B | ρ(w, len) | ρ(w, r) | w chosen |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (method, lambda_, size), cells in gather(results, lambda r: (r["method"], r["lambda_"], r["batch_size"])):
        shown = [
            method, "" if lambda_ is None else f"{lambda_:g}", str(size), str(len(cells)), f"{average(cells, reward_gain):.2f}",
            span(cells, judge_gain), f"{average(cells, 'judge/win_rate'):.2f}", f"{average(cells, 'eval/kl'):.2f}",
            f"{average(cells, length_share):.2f}", f"{average(cells, 'weight/ess_share'):.2f}",
            *(f"{average(cells, f'run/spearman_{what}'):+.2f}" if lambda_ else "" for what in ("length", "reward")),
            f"{average(cells, 'weight/share_chosen'):.2f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(shown)} |")
    return lines


def write_equal_kl(results: Sequence[Result]) -> list[str]:
    """The judge's gain that each method has at the same KL; a dash where the method doesn't get so far in every world."""
    lines = [f"| method | B | {' | '.join(f'KL {level:g}' for level in KL_LEVELS)} |", f"|---|---|{'---|' * len(KL_LEVELS)}"]
    for (method, size), cells in gather(results, lambda r: (r["method"], r["batch_size"])):
        paths = [list(own) for _, own in gather(cells, lambda r: (r["world"],))]
        shown = []
        for level in KL_LEVELS:
            gains = [gain_at(own, level) for own in paths]
            known = [gain for gain in gains if gain is not None]
            shown.append(f"{fmean(known):.2f}" if len(known) == len(gains) else "–")
        lines.append(f"| {method} | {size} | {' | '.join(shown)} |")
    return lines


def gain_at(results: Sequence[Result], level: float) -> float | None:
    """The judge's gain at a KL, on straight lines between the cells, from 0 where nothing was trained.

    The lines are straight over √KL: the most that a KL can buy of a normally distributed reward is σ √(2 KL).
    """
    points = sorted([(0.0, 0.0), *((math.sqrt(max(0.0, r["eval/kl"])), judge_gain(r)) for r in results)])
    for (low, start), (high, end) in pairwise(points):
        if low <= math.sqrt(level) <= high:
            return start + (end - start) * (math.sqrt(level) - low) / max(1e-9, high - low)
    return None


def write_ranking(results: Sequence[Result]) -> list[str]:
    """Each preset at its best λ and B by the judge, against the best of all world by world, and over the whole grid."""
    presets = [r for r in results if r["method"] in PRESETS]
    by_method = dict(gather(presets, lambda r: (r["method"],)))
    best = {
        method: max(group(own, ("lambda_", "batch_size")), key=lambda c: average(c, judge_gain))
        for (method,), own in by_method.items()
    }
    winner = max(best.values(), key=lambda cells: average(cells, judge_gain))
    lines = [
        "| preset | at its best | judge | behind the best (mean ± sd) | KL there | mean of all λ and B | worst of them |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, cells in sorted(best.items(), key=lambda item: -average(item[1], judge_gain)):
        at = {r["world"]: judge_gain(r) for r in winner}
        behind = [at[r["world"]] - judge_gain(r) for r in cells]
        spread = stdev(behind) if len(behind) > 1 else 0.0
        everywhere = [average(own, judge_gain) for own in group(by_method[(method,)], ("lambda_", "batch_size"))]
        where = f"λ = {cells[0]['lambda_']:g}, B = {cells[0]['batch_size']}"
        lines.append(
            f"| {method} | {where} | {average(cells, judge_gain):.2f} | {fmean(behind):.2f} ± {spread:.2f} | "
            f"{average(cells, 'eval/kl'):.2f} | {fmean(everywhere):.2f} | {min(everywhere):.2f} |"
        )
    return lines


def write_rates(results: Sequence[Result]) -> list[str]:
    """The judge's gain and the KL by learning rate, in the worlds that have all of a batch size's rates; means over λ."""
    lines = ["| method | B | learning rate | judge | KL |", "|---|---|---|---|---|"]
    for size, cells in ((key[0], own) for key, own in gather(results, lambda r: (r["batch_size"],))):
        rates = {r["learning_rate"] for r in cells}
        whole = {w for (w,), own in gather(cells, lambda r: (r["world"],)) if {r["learning_rate"] for r in own} == rates}
        chosen = [r for r in cells if r["world"] in whole]
        for (method, rate), own in gather(chosen, lambda r: (r["method"], r["learning_rate"])):
            lines.append(f"| {method} | {size} | {rate:g} | {average(own, judge_gain):.2f} | {average(own, 'eval/kl'):.2f} |")
    return lines


def write_shift(results: Sequence[Result]) -> list[str]:
    """How often log π_θ − log π_ref per token grew more for the better of two held-out answers, where it was measured."""
    lines = ["| method | λ | B | better by the people's label | better by the judge |", "|---|---|---|---|---|"]
    known = [r for r in results if "shift/people" in r]
    for (method, lambda_, size), cells in gather(known, lambda r: (r["method"], r["lambda_"], r["batch_size"])):
        share = " | ".join(f"{average(cells, f'shift/{who}'):.2f}" for who in ("people", "judge"))
        lines.append(f"| {method} | {'' if lambda_ is None else f'{lambda_:g}'} | {size} | {share} |")
    return lines if known else []


def gather(results: Sequence[Result], key: Callable[[Result], tuple[Any, ...]]) -> list[tuple[tuple[Any, ...], list[Result]]]:
    """Results with the same key together, methods in their usual order."""

    def place(result: Result) -> tuple[Any, ...]:
        parts = key(result)
        return tuple(ORDER.index(part) if part in ORDER else (-1.0 if part is None else part) for part in parts)

    return [(key(own[0]), own) for own in (list(same) for _, same in groupby(sorted(results, key=place), key=place))]


def group(results: Sequence[Result], names: Sequence[str]) -> list[list[Result]]:
    return [own for _, own in gather(results, lambda r: tuple(r[name] for name in names))]


def write_all(results: Sequence[Result], rates: dict[int, list[float]]) -> str:
    """All tables in Markdown; `rates` says which learning rate of each B is shown."""
    shown = [r for r in results if r["learning_rate"] in rates[r["batch_size"]]]
    worlds = sorted({r["world"] for r in shown})
    parts = [write_grid(shown), write_equal_kl(shown), write_ranking(shown), write_rates(results), write_shift(shown)]
    return f"{len(shown)} cells, worlds {', '.join(worlds)}\n\n" + "\n\n".join("\n".join(lines) for lines in parts)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.bench.presets_table", description="Tables of the presets' grid.")
    parser.add_argument("out", type=Path, metavar="OUT.jsonl")
    parser.add_argument("--worlds", default="", help="how the worlds' names begin")
    parser.add_argument("--rates", nargs="+", required=True, metavar="B:RATE")
    options = parser.parse_args()
    results = [r for r in read_results(options.out) if r["world"].startswith(options.worlds)]
    print(write_all(results, read_rates(options.rates)))


if __name__ == "__main__":
    main()
