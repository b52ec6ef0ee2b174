"""The catalogue is complete, and each entry can stand in a page."""

from app.domain.metrics import CATALOGUE


def test_every_metric_has_a_title_a_direction_and_one_sentence() -> None:
    for key, metric in CATALOGUE.items():
        assert key == metric.key
        assert metric.title
        assert metric.better in {"up", "down", "none"}
        assert metric.meaning.endswith(".")
        assert "\n" not in metric.meaning


def test_titles_are_unambiguous() -> None:
    titles = [metric.title for metric in CATALOGUE.values()]
    assert len(titles) == len(set(titles))
