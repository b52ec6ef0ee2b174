"""The live stream: every entry once and in order, from any place, to many readers, until the end."""

import asyncio
import gc
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest

from app.domain.events import LogWritten, StateChanged
from app.domain.run import RunState
from app.store import journal
from app.store.accounts import get_user
from app.store.signals.bell import Bell
from app.store.tables import Run
from app.web import stream
from app.web.pages.run import stream as run_stream
from app.web.stream import SharedReads, follow, position
from tests.faults.house import resident_bytes


def write(studio, run_id: str, *texts: str) -> None:
    with studio.database.writing() as session:
        journal.append(session, session.get(Run, run_id), [LogWritten(level="info", text=text) for text in texts])


def end(studio, run_id: str, state: RunState = RunState.SUCCEEDED) -> None:
    with studio.database.writing() as session:
        run = session.get(Run, run_id)
        run.state = state.value
        journal.append(session, run, [StateChanged(state=state, attempt=1)])


def read(server, run_id: str, stop_after: int | None = None, **headers: str) -> tuple[list[int], bool]:
    """The seqs that came, and whether the studio said that it was the end."""
    seqs, seen = [], 0
    headers = {"authorization": f"Bearer {server.studio.token}", **headers}
    with httpx.stream("GET", f"{server.url}/api/v1/runs/{run_id}/stream", headers=headers, timeout=20) as response:
        assert response.status_code in {200, 204}
        for line in response.iter_lines():
            if line == "event: end":
                return seqs, True
            if line.startswith("id: "):
                seqs.append(int(line[4:]))
                seen += 1
                if seen == stop_after:
                    break
    return seqs, False


@pytest.mark.parametrize("num_entries", [stream.FEW, stream.FEW + 1, stream.BATCH])
def test_many_entries_are_written_beside_the_event_loop_and_once(num_entries):
    written: list[int] = []

    def to_text(entry: int) -> str:
        written.append(threading.get_ident())
        return f"{entry} "

    async def encode() -> list[str]:
        entries = stream.Entries(list(range(num_entries)), finished=True)
        return [await entries.encode(to_text) for _ in range(2)]

    first, second = asyncio.run(encode())
    assert first == second == "".join(f"{number} " for number in range(num_entries))
    assert len(written) == num_entries
    assert (threading.get_ident() in written) == (num_entries <= stream.FEW)


def test_a_finished_run_is_replayed_whole(server):
    run_id = server.studio.launch()
    write(server.studio, run_id, *(f"line {n}" for n in range(500)))
    end(server.studio, run_id)
    assert read(server, run_id) == (list(range(1, 503)), True)


def test_an_entry_is_an_event_with_its_seq_kind_and_payload(server):
    run_id = server.studio.launch()
    write(server.studio, run_id, "é\n\ndata: <b>\r\u2028")
    end(server.studio, run_id)
    headers = {"authorization": f"Bearer {server.studio.token}"}
    response = httpx.get(f"{server.url}/api/v1/runs/{run_id}/stream", headers=headers)
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [dict(line.split(": ", 1) for line in block.split("\n")) for block in response.text.split("\n\n")[2:3]]
    assert (events[0]["id"], events[0]["event"]) == ("2", "log")
    assert json.loads(events[0]["data"])["payload"]["text"] == "é\n\ndata: <b>\r\u2028"


def test_new_entries_come_as_they_are_written(server):
    run_id, studio = server.studio.launch(), server.studio
    got: list[tuple[list[int], bool]] = []
    reader = threading.Thread(target=lambda: got.append(read(server, run_id)))
    reader.start()
    for n in range(10):
        write(studio, run_id, f"line {n}")
        time.sleep(0.02)
    end(studio, run_id)
    reader.join(10)
    assert got == [(list(range(1, 13)), True)]


