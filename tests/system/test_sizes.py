import pytest

from app.system.sizes import describe_size


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (5120, "5.12 kB"),
        (999_499, "999 kB"),
        (12_800_000, "12.8 MB"),
        (999_600, "1 MB"),
        (999_999_999, "1 GB"),
        (3.2e12, "3.2 TB"),
    ],
)
def test_a_size_has_three_digits_and_the_unit_that_reads_best(num_bytes: float, words: str) -> None:
    assert describe_size(num_bytes) == words
