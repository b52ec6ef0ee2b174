"""Limits of prompts and responses in a context window."""

import pytest

from app.domain.lengths import fit_window


@pytest.mark.parametrize(
    ("limits", "window", "fitted"),
    [
        ((512, 512), None, (512, 512)),
        ((512, 512), 4096, (512, 512)),
        ((512, 512), 512, (256, 256)),
        ((64, 512), 512, (64, 448)),
        ((512, 64), 512, (448, 64)),
    ],
)
def test_limits_shrink_to_the_window_and_the_response_keeps_half_of_it(
    limits: tuple[int, int], window: int | None, fitted: tuple[int, int]
) -> None:
    assert fit_window(*limits, window) == fitted
