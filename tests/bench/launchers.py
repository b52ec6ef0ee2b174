"""Launches all at the same moment: `python -m tests.bench.launchers URL TOKEN COUNT`, the recipe as one line on stdin.

Prints one line of JSON: the ids, and the seconds that each took. It speaks HTTP by hand: a client library's own work on a
hundred requests (6 ms of processor time each) would be most of what is measured.
"""

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit


async def main(url: str, token: str, count: int, recipe: bytes) -> None:
    where = urlsplit(url)
    head = (
        f"POST /api/v1/runs HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(recipe)}\r\nConnection: close\r\n\r\n"
    )
    connections = [await asyncio.open_connection(where.hostname, where.port) for _ in range(count)]

    async def launch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[str, float]:
        began = time.perf_counter()
        writer.write(head.encode() + recipe)
        status, _, rest = (await reader.read()).partition(b"\r\n")
        seconds = time.perf_counter() - began
        writer.close()
        assert b" 202 " in status, rest
        return json.loads(rest.partition(b"\r\n\r\n")[2])["id"], seconds

    outcomes = await asyncio.gather(*(launch(*connection) for connection in connections))
    print(json.dumps({"ids": [id for id, _ in outcomes], "seconds": [seconds for _, seconds in outcomes]}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.stdin.readline().encode()))
