"""Several passes over the batches are one bar: it begins once, never runs backwards, and ends at its end."""

from types import SimpleNamespace

import pytest

from worker.stages.scoring.passes import Passes


class Bar:
    """What an attempt's stage is told."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, str]] = []
        self.shares: list[float] = []

    def start_stage(self, stage, total, unit):
        self.begun.append((total, unit))
        return lambda done, whole: self.shares.append(done / whole)


def play(planned: int, passes: int, skipped: int = 0, num_batches: int = 4) -> Bar:
    bar = Bar()
    progress = Passes(SimpleNamespace(start_stage=bar.start_stage), planned)
    for _ in range(skipped):
        progress.skip()
    for _ in range(passes):
        report = progress.begin(num_batches)
        for done in range(1, num_batches + 1):
            report(done, num_batches)
    return bar


@pytest.mark.parametrize(("planned", "passes", "skipped"), [(1, 1, 0), (2, 2, 0), (3, 3, 0), (2, 1, 1), (3, 7, 0), (1, 1, 1)])
def test_the_bar_never_runs_backwards_and_ends_at_its_end(planned, passes, skipped):
    bar = play(planned, passes, skipped)
    assert len(bar.begun) == 1
    assert bar.shares == sorted(bar.shares)
    assert (bar.shares[0] > 0, bar.shares[-1]) == (True, 1.0)


def test_each_planned_pass_is_an_equal_part():
    assert play(2, 2).shares == [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]
    assert play(2, 1, skipped=1).shares == [0.25, 0.5, 0.75, 1.0]
