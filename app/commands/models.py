"""`varstudio models`: add and look at policies and reward models over REST."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.client import Client, Mine, Private, add_renaming, add_sharing, owner_of
from app.commands.readings import show_reading
from app.commands.terminal import facts, out, table
from app.settings import Settings

group = typer.Typer(no_args_is_help=True, help="Policies and reward models.")


@group.command("add")
def add(
    source: Annotated[str, typer.Argument(help="A name on the hub, a folder on the server, or a run's id.")],
    kind: Annotated[str, typer.Option(help="policy or reward")] = "policy",
    name: Annotated[str, typer.Option(help="What people call it (folder or run).")] = "",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    private: Private = False,
) -> None:
    """Add a model after a look at its files."""
    body: dict[str, Any] = {"kind": kind, "name": name, "revision": revision}
    if source.startswith("run_"):
        body |= {"source": "run", "run_id": source}
    elif source.startswith(("/", ".", "~")):
        body |= {"source": "folder", "path": str(Path(source).expanduser().resolve())}
    else:
        body |= {"source": "hub", "name": source}
    show_model(Client(Settings()).post("/models", body, params={"private": private}))


@group.command("list")
def list_(kind: Annotated[str | None, typer.Option(help="policy or reward")] = None, mine: Mine = False) -> None:
    """List models, newest first."""
    found = Client(Settings()).get("/models", kind=kind, limit=200, mine=mine)["items"]
    rows = [(model["id"], model["name"], model["kind"], model["source"], model["path"], owner_of(model)) for model in found]
    table("id", "name", "kind", "source", "path", "owner", rows=rows)


@group.command("show")
def show(model_id: str) -> None:
    """Show what a model's files say."""
    show_model(Client(Settings()).get(f"/models/{model_id}"))


@group.command("check")
def check(
    model_id: str,
    prompt: Annotated[str, typer.Option(help="What the user says; an example when nothing is given.")] = "",
    response: Annotated[str, typer.Option(help="What the assistant answers.")] = "",
    system: Annotated[str, typer.Option(help="What stands in the system turn.")] = "",
    prompt_format: Annotated[str, typer.Option(help="auto, chat or plain.")] = "auto",
) -> None:
    """Check a model's files, and show how it reads a conversation, token by token."""
    asked = {"prompt": prompt, "response": response, "system": system, "prompt_format": prompt_format}
    found = Client(Settings()).get(f"/models/{model_id}/check", **asked)
    for problem in found["problems"]:
        out.print(f"{problem['field']}: {problem['message']}", markup=False, style="red")
    if found["reading"]:
        show_reading(found["reading"])
    elif found["ok"]:
        out.print(found["reading_missing"], markup=False)
    if not found["ok"]:
        raise typer.Exit(1)


@group.command("copy")
def copy(model_id: str, name: str) -> None:
    """Register a model once more, under another name."""
    show_model(Client(Settings()).post(f"/models/{model_id}/copy", {"name": name}))


add_renaming(group, "/models", "a model")
add_sharing(group, "/models", "a model")


@group.command("delete")
def delete(model_id: str) -> None:
    """Forget a model; a folder of yours stays."""
    Client(Settings()).delete(f"/models/{model_id}")


def show_model(model: dict[str, Any]) -> None:
    names = ("id", "name", "kind", "source", "path", "revision")
    rows = [(name, model[name]) for name in names if model[name] is not None]
    facts([*rows, *((key.replace("_", " "), value) for key, value in model["facts"].items() if value is not None)])
