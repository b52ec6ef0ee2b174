"""Bad files, uploaded to a real web process: refused in a sentence or read with a report of the rows left out; never a 500."""

import re

import pytest

from app.ingest.limits import Limits
from tests.faults.bad_files import CSV, LINE, ROWS, TEXT_FORMS, cases
from tests.faults.web_process import running_web

CASES = cases()
MAX_MIB = 300
MAX_SECONDS = 5.0
MACHINERY = re.compile(r"Traceback|Error\b|Exception|/tmp/|/dev/shm/|site-packages|0x[0-9a-f]{6}|\bNone\b(?! of)|<class")


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    with running_web(tmp_path_factory.mktemp("web")) as web:
        yield web


def check_sentence(text: str) -> None:
    """What a person can read: a sentence without the machine's inner life."""
    assert re.match(r'[A-Z"]', text), text
    assert text.endswith((".", ").")), text
    assert len(text) >= 25, text
    assert not MACHINERY.search(text), text


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_bad_file_is_refused_in_a_sentence_or_read_with_a_report(web, case):
    with web.watched() as watch:
        answer = web.upload(case.content, case.filename)
    body = answer.json()
    if answer.status_code == 422:
        assert answer.headers["content-type"] == "application/problem+json"
        detail = body["detail"]
    else:
        assert answer.status_code in (200, 201), answer.text
        detail = body["error"]["detail"] if body["state"] == "needs_mapping" else ""
    assert bool(detail) == bool(case.sentence), answer.text
    if case.sentence:
        assert re.search(case.sentence, detail), detail
        check_sentence(detail)
    else:
        assert body["state"] == "ready"
        assert web.dropped(body["id"]) == case.dropped
        assert case.num_examples in (None, body["num_examples"])
    assert web.leftovers() == []
    web.forget()
    assert watch.web_mib < MAX_MIB
    assert 0 < watch.child_mib < MAX_MIB or not case.content


@pytest.mark.bench
def test_each_bad_file_is_answered_within_five_seconds(web):
    taken = {}
    for case in CASES:
        with web.watched() as watch:
            web.upload(case.content, case.filename)
        taken[case.name] = (watch.wall_seconds, watch.child_mib, watch.web_mib)
        web.forget()
    slowest = max(taken, key=lambda name: taken[name][0])
    largest = max(one[1] for one in taken.values())
    print(f"\n{len(taken)} files; slowest: {slowest}, {taken[slowest][0]:.2f} s; reader {largest:.0f} MiB at most")
    assert taken[slowest][0] < MAX_SECONDS


def test_the_page_shows_why_rows_were_left_out_and_where(web):
    content = b"\n".join([LINE, *(row for row, _ in ROWS.values()), LINE])
    dataset = web.upload(content).json()
    page = web.http.get(f"/datasets/{dataset['id']}").text
    lines = {reason: [line for line, (_, why) in enumerate(ROWS.values(), 2) if why == reason] for _, reason in ROWS.values()}
    assert web.dropped(dataset["id"]) == lines
    for reason, where in lines.items():
        escaped = reason.replace("'", "&#39;")
        row = re.search(rf"<tr>\s*<td>{re.escape(escaped)}<.*?</tr>", page, re.DOTALL)
        assert row is not None, reason
        assert f">{', '.join(map(str, where))}<" in row[0], reason
    web.forget()


@pytest.mark.parametrize("form", TEXT_FORMS)
def test_a_file_cut_anywhere_breaks_nothing(web, form):
    content = TEXT_FORMS[form]
    for size in range(1, len(content), max(1, len(content) // 12)):
        answer = web.upload(content[:size], f"data.{form}")
        assert answer.status_code in (200, 201, 422), f"{size} bytes: {answer.text}"
    assert web.leftovers() == []
    web.forget()


def test_a_row_just_below_the_limit_is_read_and_one_above_it_is_told(web):
    limit = Limits().max_row_bytes
    frame = len(b'{"prompt": "Hi", "chosen": "", "rejected": "no"}')
    rows = [b'{"prompt": "Hi", "chosen": "' + b"x" * (limit - frame + extra) + b'", "rejected": "no"}' for extra in (0, 1)]
    dataset = web.upload(b"\n".join([rows[0], LINE, rows[1], LINE])).json()
    assert (dataset["num_examples"], web.dropped(dataset["id"])) == (3, {"longer than the limit for one row": [3]})
    web.forget()


def test_a_mapping_that_is_wrong_for_the_file_names_its_field(web):
    for mapping, field in [
        (
            '{"shape": "pair", "columns": {"prompt": "prompt", "chosen": "good", "rejected": "rejected"}}',
            "mapping.columns.chosen",
        ),
        ('{"shape": "star", "columns": {}}', "mapping.shape"),
        ('{"shape": "pair", "columns": []}', "mapping.columns"),
        ("[" * 10_000, "mapping"),
        ("{", "mapping"),
        ('{"shape": NaN}', "mapping.shape"),
    ]:
        answer = web.upload(CSV, "data.csv", mapping)
        body = answer.json()
        problems = body["problems"] if answer.status_code == 422 else body["error"]["problems"]
        assert any(one["field"].startswith(field) for one in problems), answer.text
        for one in problems:
            check_sentence(one["message"][:1].upper() + one["message"][1:])
    web.forget()
    assert web.leftovers() == []
