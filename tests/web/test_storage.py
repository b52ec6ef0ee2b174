"""A studio without room: it refuses what is new with a sentence, shows why on every page, and recovers by itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store.files import disk
from tests.web.conftest import PAIRS, Studio, make_app, opened

QUOTA = 50_000_000


@pytest.fixture
def limited(tmp_path: Path, migrated_sqlite: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    """A studio with a quota, that looks again at once."""
    monkeypatch.setattr(disk, "FRESH_SECONDS_FULL", 0.0)
    with opened(make_app(tmp_path, migrated_sqlite, disk_quota_bytes=QUOTA), tmp_path) as studio:
        yield studio


def fill(studio: Studio) -> Path:
    """More than the quota in the hub's cache; noticed at the next look."""
    ballast = studio.settings.root / "hub" / "ballast"
    ballast.parent.mkdir()
    with ballast.open("wb") as file:
        file.truncate(QUOTA)
    studio.database.disk._usage = None
    return ballast


def test_uploads_launches_and_scorings_are_refused_until_there_is_room(limited: Studio) -> None:
    client, recipe = limited.client(), limited.ingredients()
    key = {"idempotency-key": "before"}
    known = client.post("/api/v1/runs", json=recipe, headers=key)
    client.post(f"/api/v1/runs/{known.json()['id']}/cancel")
    ballast = fill(limited)
    tries = [
        client.post("/api/v1/datasets", files={"file": ("pairs.jsonl", PAIRS)}),
        client.post("/api/v1/runs", json=recipe),
        client.post("/api/v1/scorings", json=recipe),
        client.post("/api/v1/sweeps", json={"recipe": recipe, "lambda": [0.1, 1.0]}),
        client.post(f"/api/v1/runs/{known.json()['id']}/resume"),
    ]
    for answer in tries:
        assert answer.status_code == 507, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["code"] == "storage-full"
        assert "STUDIO_DISK_QUOTA_BYTES" in answer.json()["detail"]
    assert client.post("/api/v1/runs", json=recipe, headers=key).json()["id"] == known.json()["id"]
    assert list((limited.settings.root / "uploads").glob("*")) == []
    assert len(client.get("/api/v1/runs").json()["items"]) == 1
    ballast.unlink()
    assert client.post("/api/v1/runs", json=recipe).status_code == 202
    assert client.post("/api/v1/datasets", files={"file": ("pairs.jsonl", PAIRS)}).status_code == 201


def test_an_upload_that_would_not_fit_is_refused_by_its_length(limited: Studio) -> None:
    headers = {"content-length": str(QUOTA + 1), "content-type": "multipart/form-data; boundary=x"}
    answer = limited.client().post("/api/v1/datasets", content=b"", headers=headers)
    assert answer.status_code == 507
    assert "There is room for" in answer.json()["detail"]


def test_pages_say_that_there_is_no_room_and_what_takes_it(limited: Studio) -> None:
    browser = limited.browser()
    assert "There is no room" not in browser.get("/").text
    ballast = fill(limited)
    for path in ("/", "/datasets", "/models", "/storage"):
        page = browser.get(path)
        assert page.status_code == 200
        assert "There is no room for anything new" in page.text
        assert "hub (50.0 MB)" in page.text
        assert "launches and scorings are refused, and queued runs do not begin until there is room" in page.text
    assert "There is no room" not in limited.client("").get("/login").text
    ballast.unlink()
    limited.database.disk._usage = None
    assert "There is no room" not in browser.get("/").text


def test_a_queued_run_says_that_nothing_begins_until_there_is_room(limited: Studio) -> None:
    client, sentence = limited.client(), "Nothing begins until there is room (see Storage)."
    waiting, held = (client.post("/api/v1/runs", json=limited.ingredients()).json()["id"] for _ in range(2))
    client.post(f"/api/v1/runs/{held}/pause")
    ballast = fill(limited)
    assert client.get(f"/api/v1/runs/{waiting}").json()["waiting_for"] == sentence
    assert [one["waiting_for"] for one in client.get("/api/v1/queue").json()["items"]] == [sentence]
    assert "paused" in client.get(f"/api/v1/runs/{held}").json()["waiting_for"]
    for path in ("/queue", f"/runs/{waiting}"):
        assert sentence in limited.browser().get(path).text
    ballast.unlink()
    limited.database.disk._usage = None
    assert "No worker is alive" in client.get(f"/api/v1/runs/{waiting}").json()["waiting_for"]


def test_the_numbers_are_there_for_machines(limited: Studio) -> None:
    fill(limited)
    answer = limited.client().get("/api/v1/storage").json()
    assert answer["parts"]["hub"] == QUOTA
    assert answer["used_bytes"] == sum(answer["parts"].values())
    assert answer["quota_bytes"] == QUOTA
    assert answer["full"]
    assert "STUDIO_DISK_QUOTA_BYTES" in answer["reason"]


def test_without_limits_the_storage_page_still_tells_what_is_used(studio: Studio) -> None:
    page = studio.browser().get("/storage")
    assert page.status_code == 200
    assert "No quota is set" in page.text
    assert not studio.client().get("/api/v1/storage").json()["full"]
