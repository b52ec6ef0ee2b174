"""`varstudio chats`: what was asked in the playground or the terminal, listed, read, stopped and deleted."""

from typing import Annotated, Any

import typer

from app.commands.client import AsJson, Client
from app.commands.terminal import head, out, say, table
from app.settings import Settings
from app.system.numbers import number

group = typer.Typer(no_args_is_help=True, help="Your chats with models; varstudio chat begins one.")
SHOWN_CHARACTERS = 60  # of what was asked


@group.command("list")
def list_(limit: Annotated[int, typer.Option(min=1, max=200)] = 50) -> None:
    """List your chats, newest first; nobody else sees them."""
    found = Client(Settings()).get("/chats", limit=limit)["items"]
    rows = [(one["id"], one["state"], ", ".join(one["names"]), first_line(one)) for one in found]
    table("id", "state", "models", "asked", rows=rows)


def first_line(chat: dict[str, Any]) -> str:
    """Return how the last question of a chat begins."""
    asked = " ".join(str(chat["messages"][-1]["content"]).split())
    return asked if len(asked) <= SHOWN_CHARACTERS else f"{asked[: SHOWN_CHARACTERS - 1]}…"


@group.command("show")
def show(chat_id: str, as_json: AsJson = False) -> None:
    """Read a chat: what was asked, and what each model answered."""
    found = Client(Settings()).get(f"/chats/{chat_id}")
    if as_json:
        out.print_json(data=found)
        return
    for message in found["messages"]:
        head(message["role"])
        say(message["content"])
    for answer in found["answers"]:
        head(answer["name"] if answer["reward"] is None else f"{answer['name']}, reward {number(answer['reward'])}")
        say(answer["declined"] or answer["text"])
    for sentence in (found["waiting_for"], found["error"]):
        if sentence:
            out.print(sentence, markup=False)


@group.command("stop")
def stop(chat_id: str) -> None:
    """Stop a chat that waits or is being answered; what was said stays."""
    Client(Settings()).post(f"/chats/{chat_id}/stop")


@group.command("delete")
def delete(chat_id: str) -> None:
    """Delete a chat for good; one that is being answered is stopped first."""
    Client(Settings()).delete(f"/chats/{chat_id}")
