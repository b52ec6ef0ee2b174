"""`varstudio endpoints`: OpenAI-compatible servers whose models answer and judge, over REST. A key is never an argument."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.client import Client, CommandFailed
from app.commands.terminal import facts, out, table
from app.settings import Settings

MOST_KEY_BYTES = 4096
group = typer.Typer(no_args_is_help=True, help="OpenAI-compatible servers whose models answer and judge.")

AskKey = Annotated[bool, typer.Option("--key", help="Ask for the key; it is not shown while it is typed.")]
KeyFile = Annotated[Path | None, typer.Option("--key-file", help="A file that holds the key; /dev/stdin reads it from a pipe.")]
AtOnce = Annotated[int | None, typer.Option("--at-once", help="Requests that one run has on their way at a time.")]
PerMinute = Annotated[int | None, typer.Option("--tokens-per-minute", help="Of one run, prompts and answers.")]


def read_key(ask: bool, path: Path | None) -> str | None:
    """Return the key, None where none was given. As an argument it would stand in every list of processes.

    Raises: CommandFailed for a file that holds no key.
    """
    if path is not None:
        with path.open("rb") as file:
            content = file.read(2 * MOST_KEY_BYTES).strip()
        if len(content) > MOST_KEY_BYTES or not content.isascii():
            raise CommandFailed(f"{path} holds no key: one is a line of at most {MOST_KEY_BYTES:,} plain characters.")
        return content.decode("ascii")
    return str(typer.prompt("Key", hide_input=True, err=True)) if ask else None


@group.command("list")
def list_() -> None:
    """List the endpoints, newest first."""
    found = Client(Settings()).get("/endpoints", limit=200)["items"]
    rows = [(one["id"], one["name"], one["model"], one["address"], "yes" if one["has_key"] else "no") for one in found]
    table("id", "name", "model", "address", "key", rows=rows)


@group.command("show")
def show(endpoint_id: str) -> None:
    """Show an endpoint; its key is never told."""
    tell(Client(Settings()).get(f"/endpoints/{endpoint_id}"))


@group.command("add")
def add(
    name: str, address: Annotated[str, typer.Argument(help="As in https://api.example.org/v1.")],
    model: Annotated[str, typer.Argument(help="The model's name there.")],
    key: AskKey = False, key_file: KeyFile = None, at_once: AtOnce = None, tokens_per_minute: PerMinute = None,
) -> None:  # fmt: skip
    """Add an endpoint. For admins."""
    body = chosen(
        name=name, address=address, model=model, key=read_key(key, key_file), at_once=at_once, tokens_per_minute=tokens_per_minute
    )
    tell(Client(Settings()).post("/endpoints", body))


@group.command("change")
def change(
    endpoint_id: str,
    name: Annotated[str | None, typer.Option(help="Another name.")] = None,
    address: Annotated[str | None, typer.Option(help="Another address; at another host the key is given again.")] = None,
    model: Annotated[str | None, typer.Option(help="Another model.")] = None,
    key: AskKey = False, key_file: KeyFile = None, at_once: AtOnce = None, tokens_per_minute: PerMinute = None,
) -> None:  # fmt: skip
    """Change what is named. For admins."""
    body = chosen(
        name=name, address=address, model=model, key=read_key(key, key_file), at_once=at_once, tokens_per_minute=tokens_per_minute
    )
    tell(Client(Settings()).patch(f"/endpoints/{endpoint_id}", body))


@group.command("test")
def test(endpoint_id: str) -> None:
    """Ask one short question from the studio's machine. For admins; status 1 when it does not answer."""
    trial = Client(Settings()).post(f"/endpoints/{endpoint_id}/test")
    out.print(trial["sentence"], markup=False)
    if not trial["ok"]:
        raise typer.Exit(1)


@group.command("remove")
def remove(endpoint_id: str) -> None:
    """Forget an endpoint and its key. For admins."""
    Client(Settings()).delete(f"/endpoints/{endpoint_id}")


def chosen(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def tell(endpoint: dict[str, Any]) -> None:
    facts([(name.replace("_", " "), value) for name, value in endpoint.items() if value is not None])
