"""Data sets over REST: streamed in, mapped, read, exported, deleted."""

import csv
import io
import json
import socket

import pytest

from app.web.exports import defuse
from tests.waiting import wait_until
from tests.web.conftest import PAIRS

UPLOAD = "/api/v1/datasets"
UNKNOWN = '{"a": "Question?", "b": "Kind.", "c": "Rude."}\n'
MAPPING = {"shape": "pair", "columns": {"prompt": "a", "chosen": "b", "rejected": "c"}, "options": {}}


def multipart(*parts: tuple[str, bytes, str | None], boundary: str = "limit") -> tuple[bytes, dict[str, str]]:
    """A body by hand: (name, content, filename or None) in this order."""
    body = b""
    for name, content, filename in parts:
        extra = f'; filename="{filename}"' if filename is not None else ""
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"content-type": f"multipart/form-data; boundary={boundary}"}


def left_over(studio) -> list[str]:
    return [path.name for path in (studio.settings.root / "uploads").glob("*")]


def folders(studio) -> set[str]:
    folder = studio.settings.root / "datasets"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_an_upload_is_ready_with_its_audit(studio, client):
    dataset = studio.upload(name="Help desk")
    assert dataset["name"] == "Help desk"
    assert (dataset["state"], dataset["num_examples"], dataset["filename"]) == ("ready", 30, "pairs.jsonl")
    assert dataset["size_bytes"] == len(PAIRS)
    assert client.get(f"{UPLOAD}/{dataset['id']}").json() == dataset
    assert client.get(f"{UPLOAD}/{dataset['id']}/audit").json()["num_pairs"] == 30


def test_the_answer_says_where_the_data_set_is(client):
    response = client.post(UPLOAD, files={"file": ("pairs.jsonl", PAIRS)})
    assert response.headers["location"] == f"{UPLOAD}/{response.json()['id']}"


@pytest.mark.parametrize("file_first", [True, False])
def test_the_file_may_come_before_or_after_the_fields(client, file_first):
    file, fields = (
        ("file", UNKNOWN.encode(), "x.jsonl"),
        [("name", b"Mine", None), ("mapping", json.dumps(MAPPING).encode(), None)],
    )
    body, headers = multipart(*([file, *fields] if file_first else [*fields, file]))
    dataset = client.post(UPLOAD, content=body, headers=headers).json()
    assert (dataset["state"], dataset["name"], dataset["mapping"]) == ("ready", "Mine", MAPPING)


def test_a_body_that_comes_byte_by_byte_is_the_same(client):
    body, headers = multipart(("file", PAIRS.encode(), "p.jsonl"), ("name", "Grüße".encode(), None))
    dataset = client.post(UPLOAD, content=(body[n : n + 1] for n in range(len(body))), headers=headers).json()
    assert (dataset["name"], dataset["num_examples"]) == ("Grüße", 30)


def test_an_unknown_shape_asks_for_a_mapping_and_takes_it(client):
    dataset = client.post(UPLOAD, files={"file": ("x.jsonl", UNKNOWN)}).json()
    assert dataset["state"] == "needs_mapping"
    assert [column["name"] for column in dataset["error"]["extra"]["columns"]] == ["a", "b", "c"]
    assert client.get(f"{UPLOAD}/{dataset['id']}/preview").json()["rows"][0] == json.loads(UNKNOWN)
    wrong = {**MAPPING, "columns": {**MAPPING["columns"], "chosen": "good"}}
    refused = client.post(f"{UPLOAD}/{dataset['id']}/mapping", json=wrong)
    assert refused.status_code == 422
    assert refused.json()["problems"][0]["field"] == "mapping.columns.chosen"
    mapped = client.post(f"{UPLOAD}/{dataset['id']}/mapping", json=MAPPING).json()
    assert (mapped["state"], mapped["num_examples"]) == ("ready", 1)


