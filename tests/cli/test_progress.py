import pytest

from app.commands.progress import figure


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("tokens_per_second", 14230.4, "14 230 tokens/s"),
        ("tokens_per_second", 812.3, "812.3 tokens/s"),
        ("eval/win_rate", 0.625, "62.5 %"),
        ("eval/kl", 1.23456, "1.235 nats"),
        ("loss", 0.31718, "0.3172"),
        ("learning_rate", 1e-5, "1e-05"),
        ("grad_norm", float("nan"), "nan"),
    ],
)
def test_figures_of_a_watched_run_are_in_units_that_people_read(key: str, value: float, text: str) -> None:
    assert figure(key, value) == text
