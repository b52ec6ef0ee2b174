"""`varstudio workers`: what they have and run, and pausing them."""

from typing import Annotated

import typer

from app.commands.client import Client
from app.commands.terminal import out, table
from app.settings import Settings

group = typer.Typer(no_args_is_help=True, help="The processes that run runs.")


@group.command("list")
def list_() -> None:
    """List workers, by name."""
    rows = [
        (
            worker["id"],
            worker["standing"],
            worker["hostname"],
            ", ".join(device["name"] for device in worker["devices"]) or "CPU",
            f"{worker['num_used']}/{worker['num_slots']}",
            ", ".join(run["run_id"] or "another user's" for run in worker["running"]),
        )
        for worker in Client(Settings()).get("/workers")["items"]
    ]
    table("id", "standing", "host", "devices", "slots", "runs", rows=rows)


@group.command("pause")
def pause(
    worker_id: str, give_back: Annotated[bool, typer.Option("--give-back", help="Its runs save and go to other workers.")] = False
) -> None:
    """Pause a worker: it finishes what it runs and begins nothing."""
    worker = Client(Settings()).patch(f"/workers/{worker_id}", {"paused": True, "give_back": give_back})
    left = len(worker["running"])
    out.print(f"The worker is paused; it still runs {left}." if left else "The worker is paused.")


@group.command("resume")
def resume(worker_id: str) -> None:
    """Let a paused worker begin runs again."""
    Client(Settings()).patch(f"/workers/{worker_id}", {"paused": False})
    out.print("The worker begins runs again.")


@group.command("forget")
def forget(worker_id: str) -> None:
    """Take a worker that is gone off the list."""
    Client(Settings()).delete(f"/workers/{worker_id}")
