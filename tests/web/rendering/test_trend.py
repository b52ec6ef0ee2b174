"""Small lines: within their frame, left to right, high values high."""

import pytest

from app.web.rendering.trend import EDGE, HEIGHT, WIDTH, trend


def test_a_line_goes_from_edge_to_edge():
    assert trend([(1, 2.0), (2, 1.0), (3, 0.0)]) == "2.0,2.0 80.0,18.0 158.0,34.0"


@pytest.mark.parametrize("points", [[], [(3, 1.0)]])
def test_what_has_no_course_has_no_line(points):
    assert trend(points) == ""


def test_a_series_that_stays_lies_on_the_ground():
    places = [place.split(",") for place in trend([(5, 1e9), (9, 1e9)]).split()]
    assert places == [[f"{EDGE:.1f}", f"{HEIGHT - EDGE:.1f}"], [f"{WIDTH - EDGE:.1f}", f"{HEIGHT - EDGE:.1f}"]]
