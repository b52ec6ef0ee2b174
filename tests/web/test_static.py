"""The files under /static on their way to a browser."""

import gzip
from concurrent.futures import ThreadPoolExecutor

from app.web import static


def test_a_script_travels_compressed_and_is_kept(studio):
    answer = studio.client("").get("/static/studio.css?v=any", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert "immutable" in answer.headers["cache-control"]
    assert int(answer.headers["content-length"]) < len(answer.content) / 2


def test_a_browser_that_takes_no_gzip_gets_the_file_as_it_is(studio):
    answer = studio.client("").get("/static/studio.css", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in answer.headers
    assert answer.headers["cache-control"] == "no-cache"


def test_a_file_is_packed_once_however_often_anybody_asks(studio, monkeypatch):
    """A megabyte takes 50 ms to pack, and strangers may ask for it: sixty requests held everybody up for seconds."""
    packed = []
    compress = gzip.compress
    monkeypatch.setattr(
        gzip, "compress", lambda data, *more, **options: packed.append(len(data)) or compress(data, *more, **options)
    )
    static._packed.cache_clear()
    stranger = studio.client("")
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: stranger.get("/static/studio.css", headers={"Accept-Encoding": "gzip"}), range(24)))
    assert {answer.headers["content-encoding"] for answer in answers} == {"gzip"}
    assert {answer.content for answer in answers} == {(static.STATIC / "studio.css").read_bytes()}
    assert len(packed) == 1


def test_what_is_asked_in_parts_or_by_its_head_alone_is_told_as_it_is(studio):
    stranger, gzipped = studio.client(""), {"Accept-Encoding": "gzip"}
    part = stranger.get("/static/studio.css", headers={**gzipped, "Range": "bytes=0-99"})
    assert (part.status_code, len(part.content), "content-encoding" in part.headers) == (206, 100, False)
    whole = stranger.get("/static/studio.css", headers=gzipped)
    head = stranger.head("/static/studio.css", headers=gzipped)
    assert (head.content, head.headers["content-length"]) == (b"", whole.headers["content-length"])
    again = stranger.get("/static/studio.css", headers={**gzipped, "If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert whole.headers["content-type"].startswith("text/css")
    assert "accept-encoding" in whole.headers["vary"].lower()
