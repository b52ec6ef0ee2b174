"""Many small uploads at once: `python -m tests.bench.uploaders URL TOKEN AT_ONCE COUNT`.

Prints one line of JSON: the seconds that each took until its answer, the seconds in all, and how many were answered how.
"""

import asyncio
import json
import sys
import time
from collections import Counter

import httpx

PAIRS = "".join(
    json.dumps({"prompt": f"Question {n}?", "chosen": f"Kind answer {n}.", "rejected": f"Rude answer {n}."}) + "\n"
    for n in range(30)
)


async def main(url: str, token: str, at_once: int, count: int) -> None:
    numbers, seconds, answers = iter(range(count)), [], Counter()
    limits = httpx.Limits(max_connections=at_once, max_keepalive_connections=at_once)
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {token}"}, timeout=120, limits=limits) as http:

        async def send() -> None:
            for number in numbers:
                began = time.perf_counter()
                file = {"file": (f"pairs-{number}.jsonl", PAIRS)}
                answer = await http.post("/api/v1/datasets", files=file)
                seconds.append(time.perf_counter() - began)
                answers[f"{answer.status_code} {answer.json().get('state')}"] += 1

        began = time.perf_counter()
        await asyncio.gather(*(send() for _ in range(at_once)))
        print(json.dumps({"seconds": seconds, "total": time.perf_counter() - began, "answers": answers}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
