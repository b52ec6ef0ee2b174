"""Whether the default preset still deserves it, on one seed and one λ: `make bench ARGS=tests/bench/test_presets.py`.

The whole grid, with its seeds, batch sizes and the real data, is `python -m tests.bench.presets`; docs/method.md has its tables.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from app.domain.weighting import DEFAULT_PRESET
from tests.bench.presets import BASELINES, PRESETS, read_results, run_grid
from tests.bench.presets_table import gain_at, judge_gain, write_all

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]

WITHIN = 0.3  # standard deviations of the untrained policy's scores: what seeds alone move


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("presets") / "demo-0"
    subprocess.run([sys.executable, "-m", "worker.demonstration", str(folder), "--seed", "0"], check=True)
    return folder


def test_the_default_preset_is_not_beaten_and_beats_plain_fine_tuning(world: Path) -> None:
    out, rates = world.parent / "results.jsonl", {8: [1e-3]}
    run_grid(out, [world], [*PRESETS, *BASELINES], [0.3], rates)
    results = read_results(out)
    print(f"\n{write_all(results, rates)}")
    gains = {result["method"]: judge_gain(result) for result in results}
    default = gains[DEFAULT_PRESET]
    assert default > max(gains[method] for method in PRESETS) - WITHIN
    assert default > max(gains[method] for method in BASELINES)


def test_a_second_call_makes_only_what_is_missing(world: Path) -> None:
    out = world.parent / "again.jsonl"
    run_grid(out, [world], ["sft_all"], [], {8: [1e-3]})
    before = out.read_bytes()
    run_grid(out, [world], ["sft_all"], [], {8: [1e-3]})
    assert out.read_bytes() == before


def test_gains_at_the_same_kl_lie_between_the_cells() -> None:
    cells = [
        {"eval/kl": kl, "judge/policy": gain, "judge/reference": 0.0, "judge/spread": 1.0}
        for kl, gain in ((1.0, 1.0), (4.0, 3.0))
    ]
    assert gain_at(cells, 0.25) == pytest.approx(0.5)  # half-way from 0 in √KL
    assert gain_at(cells, 2.25) == pytest.approx(2.0)
    assert gain_at(cells, 4.5) is None
