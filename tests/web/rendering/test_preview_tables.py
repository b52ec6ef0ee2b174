"""A preview's numbers as tables: a row for each λ, drawn histograms, links that launch with what is shown."""

import random
from statistics import fmean, pvariance
from urllib.parse import parse_qs, urlsplit

import pytest

from app.domain.metrics import WEIGHT_EDGES
from app.domain.preview.weights import PreviewCell, PreviewResult, Suggestion
from app.web.rendering.preview_tables import HEIGHT, WIDTH, place_of, span, tables_of
from tests.scored import make_check


def make_cell(lambda_: float, share: float, *, preset: str = "paper", size: int = 8, **counts: int) -> PreviewCell:
    histogram = [0] * (len(WEIGHT_EDGES) + 1)
    for place, times in counts.items():
        histogram[int(place[1:])] = times
    return PreviewCell(
        preset=preset, lambda_=lambda_, batch_size=size, metrics={"weight/ess_share": share}, histogram=histogram, findings=[],
        heaviest=[], lightest=[],
    )  # fmt: skip


def draw(cells, suggestions=(), **overrides):
    result = PreviewResult(
        cells=cells, suggestions=list(suggestions), check=make_check(), findings=[], num_batches=2, num_responses=20, seconds=0.1
    )
    return tables_of(result, scoring_id="scoring_1", dataset_id="data_1", batch_size=8, overrides=overrides)


def suggest(lambda_, size=8):
    return Suggestion(preset="paper", batch_size=size, target_ess=0.5, lambda_=lambda_, reason="" if lambda_ else "none does.")


def test_each_preset_and_batch_size_has_a_table_with_a_row_for_each_lambda():
    cells = [make_cell(value, 0.5, size=size) for size in (8, 2) for value in (0.1, 1.0)]
    tables = draw(cells).tables
    assert [(table.preset, table.batch_size, [row.temperature for row in table.rows]) for table in tables] == [
        ("Paper", 8, ["0.1", "1"]), ("Paper", 2, ["0.1", "1"]),
    ]  # fmt: skip


def test_a_link_launches_with_what_its_row_shows():
    tables = draw(
        [make_cell(0.3, 0.4), make_cell(0.3, 0.4, size=2)], [suggest(0.42567)], mean_one="off", logprob_norm="sum"
    ).tables
    query = parse_qs(urlsplit(tables[0].use_url).query)
    assert query == {
        "scoring": ["scoring_1"], "weights.preset": ["paper"], "weights.lambda": ["0.426"],
        "weights.mean_one": ["off"], "weights.logprob_norm": ["sum"],
    }  # fmt: skip
    assert parse_qs(urlsplit(tables[1].rows[0].use_url).query)["training.batch_size"] == ["2"]


def test_data_of_another_policy_lead_to_fine_tuning_on_all_of_them():
    query = parse_qs(urlsplit(draw([make_cell(0.1, 0.2)]).tune_url).query)
    assert query == {"scoring": ["scoring_1"], "method": ["sft"], "weights.responses": ["both"]}


def test_the_lambda_nearest_to_the_wanted_effective_size_is_marked():
    rows = draw([make_cell(0.1, 0.2), make_cell(0.3, 0.45), make_cell(1.0, 0.8)], [suggest(0.4)]).tables[0].rows
    assert [row.is_near_target for row in rows] == [False, True, False]


def test_without_a_lambda_there_is_the_reason_and_no_link():
    table = draw([make_cell(0.1, 0.2)], [suggest(None)]).tables[0]
    assert (table.suggested, table.use_url) == ("", "")
    assert table.suggestion is not None
    assert table.suggestion.reason == "none does."


def test_bars_stand_at_their_bins_and_are_never_quite_flat():
    row = draw([make_cell(0.1, 0.2, _0=1000, _17=1)]).tables[0].rows[0]
    first, second = row.bars
    assert (first.height, second.height) == (HEIGHT, 1.5)
    assert first.x < second.x < WIDTH
    assert first.title == "1\u202f000 responses: w below 10⁻⁸"
    assert second.title == "1 response: w 1.0 to 3.2"
    assert "half of the weights below 10⁻⁸, effective sample size 20" in row.text


def test_the_axis_is_that_of_the_weight_edges():
    assert place_of(1.0) == round(17 * WIDTH / 22, 1)
    assert span(0) == "below 10⁻⁸"
    assert span(len(WEIGHT_EDGES)) == "above 100"


def test_more_draws_than_can_be_made_ask_for_a_larger_temperature() -> None:
    cell = make_cell(0.1, 0.2, preset="draws")
    assert [cell.model_copy(update={"draws_needed": num}).draws_told for num in (None, 256, 257)] == [
        "", "", ", and 256 are the most: take a larger λ",
    ]  # fmt: skip


def test_the_part_of_chance_falls_with_the_number_of_plans_as_that_of_a_mean_does() -> None:
    chance, num = random.Random(0), 4
    own, between = [chance.gauss(0, 2) for _ in range(4000)], [[chance.gauss(0, 1) for _ in range(num)] for _ in range(4000)]
    one_plan = 1 / pvariance([a + b[0] for a, b in zip(own, between, strict=True)])
    of_means = (1 / num) / pvariance([a + fmean(b) for a, b in zip(own, between, strict=True)])
    cell = make_cell(0.1, 0.2).model_copy(update={"partner_share": one_plan, "plans": num})
    assert cell.partner_share_left == pytest.approx(of_means, rel=0.05)
    assert cell.model_copy(update={"plans": 1}).partner_share_left == pytest.approx(one_plan)
    assert cell.model_copy(update={"partner_share": None}).partner_share_left is None


def test_where_a_run_takes_means_over_plans_it_is_said_that_the_weights_shown_are_of_one() -> None:
    cell = make_cell(0.1, 0.2, preset="reward_weighted").model_copy(update={"partner_share": 0.18})
    told = {
        (plans, share): draw([cell.model_copy(update={"plans": plans, "partner_share": share})]).tables[0].rows[0].chance
        for plans, share in ((1, 0.18), (8, 0.18), (8, None))
    }
    assert "These are the weights" not in told[1, 0.18]
    assert told[8, 0.18].endswith("the run takes the means over 8, in which about 3\N{NARROW NO-BREAK SPACE}% is chance.")
    assert told[8, None].endswith("the run takes the means over 8.")
