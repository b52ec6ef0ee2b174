"""`varstudio datasets`: upload, map and look at preference data over REST."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.client import Client, CommandFailed, Mine, Private, add_renaming, add_sharing, owner_of
from app.commands.readings import show_example, show_lengths
from app.commands.recipes import read_document
from app.commands.terminal import facts, table
from app.settings import Settings
from app.system.sizes import describe_size

group = typer.Typer(no_args_is_help=True, help="Preference data.")
UPLOAD_SECONDS = 3600.0
POLL_SECONDS = 1.0
LINES_SHOWN = 5


@group.command("add")
def add(
    file: Path,
    name: Annotated[str, typer.Option(help="Empty: the file's name.")] = "",
    mapping: Annotated[Path | None, typer.Option(help="A YAML or JSON file: shape, columns, options.")] = None,
    private: Private = False,
) -> None:
    """Upload a file and wait until it is read."""
    if not file.is_file():
        raise CommandFailed(f"There is no file {file}.")
    fields = {"name": name, "private": str(private).lower()} | (
        {"mapping": json.dumps(read_document(mapping))} if mapping else {}
    )
    client = Client(Settings())
    with file.open("rb") as content:
        dataset = client.post("/datasets", files={"file": (file.name, content)}, data=fields, timeout=UPLOAD_SECONDS)
    while dataset["state"] == "processing":
        time.sleep(POLL_SECONDS)
        dataset = client.get(f"/datasets/{dataset['id']}")
    show_dataset(dataset)
    if dataset["state"] != "ready":
        raise CommandFailed((dataset["error"] or {}).get("detail", "The file can't be used."))


@group.command("list")
def list_(limit: Annotated[int, typer.Option(min=1, max=200)] = 50, mine: Mine = False) -> None:
    """List data sets, newest first."""
    found = Client(Settings()).get("/datasets", limit=limit, mine=mine)["items"]
    rows = [
        (dataset["id"], dataset["name"], dataset["state"], dataset["num_examples"],
         describe_size(dataset["size_bytes"]), owner_of(dataset))
        for dataset in found
    ]  # fmt: skip
    table("id", "name", "state", "examples", "size", "owner", rows=rows)


@group.command("show")
def show(dataset_id: str) -> None:
    """Show a data set's state, mapping and audit."""
    show_dataset(Client(Settings()).get(f"/datasets/{dataset_id}"))


@group.command("map")
def map_(dataset_id: str, mapping: Path) -> None:
    """Map the columns by a YAML or JSON file: shape, columns, options. What runs use stays, under its own id."""
    client = Client(Settings())
    mapped = client.post(f"/datasets/{dataset_id}/mapping", read_document(mapping), timeout=UPLOAD_SECONDS)
    show_dataset(client.get(f"/datasets/{mapped['id']}"))


@group.command("swap")
def swap(dataset_id: str) -> None:
    """Swap chosen and rejected. What runs use stays, under its own id."""
    client = Client(Settings())
    swapped = client.post(f"/datasets/{dataset_id}/swap", timeout=UPLOAD_SECONDS)
    show_dataset(client.get(f"/datasets/{swapped['id']}"))


@group.command("lengths")
def lengths(
    dataset_id: str,
    model: Annotated[str, typer.Option(help="Id of the policy or reward model whose tokens are counted.")],
    max_prompt: Annotated[int, typer.Option(min=1, help="Where prompts would be cut.")] = 512,
    max_response: Annotated[int, typer.Option(min=1, help="Where responses would be cut.")] = 512,
    prompt_format: Annotated[str, typer.Option(help="auto, chat or plain.")] = "auto",
) -> None:
    """Tell how long the texts are in a model's tokens, and which share would be cut."""
    asked = {"model": model, "max_prompt": max_prompt, "max_response": max_response, "prompt_format": prompt_format}
    show_lengths(Client(Settings()).get(f"/datasets/{dataset_id}/lengths", **asked))


@group.command("tokens")
def tokens(
    dataset_id: str,
    model: Annotated[str, typer.Option(help="Id of the policy.")],
    reward: Annotated[str | None, typer.Option(help="Id of a reward model that scores it.")] = None,
    example: Annotated[int, typer.Option(min=0, help="Number of the example, from 0.")] = 0,
    max_prompt: Annotated[int, typer.Option(min=1, help="Where prompts are cut.")] = 512,
    max_response: Annotated[int, typer.Option(min=1, help="Where responses are cut.")] = 512,
    prompt_format: Annotated[str, typer.Option(help="auto, chat or plain.")] = "auto",
) -> None:
    """Show an example as it would be learned, token by token."""
    asked = {"model": model, "reward": reward, "example": example, "prompt_format": prompt_format}
    lengths = {"max_prompt": max_prompt, "max_response": max_response}
    show_example(Client(Settings()).get(f"/datasets/{dataset_id}/reading", **asked, **lengths))


add_renaming(group, "/datasets", "a data set")
add_sharing(group, "/datasets", "a data set")


@group.command("delete")
def delete(dataset_id: str) -> None:
    """Delete a data set with its files."""
    Client(Settings()).delete(f"/datasets/{dataset_id}")


def describe_origin(origin: dict[str, Any]) -> str:
    return f"{origin.get('answers') or origin.get('comparison')}, by {origin['judge']}"


def show_dataset(dataset: dict[str, Any]) -> None:
    audit = dataset["audit"] or {}
    rows = [
        ("id", dataset["id"]),
        ("name", dataset["name"]),
        ("state", dataset["state"]),
        *([("maps again", dataset["previous_id"])] if dataset.get("previous_id") else []),
        *([("made from", describe_origin(dataset["made_from"]))] if dataset.get("made_from") else []),
        ("file", f"{dataset['filename']}, {describe_size(dataset['size_bytes'])}, sha256 {dataset['sha256']}"),
    ]
    if dataset["mapping"]:
        rows.append(("mapping", f"{dataset['mapping']['shape']}: {json.dumps(dataset['mapping']['columns'])}"))
    if audit:
        rows.append(("examples", f"{audit['num_examples']} from {audit['num_rows']} rows, {audit['num_responses']} responses"))
    numbering = audit.get("numbering", "line")
    for dropped in audit.get("dropped", []):
        rows.append(("left out", f"{dropped['count']} × {dropped['reason']} ({places(dropped, numbering)})"))
    for note in audit.get("notes", []):
        where = f" ({places(note, numbering)})" if note["lines"] else ""
        rows.append(("note", f"{note['count']} × {note['note']}{where}"))
    if unused := audit.get("unused"):
        rows.append(("not used", ", ".join(f"{name} ({count})" for name, count in unused.items())))
    if columns := ((dataset["error"] or {}).get("extra") or {}).get("columns"):
        rows.append(("columns", ", ".join(column["name"] for column in columns)))
    facts(rows)


def places(found: dict[str, Any], numbering: str) -> str:
    """Return where rows were left out or noted: "line 2", "rows 1, 4 …"."""
    shown = found["lines"][:LINES_SHOWN]
    plural = "s" if len(shown) > 1 else ""
    return f"{numbering}{plural} {', '.join(map(str, shown))}{' …' if found['count'] > len(shown) else ''}"
