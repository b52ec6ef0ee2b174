"""The commands of `varstudio runs` that steer the queue: which run begins next, and where."""

from typing import Annotated, Any

import typer

from app.commands.client import Client, CommandFailed
from app.commands.terminal import out, table
from app.settings import Settings


def add_commands(group: typer.Typer) -> None:
    """Hang the commands into the group of runs."""
    for name, command in (("queue", show), ("pause", pause), ("release", release), ("move", move), ("priority", priority)):
        group.command(name)(command)


def show(limit: Annotated[int, typer.Option(min=1, max=200)] = 50) -> None:
    """List the queued runs in the order in which they begin, then those that are paused."""
    client = Client(Settings())
    found = client.get("/queue", limit=limit)["items"] + client.get("/queue", limit=limit, held=True)["items"]
    rows = [
        (run["position"] or "paused", run["id"], run["name"], run["priority"], run["num_processes"], run["waiting_for"])
        for run in found
    ]
    table("place", "id", "name", "priority", "processes", "waits for", rows=rows)


def pause(run_id: str) -> None:
    """Pause a run: a queued one doesn't begin, a running one saves and goes back to the queue."""
    run = Client(Settings()).post(f"/runs/{run_id}/pause")
    is_paused = run["state"] == "paused"
    out.print("The run is paused." if is_paused else "Pausing was requested; the run saves and goes back to the queue.")


def release(run_id: str) -> None:
    """Let a paused run go on, from its newest good checkpoint."""
    Client(Settings()).post(f"/runs/{run_id}/release")
    out.print("The run is released; it begins when it is its turn.")


def move(
    run_id: str,
    front: Annotated[bool, typer.Option("--front", help="First among your own runs.")] = False,
    end: Annotated[bool, typer.Option("--end", help="Last among your own runs.")] = False,
    before: Annotated[str | None, typer.Option(help="Just before this run.")] = None,
    to: Annotated[str | None, typer.Option(help="Onto this worker; a running run saves and goes there.")] = None,
    off: Annotated[str | None, typer.Option(help="Off this worker; a running run saves and goes elsewhere.")] = None,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="Take back where it is to run.")] = False,
) -> None:
    """Move a run in the queue, or to another worker."""
    if [front, end, anywhere, *(name is not None for name in (before, to, off))].count(True) != 1:
        raise CommandFailed("Say where to by one of --front, --end, --before RUN, --to WORKER, --off WORKER, --anywhere.")
    client = Client(Settings())
    if front or end or before:
        client.post(f"/runs/{run_id}/move", {"before": before} if before else {"to": "front" if front else "end"})
        out.print("The run is moved.")
        return
    wish: dict[str, Any] = {"wanted_worker": None, "avoided_worker": None}
    run = client.patch(f"/runs/{run_id}", {"wanted_worker": to} if to else {"avoided_worker": off} if off else wish)
    leaves = run["release_requested_at"] is not None
    out.print("The run saves and leaves its worker." if leaves else "Noted: it counts when the run next begins.")


def priority(run_id: str, value: Annotated[int, typer.Argument(help="-100 to 100; only admins go above 0.")]) -> None:
    """Give a run a priority: higher ones begin first. A negative one needs -- before it."""
    Client(Settings()).patch(f"/runs/{run_id}", {"priority": value})
    out.print(f"The run has priority {value}.")
