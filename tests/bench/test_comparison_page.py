"""A comparison of 1000 prompts × 4 models × 3 judges: `make bench ARGS=tests/bench/test_comparison_page.py`.

How long its figures take, whether other requests wait meanwhile, and how fast its pages are once the figures are there.
"""

import time
from collections.abc import Iterator
from statistics import median, quantiles
from typing import Any

import httpx
import pytest

from tests.browser.studio import WebStudio, start_studio
from tests.compared import Planted, plant_comparison
from tests.waiting import END_SECONDS

NUM_PROMPTS, NUM_REQUESTS = 1000, 40
MODELS = [Planted("Kind", 1.0), Planted("Curt"), Planted("Terse", 0.5), Planted("Wordy", 0.2)]
P95_SECONDS = 0.3

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]


@pytest.fixture
def studio(tmp_path) -> Iterator[WebStudio]:
    studio = start_studio(tmp_path)
    yield studio
    studio.stop()


def measure(client: httpx.Client, address: str, num: int = NUM_REQUESTS) -> list[float]:
    """Seconds of so many requests."""
    seconds = []
    for _ in range(num):
        began_at = time.monotonic()
        assert client.get(address).status_code == 200
        seconds.append(time.monotonic() - began_at)
    return seconds


def tell(what: str, seconds: list[float]) -> float:
    p95 = quantiles(seconds, n=20)[-1]
    print(f"{what:<44} median {1000 * median(seconds):4.0f} ms, p95 {1000 * p95:4.0f} ms")
    return p95


def get(client: httpx.Client, address: str) -> Any:
    return client.get(address).json()


def test_nobody_waits_for_a_large_comparison(studio: WebStudio) -> None:
    judges = ("reward", "exact", "length")
    made = plant_comparison(studio.database, studio.files, studio.user.id, MODELS, num_prompts=NUM_PROMPTS, judges=judges).id
    page, rest = f"/comparisons/{made}", f"/api/v1/comparisons/{made}"
    with httpx.Client(base_url=studio.url, cookies={"studio_session": studio.cookie}, timeout=60) as client:
        measure(client, "/runs", 5)
        began_at = time.monotonic()
        assert "Figures are being computed" in client.get(page).text
        print(f"\nthe first answer after {time.monotonic() - began_at:.2f} s")
        others: list[float] = []
        while get(client, rest)["state"] == "computing":
            assert time.monotonic() - began_at < END_SECONDS
            others += [seconds for address in ("/runs", "/models") for seconds in measure(client, address, 2)]
        print(f"the figures after {time.monotonic() - began_at:.1f} s")
        told = [tell("other pages meanwhile", others)]
        for what, address in (
            ("its page", page), ("sorted by gains", f"{page}?sort=gains"), ("searched", f"{page}?search=parcel"),
            ("over REST", rest), ("prompts over REST", f"{rest}/prompts?sort=losses"), ("the vote page", f"{page}/vote"),
        ):  # fmt: skip
            told.append(tell(what, measure(client, address)))
    assert max(told) <= P95_SECONDS
