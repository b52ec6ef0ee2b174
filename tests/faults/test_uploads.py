"""A6 and A16 at the upload: kill -9 of the web or of the child that reads, a disk that is full, a database without room."""

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from tests.faults.conftest import embedded_house
from tests.faults.house import House
from tests.small_disk import small_disk
from tests.waiting import END_SECONDS, wait_until

ROWS = "".join(json.dumps({"prompt": f"Question {n}?", "chosen": f"Yes {n}.", "rejected": f"No {n}."}) + "\n" for n in range(200))
LIVING = ("uploads", "datasets")


def upload(house: House, content: str = ROWS, name: str = "pairs.jsonl") -> httpx.Response:
    return house.http.post("/api/v1/datasets", files={"file": (name, content)})


def states(house: House) -> dict[str, str]:
    """Of the data sets that an upload made; the house has one of its own without a file."""
    items = house.http.get("/api/v1/datasets").json()["items"]
    return {item["id"]: item["state"] for item in items if item["id"] != house.library.dataset.id}


def left_files(house: House) -> list[str]:
    """What lies in the folders of uploads and data sets."""
    found = [path for name in LIVING for path in (house.settings.root / name).rglob("*") if path.is_file()]
    return sorted(str(path.relative_to(house.settings.root)) for path in found)


