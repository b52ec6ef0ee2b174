"""The events of a run as its stream sends them, followed to its end."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx

from app.commands.client import Client, CommandFailed, Unreachable
from app.commands.progress import RunProgress
from app.commands.terminal import err, out

RETRY_SECONDS = 2.0
GIVE_UP_SECONDS = 300.0


def follow(client: Client, run_id: str) -> None:
    """Raises: CommandFailed when the run didn't succeed."""
    run = client.get(f"/runs/{run_id}")
    with RunProgress(run["name"], out) as progress:
        for kind, payload in live_events(client, run_id):
            progress.take(kind, payload)
    if progress.state != "succeeded":
        raise CommandFailed(progress.ending)


def live_events(client: Client, run_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the run's events to its final state; a lost connection is taken up where it broke."""
    seq, seen_at = 0, time.monotonic()
    while True:
        headers = {"last-event-id": str(seq)} if seq else {}
        try:
            with client.stream(f"/runs/{run_id}/stream", headers) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return
                for event in parse_events(response.iter_lines()):
                    if event.get("event") == "end":
                        return
                    entry = json.loads(event["data"])
                    seq, seen_at = entry["seq"], time.monotonic()
                    yield entry["kind"], entry["payload"]
        except Unreachable:
            if time.monotonic() - seen_at > GIVE_UP_SECONDS:
                raise
        err.print("The connection was lost; trying again …", style="dim")
        time.sleep(RETRY_SECONDS)


def parse_events(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    """Server-sent events as dictionaries of their fields; comments and empty ones are left out."""
    event: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if line and name:
            event[name] = value.removeprefix(" ")
        elif not line and "data" in event:
            yield event
            event = {}
        elif not line:
            event = {}