@pytest.mark.parametrize(
    ("content", "mapping", "field"),
    [
        (b"", None, "file"), (b"\n\n\n", None, None), (b"nothing of this kind", None, None), (b'{"prompt": 1}\n', None, None),
        (PAIRS.encode(), '{"shape": "star"}', "mapping.shape"), (PAIRS.encode(), "{", "mapping"),
        (PAIRS.encode(), "[" * 9999, "mapping"),
        (PAIRS.encode(), '{"shape": "pair", "columns": {"prompt": "prompt", "chosen": "good", "rejected": "rejected"}}', None),
        (b"PAR1 and no more", None, None), (b"\x1f\x8b\x08\x00 cut", None, None),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_and_nothing_stays(studio, client, content, mapping, field):
    before, known = client.get(UPLOAD).json(), folders(studio)
    response = client.post(UPLOAD, files={"file": ("x.jsonl", content)}, data={"mapping": mapping} if mapping else {})
    if response.status_code == 201:  # a mapping that doesn't fit may be asked for again
        assert response.json()["state"] == "needs_mapping"
        return
    assert response.status_code == 422
    if field:
        assert response.json()["problems"][0]["field"] == field
    assert client.get(UPLOAD).json() == before
    assert folders(studio) == known
    assert left_over(studio) == []


def test_a_file_over_the_cap_is_refused_and_nothing_stays(studio, client):
    known = folders(studio)
    response = client.post(UPLOAD, files={"file": ("big.jsonl", b"x" * 3_000_001)})
    assert response.status_code == 413
    assert "3,000,000" in response.json()["detail"]
    assert (folders(studio), left_over(studio)) == (known, [])


def test_a_body_over_the_cap_is_refused_before_it_is_read(client):
    body, headers = multipart(("file", b"x", "big.jsonl"))
    response = client.post(UPLOAD, content=body, headers={**headers, "content-length": str(10**12)})
    assert response.status_code == 413


@pytest.mark.parametrize(
    "parts",
    [
        [], [("name", b"x", None)], [("other", b"x", "x.jsonl")], [("file", b"x", None)],
        [("file", b"{}", "a.jsonl"), ("file", b"{}", "b.jsonl")], [("name", b"x", None)] * 2 + [("file", b"{}", "a.jsonl")],
        [(f"f{n}", b"x", None) for n in range(30)] + [("file", b"{}", "a.jsonl")],
        [("name", b"\xff\xfe", None), ("file", b"{}", "a")],
        [("name", b"n" * 200, None), ("file", PAIRS.encode(), "a")], [("name", b"a\0b", None), ("file", PAIRS.encode(), "a")],
    ],
)  # fmt: skip
def test_a_form_that_is_not_what_was_asked_for_is_refused(studio, client, parts):
    body, headers = multipart(*parts)
    response = client.post(UPLOAD, content=body, headers=headers)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert left_over(studio) == []


def test_a_field_larger_than_a_field_is_refused(client):
    body, headers = multipart(("name", b"n" * 300_000, None), ("file", PAIRS.encode(), "a"))
    assert client.post(UPLOAD, content=body, headers=headers).status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"", b"garbage", b"--limit\r\n", b"--limit\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nabc",
        b"--limit\r\n" + b"a: b\r\n" * 100_000, b"--limit\r\nContent-Disposition: " + b"a" * 1_000_000,
    ],
)  # fmt: skip
def test_a_broken_body_is_refused(studio, client, body):
    response = client.post(UPLOAD, content=body, headers={"content-type": "multipart/form-data; boundary=limit"})
    assert response.status_code == 422
    assert left_over(studio) == []


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; boundary=" + "b" * 5000, "application/json", ""])
def test_a_body_of_another_kind_is_refused(client, kind):
    assert client.post(UPLOAD, content=b"x", headers={"content-type": kind}).status_code in {415, 422}


@pytest.mark.parametrize(
    "filename", ["../../etc/passwd", "..\\..\\x.jsonl", "/etc/passwd", "C:\\x.jsonl", "x\ny.jsonl", "", "a" * 400, "é.jsonl"]
)
def test_a_file_name_is_only_a_name(studio, client, filename):
    body, headers = multipart(("file", PAIRS.encode(), filename))
    response = client.post(UPLOAD, content=body, headers=headers)
    assert response.status_code in {201, 422}
    if response.status_code == 201:
        dataset = response.json()
        assert "/" not in dataset["filename"]
        assert "\\" not in dataset["filename"]
        assert dataset["filename"].isprintable()
        assert {path.name for path in (studio.settings.root / "datasets" / dataset["id"]).iterdir()} <= {
            "source", "examples.parquet", "preview.json",
        }  # fmt: skip