def begin_upload(house: House, num_bytes: int) -> socket.socket:
    """A connection that has sent so many bytes of a larger file, and is still sending."""
    boundary = "frontier"
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="big.jsonl"\r\n\r\n'.encode()
    connection = socket.create_connection(("127.0.0.1", house.port))
    head = (
        f"POST /api/v1/datasets HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {house.token}\r\n"
        f"Content-Type: multipart/form-data; boundary={boundary}\r\nContent-Length: {100_000_000}\r\n\r\n"
    )
    connection.sendall(head.encode() + part)
    line = (ROWS.splitlines()[0] + "\n").encode()
    for _ in range(num_bytes // (len(line) * 1000) + 1):
        connection.sendall(line * 1000)
    return connection


def test_kill_9_of_the_web_during_an_upload_leaves_nothing_and_a_retry_works(house: House) -> None:
    house.start_web()
    with begin_upload(house, 5_000_000):
        folder = house.files.uploads_dir
        wait_until(lambda: any(path.stat().st_size > 1_000_000 for path in folder.glob("*.part")), what="a temporary file")
        house.kill_web()
    assert list(folder.glob("*.part"))
    house.start_web()
    assert left_files(house) == []
    assert states(house) == {}
    answer = upload(house)
    assert (answer.status_code, answer.json()["state"]) == (201, "ready")


def test_kill_9_of_the_web_while_a_file_is_read_ends_in_a_whole_data_set(house: House) -> None:
    """What was accepted is read again after the restart; until then it is not ready."""
    house.start_web()
    num_rows = 60_000
    content = "".join(f'{{"prompt": "Question {n}?", "chosen": "Yes {n}.", "rejected": "No {n}."}}\n' for n in range(num_rows))
    sender = house.start_process("sender", send_command(house, content), house.environment())
    wait_until(lambda: "processing" in states(house).values(), what="the reading of the file")
    house.kill_web()
    sender.wait(END_SECONDS)
    house.start_web()
    (dataset_id,) = states(house)
    wait_until(lambda: states(house)[dataset_id] == "ready", what="the data set")
    dataset = house.http.get(f"/api/v1/datasets/{dataset_id}").json()
    assert dataset["num_examples"] == num_rows
    assert [name for name in left_files(house) if "/." in name or name.endswith(".part")] == []


def send_command(house: House, content: str) -> list[str]:
    path = house.folder / "big.jsonl"
    path.write_text(content)
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    header = f"Authorization: Bearer {house.token}"
    return [curl, "--silent", "--header", header, "--form", f"file=@{path}", f"{house.url}/api/v1/datasets"]


def test_kill_9_of_the_child_that_reads_a_file_is_said_and_leaves_nothing(embedded: House) -> None:
    web = embedded.start_web()
    content = "".join(f'{{"prompt": "Question {n}?", "chosen": "Yes {n}.", "rejected": "No {n}."}}\n' for n in range(60_000))
    killed: set[int] = set()
    sender = embedded.start_process("sender", send_command(embedded, content), embedded.environment())
    wait_until(lambda: "processing" in states(embedded).values(), what="the reading of the file")
    for child in Path(f"/proc/{web.pid}/task/{web.pid}/children").read_text(encoding="utf-8").split():
        if "app.ingest" in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8"):
            os.kill(int(child), signal.SIGKILL)
            killed.add(int(child))
    assert killed or children_of_threads(web)
    assert sender.wait(END_SECONDS) == 0
    problem = json.loads(embedded.log("sender"))
    assert problem["status"] == 422
    assert "stopped" in problem["detail"]
    assert states(embedded) == {}
    wait_until(lambda: left_files(embedded) == [], what="the end of its files")
    assert upload(embedded).json()["state"] == "ready"


def children_of_threads(web: "subprocess.Popen[bytes]") -> set[int]:
    """Children that threads of the web started, killed as well."""
    killed = set()
    for path in Path(f"/proc/{web.pid}/task").glob("*/children"):
        for child in path.read_text().split():
            if "app.ingest" in Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8"):
                os.kill(int(child), signal.SIGKILL)
                killed.add(int(child))
    return killed


@pytest.fixture
def small_house(tmp_path: Path, stack: ExitStack, migrated_sqlite: Path) -> Iterator[House]:
    """A house whose data folder is a disk of 24 MB."""
    stack.enter_context(small_disk(tmp_path / "var", 24 * 2**20))
    yield embedded_house(tmp_path, stack, migrated_sqlite)
    stack.close()


def fill(folder: Path) -> Path:
    """Take every byte that is free."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return filler


def assert_sound(house: House) -> None:
    with closing(sqlite3.connect(house.settings.root / "studio.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_an_upload_that_does_not_fit_on_the_disk_is_refused_in_a_sentence_and_leaves_nothing(small_house: House) -> None:
    small_house.start_web()
    kept = upload(small_house).json()["id"]
    before = left_files(small_house)
    answer = upload(small_house, ROWS * 4000)
    assert answer.status_code in (503, 507), answer.text
    assert "disk is full" in answer.json()["detail"]
    assert "free some space" in answer.json()["detail"]
    assert left_files(small_house) == before
    for path in ("/", f"/datasets/{kept}", f"/api/v1/datasets/{kept}/examples"):
        assert small_house.http.get(path).status_code == 200, path
    assert upload(small_house, name="again.jsonl").json()["state"] == "ready"
    assert_sound(small_house)


def test_a_database_without_room_refuses_writes_in_a_sentence_reads_on_and_recovers(small_house: House) -> None:
    small_house.start_web()
    kept = upload(small_house).json()["id"]
    run_id = small_house.launch()
    before = left_files(small_house)
    filler = fill(small_house.settings.root)
    refused = [upload(small_house, name="late.jsonl")]
    long = {**small_house.recipe, "name": "x" * 100}
    until = time.monotonic() + 60
    while (answer := small_house.http.post("/api/v1/runs", json=long)).status_code == 202:  # room left in the write-ahead log
        assert time.monotonic() < until
    for one in [answer, *refused]:
        assert one.status_code in (503, 507), one.text
        assert "full" in one.json()["detail"]
        assert one.headers["content-type"] == "application/problem+json"
    for path in ("/", "/datasets", f"/datasets/{kept}", f"/runs/{run_id}", f"/api/v1/runs/{run_id}/events"):
        assert small_house.http.get(path).status_code == 200, path
    filler.unlink()
    assert left_files(small_house) == before
    assert small_house.http.post("/api/v1/runs", json=long).status_code == 202
    assert upload(small_house, name="after.jsonl").json()["state"] == "ready"
    assert_sound(small_house)
    assert "Traceback" not in small_house.log("web")
