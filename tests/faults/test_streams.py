"""A19: a stream that is cut again and again, a reader with a nonsensical place, and one that stops reading."""

import contextlib
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from app.domain.events import LogWritten, StateChanged
from app.domain.run import RunState
from app.store import journal
from app.store.tables import Run
from tests.faults.conftest import SERVERS_IN_SOAK
from tests.faults.house import House, StreamReader, resident_bytes
from tests.faults.proxy import Proxy
from tests.waiting import END_SECONDS

READER_BYTES = 10_000_000  # a batch of 200 entries of 10 kB, as rows, as text, and on its way out


@pytest.mark.parametrize(
    ("seconds", "every"),
    [(4.0, 0.3), pytest.param(60.0, 2.0, marks=[pytest.mark.soak, pytest.mark.timeout(600)])],
)
def test_a_stream_that_is_cut_again_and_again_gives_each_event_once_and_in_order(
    house: House, stack: ExitStack, seconds: float, every: float
) -> None:
    """Half of the cuts are resets, half fall in the middle of an event after so many bytes."""
    house.start_web()
    house.start_worker(f"steps={int(seconds * 40)}", "pause=0.02")
    proxy = stack.enter_context(Proxy(house.port))
    run_id = house.launch()
    readers = [StreamReader(f"http://127.0.0.1:{proxy.port}", house.headers, run_id) for _ in range(3)]
    for reader in readers:
        reader.start()
    num_cuts, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        proxy.max_bytes = 5000 + 37 * num_cuts if num_cuts % 2 else None
        time.sleep(every)
        proxy.cut()
        num_cuts += 1
    proxy.max_bytes = None
    house.wait_for_end(run_id, seconds=END_SECONDS + seconds * 10)
    recorded = house.events(run_id)
    for reader in readers:
        reader.join(60)
        assert reader.finished
        assert reader.seqs == [entry["seq"] for entry in recorded]
        assert [entry["payload"] for entry in reader.entries] == [entry["payload"] for entry in recorded]
        assert reader.num_connections >= 2  # on a busy machine a cut may come before the next connection stands
        assert reader.statuses <= {200, 204}
    house.assert_whole(run_id, steps=int(seconds * 40))


def write_logs(house: House, run_id: str, num_megabytes: int) -> None:
    """Entries of 10 kB, as a talkative runner's."""
    for _ in range(num_megabytes):
        with house.database.writing() as session:
            run = session.get(Run, run_id)
            assert run is not None
            journal.append(session, run, [LogWritten(level="info", text="x" * 10_000) for _ in range(100)])


def end(house: House, run_id: str) -> None:
    with house.database.writing() as session:
        run = session.get(Run, run_id)
        assert run is not None
        run.state = RunState.SUCCEEDED.value
        journal.append(session, run, [StateChanged(state=RunState.SUCCEEDED, attempt=1)])


def test_garbage_or_a_huge_place_means_a_full_replay(embedded: House) -> None:
    embedded.start_web()
    run_id = embedded.launch()
    end(embedded, run_id)
    places = [b"garbage", b"9" * 30, b"9" * 60_000, b"-1", b"1e9", b"\xff\xfe", b"0x10", b"3", b"", b"1;DROP TABLE runs", b"nan"]
    for place in places:
        answer = httpx.get(f"{embedded.url}/api/v1/runs/{run_id}/stream", headers={**embedded.headers, "last-event-id": place})
        assert answer.status_code == 200, (place[:40], answer.text)
        assert [line for line in answer.text.splitlines() if line.startswith("id: ")] == ["id: 1", "id: 2"], place[:40]
    with contextlib.suppress(httpx.TransportError):  # more than the server takes for a header: it may hang up
        huge = {**embedded.headers, "last-event-id": b"9" * 2_000_000}
        assert 400 <= httpx.get(f"{embedded.url}/api/v1/runs/{run_id}/stream", headers=huge).status_code < 500
    assert embedded.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("house", SERVERS_IN_SOAK, indirect=True)
def test_readers_that_stop_reading_cost_no_memory_and_hold_up_nobody(house: House) -> None:
    web = house.start_web()
    small, run_id = house.launch(), house.launch()
    write_logs(house, small, 1)
    write_logs(house, run_id, 20)
    with stalled_readers(house, small, 5):  # what the first readers of all cost is not asked here
        time.sleep(1)
    before = resident_bytes(web.pid)
    with stalled_readers(house, run_id, 5):
        time.sleep(3)  # until their buffers are full
        grown = [resident_bytes(web.pid) - before]
        for _ in range(10):
            write_logs(house, run_id, 2)
            time.sleep(0.2)
            grown.append(resident_bytes(web.pid) - before)
        later = max(grown) - grown[0]
        print(f"five stalled readers of 40 MB each: the web grew by {grown[0] / 1e6:.1f} MB, then by {later / 1e6:.1f} MB")
        assert max(grown) < 5 * READER_BYTES
        assert later < READER_BYTES
        reader = StreamReader(house.url, house.headers, run_id)
        reader.start()
        end(house, run_id)
        reader.join(60)
        assert reader.seqs == list(range(1, 4003))
    assert house.http.get("/healthz").status_code == 200


@contextmanager
def stalled_readers(house: House, run_id: str, num_readers: int) -> Iterator[None]:
    """They ask for the stream and read none of it."""
    with ExitStack() as stack:
        for _ in range(num_readers):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", house.port))
            head = f"GET /api/v1/runs/{run_id}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {house.token}\r\n\r\n"
            connection.sendall(head.encode())
        yield
