"""Uploads are read by limited child processes that may die without harm."""

import errno
import gzip
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.domain.errors import Unavailable
from app.ingest.__main__ import as_studio_error
from app.ingest.pool import COMMAND, IngestPool
from app.settings import Settings
from app.system.child import Child
from tests.ingest.test_read import BAD_ROWS, REFUSED
from tests.waiting import END_SECONDS, wait_until

ROW = json.dumps({"prompt": "Hi", "chosen": "a", "rejected": "b"}) + "\n"


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    pool = IngestPool(Settings(_env_file=None, data_dir=tmp_path_factory.mktemp("var")))
    pool.start()
    yield pool
    pool.close()


def job(folder: Path, content: bytes, name: str = "source") -> dict[str, str]:
    (folder / name).write_bytes(content)
    return {"source": str(folder / name), "target": str(folder / f"{name}.parquet")}


def test_a_good_file_comes_back_with_mapping_and_audit(pool, tmp_path):
    reply = pool.run(job(tmp_path, ROW.encode()))
    assert reply["status"] == "ready"
    assert reply["mapping"]["shape"] == "pair"
    assert reply["audit"]["num_kept_rows"] == 1


def test_bad_and_unknown_files_come_back_as_errors(pool, tmp_path):
    bad = pool.run(job(tmp_path, b"PK\x03\x04"))
    unknown = pool.run(job(tmp_path, b'{"a": "x", "b": "y"}'))
    assert (bad["status"], bad["error"]["code"]) == ("invalid", "dataset-invalid")
    assert (unknown["status"], unknown["error"]["code"]) == ("needs_mapping", "mapping-needed")
    assert [column["name"] for column in unknown["error"]["extra"]["columns"]] == ["a", "b"]


def test_a_mapping_is_applied(pool, tmp_path):
    columns = {"prompt": "p", "chosen": "g", "rejected": "b"}
    reply = pool.run({**job(tmp_path, b'{"p": "Hi", "g": "x", "b": "y"}'), "mapping": {"shape": "pair", "columns": columns}})
    assert reply["status"] == "ready"


def test_small_files_that_come_together_wait_for_the_children_that_are_there(tmp_path, monkeypatch):
    started = []

    class Counted(Child):
        def __init__(self, command: tuple[str, ...]) -> None:
            started.append(command)
            super().__init__(command)

    monkeypatch.setattr("app.ingest.pool.Child", Counted)
    monkeypatch.setattr("app.ingest.pool.START_SECONDS", 60.0)  # the clock: no machine is too slow for this test
    pool = IngestPool(Settings(_env_file=None, data_dir=tmp_path))
    pool.start()
    jobs = [job(tmp_path, ROW.encode(), name=f"source-{number}") for number in range(40)]
    with ThreadPoolExecutor(12) as threads:
        assert {reply["status"] for reply in threads.map(pool.run, jobs)} == {"ready"}
    pool.close()
    assert len(started) == 2


def test_a_pool_that_is_closed_while_it_starts_keeps_no_children(tmp_path, monkeypatch):
    started = []

    class Kept(Child):
        def __init__(self, command: tuple[str, ...]) -> None:
            super().__init__(command)
            started.append(self)
            pool.close()

    monkeypatch.setattr("app.ingest.pool.Child", Kept)
    pool = IngestPool(Settings(_env_file=None, data_dir=tmp_path))
    pool.start()
    assert [child.alive for child in started] == [False, False]


def test_a_child_that_is_killed_is_replaced(pool, tmp_path):
    for child in list(pool._idle):
        os.kill(child._process.pid, signal.SIGKILL)
        child._process.wait()
    assert pool.run(job(tmp_path, ROW.encode()))["status"] == "ready"


def test_a_job_past_its_time_is_stopped_with_a_sentence(pool, tmp_path):
    reply = pool.run(job(tmp_path, ROW.encode() * 200_000), timeout=0.2)
    assert "took too much time or memory" in reply["error"]["detail"]
    assert pool.run(job(tmp_path, ROW.encode()))["status"] == "ready"


def test_a_child_whose_file_is_deleted_ends_at_once(pool, tmp_path):
    given = job(tmp_path, ROW.encode() * 400_000)
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(pool.run, given)
        wait_until(lambda: pool._busy, "the child's work")
        (child,) = pool._busy
        Path(given["source"]).unlink()
        assert "deleted" in future.result(END_SECONDS)["error"]["detail"]
    assert not child.alive
    assert pool.run(job(tmp_path, ROW.encode()))["status"] == "ready"


