"""What a run's page shows by its method."""

import pytest

from app.domain.metrics import CATALOGUE
from app.domain.recipe import Method
from app.web.pages.run.charts import keys
from app.web.pages.run.layout import TILES, sections_of
from app.web.rendering.environment import environment
from app.web.rendering.form_words import BY_PATH


@pytest.mark.parametrize("method", Method)
def test_every_chart_of_a_method_draws_known_series_and_has_its_own_id(method: Method) -> None:
    charts = [chart for section in sections_of(method, is_online=method is Method.VAR) for chart in section.charts]
    assert {*keys(charts), *(tile.key for tile in TILES[method])} <= set(CATALOGUE)
    assert len({chart.id for chart in charts}) == len(charts)


@pytest.mark.parametrize("method", [Method.SFT, Method.DPO, Method.REWARD_MODEL])
def test_only_var_shows_weights(method: Method) -> None:
    shown = keys(chart for section in sections_of(method) for chart in section.charts)
    assert not [key for key in shown if key.startswith("weight/")]


@pytest.mark.parametrize("method", Method)
def test_no_chart_names_a_setting_by_its_path(method: Method) -> None:
    figure = environment().get_template("runs/_figure.html").module.figure
    shown = " ".join(str(figure(chart, "")) for section in sections_of(method) for chart in section.charts)
    assert [path for path in BY_PATH if "." in path and path in shown] == []