def test_a_reader_that_comes_back_goes_on_where_it_stood(server):
    run_id, studio = server.studio.launch(), server.studio
    received: list[int] = []
    finished = False
    writer = threading.Thread(target=lambda: [write(studio, run_id, f"{n}") for n in range(60)] and end(studio, run_id))
    writer.start()
    while not finished:
        headers = {"last-event-id": str(received[-1])} if received else {}
        seqs, finished = read(server, run_id, stop_after=7, **headers)
        received += seqs
    writer.join()
    assert received == list(range(1, 63))


@pytest.mark.parametrize("garbage", ["garbage", "-1", "1e3", "9" * 30, "99999", "1.5", "0x1", "²"])
def test_garbage_for_a_last_event_id_means_a_full_replay(server, garbage):
    run_id = server.studio.launch()
    end(server.studio, run_id)
    headers = {"authorization": f"Bearer {server.studio.token}", "last-event-id": garbage.encode()}
    response = httpx.get(f"{server.url}/api/v1/runs/{run_id}/stream", headers=headers)
    assert response.status_code == 200
    assert "id: 1\n" in response.text


def test_who_has_seen_all_of_a_finished_run_is_told_not_to_come_back(server):
    run_id = server.studio.launch()
    end(server.studio, run_id)
    headers = {"authorization": f"Bearer {server.studio.token}", "last-event-id": "2"}
    assert httpx.get(f"{server.url}/api/v1/runs/{run_id}/stream", headers=headers).status_code == 204


def test_a_resumed_runs_old_end_is_not_the_end(server):
    run_id, studio = server.studio.launch(), server.studio
    end(studio, run_id, RunState.FAILED)
    with studio.database.writing() as session:
        run = session.get(Run, run_id)
        run.state = "queued"
        journal.append(session, run, [StateChanged(state=RunState.QUEUED, attempt=1)])
    threading.Timer(0.3, end, (studio, run_id)).start()
    assert read(server, run_id) == ([1, 2, 3, 4], True)


def test_a_deleted_run_ends_its_streams(server):
    run_id, studio = server.studio.launch(), server.studio

    def delete() -> None:
        studio.client().post(f"/api/v1/runs/{run_id}/cancel")
        studio.client().delete(f"/api/v1/runs/{run_id}")

    threading.Timer(0.3, delete).start()
    assert read(server, run_id)[1]


@pytest.mark.long
def test_a_reader_that_stops_reading_costs_no_memory(server):
    """Its entries stay in the database until it reads on: the server writes a few buffers full, then waits."""
    studio, small, run_id = server.studio, server.studio.launch(), server.studio.launch()
    write(studio, small, *("x" * 10_000 for _ in range(100)))
    for _ in range(60):
        write(studio, run_id, *("x" * 10_000 for _ in range(100)))  # 60 MB in all
    with stalled_reader(server, small):  # what the first reader of all costs is not asked here
        time.sleep(0.5)
    gc.collect()
    before = resident_bytes(os.getpid())
    with stalled_reader(server, run_id):
        time.sleep(1.0)
        assert resident_bytes(os.getpid()) - before < 30_000_000
        assert studio.client().get("/healthz").status_code == 200


@contextmanager
def stalled_reader(server, run_id: str) -> Iterator[None]:
    """Somebody who asks for the stream and reads none of it."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = (
            f"GET /api/v1/runs/{run_id}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.studio.token}\r\n\r\n"
        )
        connection.sendall(head.encode())
        yield


async def stay() -> bool:
    """The answer of a reader that doesn't leave."""
    return False


class CountingReads(SharedReads):
    """Counts how often the database is really read."""

    num_reads = 0

    async def read_apart(self, run_id: str, after: int) -> stream.Entries:
        self.num_reads += 1
        return await super().read_apart(run_id, after)


def signed_in(studio) -> SimpleNamespace:
    """What a request of the administrator knows."""
    with studio.database.reading() as session:
        return SimpleNamespace(user=get_user(session, "admin"))