def test_a_sender_that_leaves_half_way_leaves_nothing(server):
    studio = server.studio
    known = folders(studio)
    head = (
        f"POST {UPLOAD} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {studio.token}\r\n"
        "Content-Type: multipart/form-data; boundary=limit\r\nContent-Length: 2000000\r\n\r\n"
        '--limit\r\nContent-Disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n'
    )
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + b"x" * 1_500_000)
        wait_until(lambda: len(left_over(studio)) == 1, "half an upload")
    wait_until(lambda: not left_over(studio), "the end of half an upload")
    assert folders(studio) == known


def test_examples_come_in_pages(studio, client):
    dataset = studio.upload()
    seen, after = [], -1
    while after is not None:
        page = client.get(f"{UPLOAD}/{dataset['id']}/examples", params={"after": after, "limit": 13}).json()
        seen += [example["example_id"] for example in page["items"]]
        after = page["next"]
    assert seen == list(range(30))


def test_lists_come_in_pages_newest_first(studio, client):
    made = [studio.upload(name=f"number {n}")["id"] for n in range(3)]
    first = client.get(UPLOAD, params={"limit": 2}).json()
    second = client.get(UPLOAD, params={"limit": 2, "after": first["next"]}).json()
    assert [one["id"] for one in first["items"]] == [made[2], made[1]]
    assert second["items"][0]["id"] == made[0]
    assert client.get(UPLOAD, params={"state": "failed"}).json() == {"items": [], "next": None}


def test_the_file_comes_back_byte_for_byte(studio, client):
    odd = PAIRS.replace("\n", "\r\n") + "\n\n"
    response = client.get(f"{UPLOAD}/{studio.upload(odd)['id']}/file")
    assert response.content == odd.encode()
    assert response.headers["content-disposition"].startswith("attachment")


def test_exported_json_lines_hold_every_text_unchanged(studio, client):
    texts = ["=1+1", "a\r\nb\tc", "\u2028 é 漢 😀", '"quoted", <b>html</b>', "@x", " spaces "]
    rows = [{"prompt": f"P {text}", "chosen": text, "rejected": f"no {text}"} for text in texts]
    dataset = studio.upload("".join(json.dumps(row) + "\n" for row in rows))
    exported = client.get(f"{UPLOAD}/{dataset['id']}/examples.jsonl").content.decode().removesuffix("\n").split("\n")
    examples = [json.loads(line) for line in exported]
    assert [[response["content"] for response in one["responses"]] for one in examples] == [[t, f"no {t}"] for t in texts]


def test_exported_cells_are_no_formulas(studio, client):
    texts = ["=cmd()", "+1", "-1", "@sum", "\tx", "\rx", "\n=1", "＝1", "＋1", "－1", "＠sum", "fine"]
    rows = [{"prompt": "P", "chosen": text, "rejected": "no"} for text in texts]
    dataset = studio.upload("".join(json.dumps(row) + "\n" for row in rows))
    table = list(csv.DictReader(io.StringIO(client.get(f"{UPLOAD}/{dataset['id']}/examples.csv").content.decode(), newline="")))
    chosen = [row["response"] for row in table if row["preference"] == "chosen"]
    assert chosen[-1] == "fine"
    assert all(cell.startswith("'") for cell in chosen[:-1])
    assert not [cell for row in table for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert defuse("plain") == "plain"


def test_a_data_set_that_is_not_ready_has_no_audit_and_no_examples(client):
    made = client.post(UPLOAD, files={"file": ("x.jsonl", UNKNOWN)}).json()
    dataset_id = made["id"]
    for part in ("audit", "examples", "examples.jsonl", "examples.csv"):
        assert client.get(f"{UPLOAD}/{dataset_id}/{part}").status_code == 404
    for part in ("audit", "examples.jsonl", "examples.csv"):
        detail = client.get(f"{UPLOAD}/{dataset_id}/{part}").json()["detail"]
        assert detail == f"The data set “{made['name']}” waits for a mapping of its columns: POST one to its mapping first."


def test_a_deleted_data_set_is_gone_with_its_files(studio, client):
    dataset_id = studio.upload()["id"]
    assert client.delete(f"{UPLOAD}/{dataset_id}").status_code == 204
    assert client.get(f"{UPLOAD}/{dataset_id}").status_code == 404
    assert dataset_id not in folders(studio)


def test_a_data_set_that_a_run_uses_stays(studio, client):
    studio.launch()
    response = client.delete(f"{UPLOAD}/data_pairs")
    assert response.status_code == 409
    assert "Delete the run" in response.json()["detail"]