def test_a_file_deleted_before_its_child_opens_it_was_deleted(pool, tmp_path, monkeypatch):
    given, ask = job(tmp_path, ROW.encode()), Child.ask

    def ask_after_the_deletion(child, sent, timeout, check=None):
        Path(given["source"]).unlink()
        return ask(child, sent, timeout)

    monkeypatch.setattr(Child, "ask", ask_after_the_deletion)
    assert "deleted" in pool.run(given)["error"]["detail"]


def test_processor_time_is_limited_by_the_kernel(pool, tmp_path):
    reply = pool.run({**job(tmp_path, ROW.encode() * 400_000), "cpu_seconds": 0})
    assert "took too much time or memory" in reply["error"]["detail"]


@pytest.mark.parametrize("bomb", [
    b'{"a": [' + b"{}," * (4 * 2**20 // 3 - 10) + b"{}]}",
    gzip.compress(b"[" + b'{"a": [' + b"[]," * 2 * 10**6),
    gzip.compress(b" " * 200 * 2**20),
])  # fmt: skip
def test_a_bomb_is_refused_in_bounded_memory(tmp_path, bomb):
    child = Child(COMMAND)
    reply = child.ask({**job(tmp_path, bomb), "max_unpacked_bytes": 2**40, "cpu_seconds": 60}, 60.0)
    status = Path(f"/proc/{child._process.pid}/status").read_text(encoding="utf-8")
    child.stop()
    assert reply["status"] in ("invalid", "needs_mapping")
    peak_kib = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    assert peak_kib < 300 * 1024


def test_memory_past_the_limit_is_a_sentence(pool, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 128, pa.int32()), pa.array(["x" * 12 * 2**20]))
    pq.write_table(pa.table({"prompt": texts, "chosen": texts, "rejected": texts}), tmp_path / "made", compression="none")
    reply = pool.run(job(tmp_path, (tmp_path / "made").read_bytes()))
    assert reply["status"] == "invalid"
    assert "memory" in reply["error"]["detail"]
    assert pool.run(job(tmp_path, ROW.encode()))["status"] == "ready"


def test_fifty_small_files_a_second(pool, tmp_path, clock):
    jobs = [job(tmp_path, ROW.encode() * 10, name=f"s{n}") for n in range(100)]
    pool.run(jobs[0])
    with clock.within(2), ThreadPoolExecutor(2) as threads:
        replies = list(threads.map(pool.run, jobs))
    assert all(reply["status"] == "ready" for reply in replies)


def test_no_secret_reaches_a_child(pool, monkeypatch):
    monkeypatch.setenv("STUDIO_DATABASE_URL", "postgresql://secret")
    child = Child(COMMAND)
    environment = Path(f"/proc/{child._process.pid}/environ").read_bytes()
    child.stop()
    assert b"STUDIO" not in environment


def test_no_bad_file_costs_much_time_or_memory(tmp_path, clock):
    child = Child(COMMAND)
    for content in (*(content for content, _ in REFUSED.values()), *(content for content, _ in BAD_ROWS.values())):
        reply = child.ask({**job(tmp_path, content), "max_unpacked_bytes": 2**40, "cpu_seconds": 60}, 60.0)
        assert reply is not None
        assert reply["status"] in ("invalid", "needs_mapping")
    status = Path(f"/proc/{child._process.pid}/status").read_text(encoding="utf-8")
    ticks = Path(f"/proc/{child._process.pid}/stat").read_text(encoding="utf-8").split()[13:15]  # user and system time
    child.stop()
    assert int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) < 300 * 1024
    clock.check(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), 10)  # all of them together


def test_closing_the_pool_ends_the_work_without_a_verdict(tmp_path, settings):
    pool = IngestPool(settings)
    future = pool.submit("user_ada", pool.run, job(tmp_path, ROW.encode() * 400_000))
    while not pool._busy:
        time.sleep(0.01)
    pool.close()
    with pytest.raises(Unavailable, match="shutting down"):
        future.result(10)


def test_a_full_disk_is_not_blamed_on_the_file():
    assert "disk is full" in as_studio_error(OSError(errno.ENOSPC, "No space left on device")).detail
    assert "Read-only file system" in as_studio_error(OSError(errno.EROFS, "Read-only file system")).detail
