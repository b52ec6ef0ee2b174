"""What the charts keep of a long run: few points, evenly, with every peak, and nothing twice."""

import itertools

import pytest


@pytest.fixture
def store(page):
    """Runs a script in a page, with an empty store of the series "loss"."""
    page.goto("/models")

    def run(script):
        return page.evaluate(
            "async (script) => { const { makeStore } = await import('/static/series.js');"
            " const store = makeStore({series: {loss: []}, histograms: []});"
            " const add = (step, value) => store.add(step, {loss: value}, [1, 0, 2]);"
            " const actions = {" + script + "}; return actions.go(); }"
        )

    return run


def test_fifty_thousand_steps_become_two_thousand_points_with_every_peak(store):
    points, columns = store(
        "go() { for (let i = 1; i <= 50000; i++) add(i, i === 33333 ? 999 : i === 7 ? -999 : Math.sin(i));"
        " return [store.get('loss'), store.columns]; }"
    )
    assert 900 < len(points) <= 2000
    assert {-999, 999} <= {value for _, value in points}
    gaps = [after[0] - before[0] for before, after in itertools.pairwise(points)]
    assert min(gaps) > 0
    assert max(gaps) <= 2 * 64 * 2  # evenly: no part is thinned more often than another
    assert 100 < len(columns) <= 240
    assert sum(counts[0] for _, counts in columns) == 50_000
    widths = {after[0] - before[0] for before, after in itertools.pairwise(columns[:-1])}
    assert len(widths) == 1


def test_a_step_that_comes_again_replaces_itself(store):
    points = store(
        "go() { for (let i = 1; i <= 10; i++) add(i, i); for (let i = 4; i <= 10; i++) add(i, -i); return store.get('loss'); }"
    )
    assert points == [[step, step if step < 4 else -step] for step in range(1, 11)]


def test_a_resume_takes_back_what_comes_after_it(store):
    points, columns, last = store(
        "go() { for (let i = 1; i <= 10; i++) add(i, i); store.cut(6); return [store.get('loss'), store.columns, store.last]; }"
    )
    assert points[-1] == [6, 6]
    assert columns[-1] == [6, [1, 0, 2]]
    assert last == columns[-1]


def test_a_value_that_is_not_a_number_is_a_gap(store):
    assert store("go() { add(1, 1); add(2, null); add(3, 3); return store.get('loss'); }") == [[1, 1], [2, None], [3, 3]]
