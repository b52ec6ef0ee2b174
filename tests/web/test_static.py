"""The files under /static on their way to a browser."""


def test_a_script_travels_compressed_and_is_kept(studio):
    answer = studio.client("").get("/static/studio.css?v=any", headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert "immutable" in answer.headers["cache-control"]
    assert int(answer.headers["content-length"]) < len(answer.content) / 2


def test_a_browser_that_takes_no_gzip_gets_the_file_as_it_is(studio):
    answer = studio.client("").get("/static/studio.css", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in answer.headers
    assert answer.headers["cache-control"] == "no-cache"
