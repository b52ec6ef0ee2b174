"""What a run's page shows by its method."""

import pytest

from app.domain.metrics import CATALOGUE
from app.domain.recipe import Method
from app.web.pages.run.charts import keys
from app.web.pages.run.layout import TILES, sections_of


@pytest.mark.parametrize("method", Method)
def test_every_chart_of_a_method_draws_known_series_and_has_its_own_id(method: Method) -> None:
    charts = [chart for section in sections_of(method, is_online=method is Method.VAR) for chart in section.charts]
    assert {*keys(charts), *(tile.key for tile in TILES[method])} <= set(CATALOGUE)
    assert len({chart.id for chart in charts}) == len(charts)


@pytest.mark.parametrize("method", [Method.SFT, Method.DPO, Method.REWARD_MODEL])
def test_only_var_shows_weights(method: Method) -> None:
    shown = keys(chart for section in sections_of(method) for chart in section.charts)
    assert not [key for key in shown if key.startswith("weight/")]
