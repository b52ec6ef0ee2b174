"""A stand-in for the chatting process: the same protocol, no torch, any mishap, which the request's seed chooses.

1 dies, 2 says nothing, 3 says what is no event, 4 speaks until it is told to stop; others answer with the process's number. With
`leave FILE` the first process leaves instead of answering.
"""

import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from app.system.child import Inbox, open_replies

inbox, reply = Inbox(), open_replies()


def spoken(text: str) -> dict[str, object]:
    return {"kind": "spoken", "model": 0, "text": text}


def answered(text: str, end: str) -> dict[str, object]:
    numbers = {"num_tokens": 2, "num_prompt_tokens": 5, "first_seconds": 0.1, "seconds": 0.2}
    return {"kind": "answered", "model": 0, "text": text, "end": end, **numbers}


def answer(seed: int) -> Iterator[list[dict[str, object]]]:
    if seed == 1:
        sys.exit(3)
    if seed == 2:
        time.sleep(600)
    if seed == 3:
        yield [{"kind": "nonsense"}]
    yield [{"kind": "loading", "name": "stand-in"}]
    yield [spoken("I am ")]
    for number in itertools.count() if seed == 4 else ():
        yield [spoken(f"{number} ")]
        if inbox.has_news():
            yield [answered("I am stopped", "stopped")]
            yield [{"kind": "ended", "state": "stopped"}]
            return
        time.sleep(0.02)
    yield [spoken(str(os.getpid())), answered(f"I am {os.getpid()}", "finished")]
    yield [{"kind": "ended", "state": "done"}]


while (line := inbox.wait()) is not None:
    job = json.loads(line)
    if "stop" in job:
        continue
    if "leave" in sys.argv and not (mark := Path(sys.argv[sys.argv.index("leave") + 1])).exists():
        mark.touch()
        sys.exit(0)
    for events in answer(job["request"]["sampling"]["seed"]):
        reply({"events": events})