def test_a_hundred_readers_share_their_reads(studio):
    run_id = studio.launch()
    reads = CountingReads(studio.database)

    state = SimpleNamespace(shared_reads=reads, bell=Bell(studio.settings, studio.database))
    request = SimpleNamespace(app=SimpleNamespace(state=state), is_disconnected=stay, state=signed_in(studio))

    async def watch() -> list[int]:
        return [entry.seq async for entries in follow(request, run_id, 0) for entry in entries]

    async def all_together() -> list[list[int]]:
        readers = [asyncio.create_task(watch()) for _ in range(100)]
        for n in range(5):
            await asyncio.sleep(0.05)
            await asyncio.to_thread(write, studio, run_id, f"{n}")
        await asyncio.to_thread(end, studio, run_id)
        seqs = await asyncio.gather(*readers)
        await state.bell.stop()
        return seqs

    assert asyncio.run(all_together()) == [list(range(1, 8))] * 100
    assert reads.num_reads < 60


def test_an_entry_is_encoded_once_however_many_read_it(studio):
    run_id = studio.launch()
    write(studio, run_id, *(f"{n}" for n in range(450)))
    end(studio, run_id)
    encoded: list[int] = []

    def to_text(entry) -> str:
        encoded.append(entry.seq)
        return f"{entry.seq} "

    async def read_together() -> list[str]:
        state = SimpleNamespace(shared_reads=SharedReads(studio.database), bell=Bell(studio.settings, studio.database))
        request = SimpleNamespace(app=SimpleNamespace(state=state), is_disconnected=stay, state=signed_in(studio))

        async def read_all() -> str:
            return "".join([text async for text in stream.as_texts(follow(request, run_id, 0), to_text, retry_ms=1)])

        return await asyncio.gather(*(read_all() for _ in range(50)))

    texts = set(asyncio.run(read_together()))
    assert texts == {"retry: 1\n\n" + "".join(f"{seq} " for seq in range(1, 453)) + "event: end\ndata: {}\n\n"}
    assert encoded == list(range(1, 453))


def test_a_quiet_stream_beats_so_that_nobody_hangs_up(studio, monkeypatch):
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.05)  # the clock
    run_id = studio.launch()

    async def three() -> list[str]:
        state = SimpleNamespace(shared_reads=SharedReads(studio.database), bell=Bell(studio.settings, studio.database))
        request = SimpleNamespace(app=SimpleNamespace(state=state), is_disconnected=stay, state=signed_in(studio))
        texts = stream.as_events(follow(request, run_id, 1))
        got = [await anext(texts) for _ in range(3)]
        await texts.aclose()
        await state.bell.stop()
        return got

    assert asyncio.run(three())[1:] == [": still here\n\n"] * 2


def test_the_pages_stream_beats_in_words_that_its_script_hears(studio):
    run_id = studio.launch()

    async def two() -> list[str]:
        state = SimpleNamespace(shared_reads=SharedReads(studio.database), bell=Bell(studio.settings, studio.database))
        request = SimpleNamespace(app=SimpleNamespace(state=state), is_disconnected=stay, state=signed_in(studio))
        entries = follow(request, run_id, 1, heartbeat_seconds=0.05)
        texts = stream.as_texts(entries, stream.to_event, retry_ms=1, beat="event: beat\ndata: {}\n\n")
        got = [await anext(texts) for _ in range(2)]
        await texts.aclose()
        await state.bell.stop()
        return got

    assert asyncio.run(two())[1] == "event: beat\ndata: {}\n\n"
    assert 2 * run_stream.BEAT_SECONDS <= 8


@pytest.mark.parametrize(
    ("header", "after", "expected"), [(None, 3, 3), (None, 99, 0), ("5", 3, 5), ("10", 0, 10), ("11", 3, 0), ("x", 3, 0)]
)
def test_a_place_beyond_the_journal_is_its_beginning(header, after, expected):
    request = SimpleNamespace(headers={} if header is None else {"last-event-id": header})
    assert position(request, 10, after) == expected
