"""Viewers of streams, many in one process: `python -m tests.bench.viewers URL PATH[,PATH…] TOKEN COUNT`, in turn on the paths.

Prints `ready` once all are connected, and at the stream's end one line of JSON: how many seqs each viewer saw in order and
once, the latencies from an event's `at` to its receipt, and the errors.
"""

import asyncio
import json
import re
import sys
import time
from datetime import datetime
from urllib.parse import urlsplit

EVENT = re.compile(rb'^data: \{"seq": (\d+), .*?"at": "([^"]+)"', re.MULTILINE)
SEQ = re.compile(rb"^id: (\d+)$", re.MULTILINE)


class Viewer:
    """One open stream."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.received: list[tuple[str, float]] = []
        self.ended = False

    async def watch(self, url: str, path: str, token: str, ready: asyncio.Semaphore) -> None:
        where = urlsplit(url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port, limit=2**22)
        # HTTP/1.0: the body comes without chunk marks
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {where.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n".encode())
        status = await reader.readline()
        assert b" 200 " in status, status
        await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"\n\n")  # the greeting
        ready.release()
        rest = b""
        while data := await reader.read(2**20):
            now = time.time()
            whole, mark, rest = (rest + data).rpartition(b"\n\n")
            self.take(whole + mark, now)
        writer.close()

    def take(self, text: bytes, now: float) -> None:
        self.seqs.extend(map(int, SEQ.findall(text)))
        self.received.extend((at.decode(), now) for _, at in EVENT.findall(text))
        self.ended = self.ended or b"event: end" in text


async def main(url: str, path: str, token: str, count: int) -> None:
    viewers, ready = [Viewer() for _ in range(count)], asyncio.Semaphore(0)
    tasks = []
    paths = path.split(",")
    for place, viewer in enumerate(viewers):
        tasks.append(asyncio.create_task(viewer.watch(url, paths[place % len(paths)], token, ready)))
        await asyncio.sleep(0.002)
    waiting = asyncio.create_task(all_ready(ready, count))
    done, _ = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    if waiting not in done:
        await next(iter(done))  # raises what kept it from watching
    begun = time.time()
    print("ready", flush=True)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    times = {at: datetime.fromisoformat(at).timestamp() for at in {at for viewer in viewers for at, _ in viewer.received}}
    # What was there before is replayed, not followed.
    latencies = [now - times[at] for viewer in viewers for at, now in viewer.received if times[at] >= begun]
    assert latencies or not any(viewer.seqs for viewer in viewers), "no event tells when it was recorded"
    report = {
        "errors": [repr(outcome) for outcome in outcomes if outcome is not None],
        "num_whole": sum(viewer.seqs == list(range(1, len(viewer.seqs) + 1)) and viewer.ended for viewer in viewers),
        "seqs": sorted({len(viewer.seqs) for viewer in viewers}),
        "latencies": sorted(latencies),
    }
    print(json.dumps(report))


async def all_ready(ready: asyncio.Semaphore, count: int) -> None:
    for _ in range(count):
        await ready.acquire()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
