"""Launches all at the same moment: `python -m tests.bench.launchers URL TOKEN COUNT`, the recipe as one line on stdin.

Prints one line of JSON: the ids, and the seconds that each took.
"""

import asyncio
import json
import sys
import time

import httpx


async def main(url: str, token: str, count: int, recipe: object) -> None:
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    headers = {"authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, limits=limits) as http:
        await asyncio.gather(*(http.get("/healthz") for _ in range(count)))  # the connections are there

        async def launch() -> tuple[str, float]:
            began = time.perf_counter()
            answer = await http.post("/api/v1/runs", json=recipe)
            seconds = time.perf_counter() - began
            assert answer.status_code == 202, answer.text
            return answer.json()["id"], seconds

        outcomes = await asyncio.gather(*(launch() for _ in range(count)))
    print(json.dumps({"ids": [id for id, _ in outcomes], "seconds": [seconds for _, seconds in outcomes]}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), json.loads(sys.stdin.readline())))
