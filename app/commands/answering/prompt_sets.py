"""`varstudio prompt-sets`: prompts that models answer, made from lists, data sets and what runs hold out, over REST."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.answering import reading
from app.commands.client import Client, CommandFailed, Mine, Private, add_renaming, add_sharing, owner_of
from app.commands.terminal import facts, out, table
from app.settings import Settings

group = typer.Typer(no_args_is_help=True, help="Prompt sets: what models are asked.")
group.command("prompts")(reading.prompts)


@group.command("create")
def create(
    file: Annotated[Path | None, typer.Argument(help="Lines, JSON lines or a list in JSON.")] = None,
    run: Annotated[str | None, typer.Option(help="Id of a run, whose held-out prompts are taken.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Id of a data set, whose prompts are taken.")] = None,
    part: Annotated[str, typer.Option(help="Of a run: test or validation.")] = "test",
    num_prompts: Annotated[int, typer.Option(min=1, help="Of a run or a data set, at most so many.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Chooses which of them, where there are more.")] = 0,
    name: Annotated[str, typer.Option(help="Empty: made from where the prompts are from.")] = "",
    private: Private = False,
) -> None:
    """Make a prompt set; prints its id."""
    client = Client(Settings())
    if (file is not None) + (run is not None) + (dataset is not None) != 1:
        raise CommandFailed("Give one of: a file, --run, --dataset.")
    if file is not None:
        with file.open("rb") as content:
            made = client.post("/prompt-sets/file", files={"file": (file.name, content)}, data={"name": name, "private": private})
    else:
        taken = {"num_prompts": num_prompts, "seed": seed}
        source: dict[str, Any] = {**taken, **({"run": run, "part": part} if run else {"dataset": dataset})}
        made = client.post("/prompt-sets", {"name": name, "source": source}, params={"private": private})
    out.print(made["id"], markup=False)


@group.command("list")
def list_(limit: Annotated[int, typer.Option(min=1, max=200)] = 50, mine: Mine = False) -> None:
    """List prompt sets, newest first."""
    found = Client(Settings()).get("/prompt-sets", limit=limit, mine=mine)["items"]
    rows = [(one["id"], one["name"], one["num_prompts"], one["created_at"][:16], owner_of(one)) for one in found]
    table("id", "name", "prompts", "made", "owner", rows=rows)


add_renaming(group, "/prompt-sets", "a prompt set")
add_sharing(group, "/prompt-sets", "a prompt set")


@group.command("show")
def show(prompt_set_id: str) -> None:
    """Show a prompt set: how many prompts, of which kinds, and where they are from."""
    found = Client(Settings()).get(f"/prompt-sets/{prompt_set_id}")
    rows: list[tuple[str, object]] = [(name, found[name]) for name in ("id", "name", "num_prompts", "sha256")]
    rows += [(name.removeprefix("num_").replace("_", " "), value) for name, value in found["facts"].items()]
    facts([*rows, ("from", found["source"]["kind"])])


@group.command("delete")
def delete(prompt_set_id: str) -> None:
    """Delete a prompt set, unless answers are to it or comparisons on it."""
    Client(Settings()).delete(f"/prompt-sets/{prompt_set_id}")
