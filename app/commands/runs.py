"""`varstudio runs`: launch, watch and steer runs over REST."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands import queue
from app.commands.client import Client, CommandFailed, Mine, Private, add_renaming, add_sharing, owner_of
from app.commands.events import follow
from app.commands.recipes import REWARD_HELP, merge, named_as_typed, read_recipe, reward_of
from app.commands.terminal import out, table
from app.settings import Settings
from app.system.files import writing
from app.system.numbers import number, percent, signed

group = typer.Typer(no_args_is_help=True, help="VAR runs.")
CHUNK_BYTES = 2**20


@group.command("launch")
def launch(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe, YAML or JSON; options below replace what it says.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Id of the data set.")] = None,
    policy: Annotated[str | None, typer.Option(help="Id of the policy.")] = None,
    reward: Annotated[str | None, typer.Option(help=REWARD_HELP)] = None,
    preset: Annotated[str | None, typer.Option(help="paper, length_normalised, within_prompt, reward_weighted or draws")] = None,
    temperature: Annotated[float | None, typer.Option("--lambda", help="λ > 0.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Prompts per step.")] = None,
    epochs: Annotated[float | None, typer.Option()] = None,
    steps: Annotated[int | None, typer.Option()] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    adaptation: Annotated[str | None, typer.Option(help="full or lora")] = None,
    name: Annotated[str | None, typer.Option()] = None,
    priority: Annotated[int, typer.Option(help="-100 to 100; only admins raise a run above 0.")] = 0,
    private: Private = False,
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
) -> None:
    """Launch a run; prints its id."""
    body = read_recipe(recipe)
    sections: dict[str, dict[str, Any]] = {
        "": {"dataset": dataset, "name": name},
        "policy": {"model": policy, "adaptation": adaptation},
        "reward": reward_of(reward),
        "weights": {"preset": preset, "lambda": temperature},
        "training": {"batch_size": batch_size, "epochs": epochs, "steps": steps, "learning_rate": learning_rate},
    }
    client = Client(Settings())
    with named_as_typed(sections):
        run = client.post("/runs", merge(body, sections), params={"priority": priority, "private": private})
    out.print(run["id"], markup=False)
    if watch_it:
        follow(client, run["id"])


@group.command("list")
def list_(
    state: Annotated[str | None, typer.Option()] = None,
    kind: Annotated[str, typer.Option(help="training or scoring")] = "training",
    search: Annotated[str, typer.Option(help="Words of the name, the notes or a tag.")] = "",
    tag: Annotated[str, typer.Option(help="Only runs with this tag.")] = "",
    sort: Annotated[str, typer.Option(help="created, name, reward_gain, win_rate or kl")] = "created",
    order: Annotated[str | None, typer.Option(help="asc or desc")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    mine: Mine = False,
) -> None:
    """List runs, newest first unless sorted otherwise."""
    asked = {"state": state, "kind": kind, "search": search, "tag": tag, "sort": sort, "order": order, "limit": limit}
    asked["mine"] = mine
    found = Client(Settings()).get("/runs", **asked)["items"]
    rows = [
        (run["id"], run["name"], run["state"], run["stage"],
         f"{run['step']}/{run['num_steps']}", signed(run["reward_gain"]),
         percent(run["win_rate"]), number(run["kl"]), ", ".join(run["tags"]), owner_of(run))
        for run in found
    ]  # fmt: skip
    table("id", "name", "state", "stage", "step", "gain", "win rate", "KL", "tags", "owner", rows=rows)


@group.command("show")
def show(run_id: str) -> None:
    """Show a run with its recipe."""
    out.print_json(data=Client(Settings()).get(f"/runs/{run_id}"))


@group.command("watch")
def watch(run_id: str) -> None:
    """Follow a run to its end, from its beginning; exit status 0 when it has succeeded."""
    follow(Client(Settings()), run_id)


@group.command("cancel")
def cancel(run_id: str) -> None:
    """Cancel a run: a queued one never starts, a running one stops within a step."""
    state = Client(Settings()).post(f"/runs/{run_id}/cancel")["state"]
    out.print("The run is cancelled." if state == "cancelled" else "Cancelling was requested; the run stops within a step.")


queue.add_commands(group)
add_renaming(group, "/runs", "a run")
add_sharing(group, "/runs", "a run")


@group.command("resume")
def resume(run_id: str) -> None:
    """Queue a failed or cancelled run again, from its newest good checkpoint."""
    Client(Settings()).post(f"/runs/{run_id}/resume")
    out.print("The run is queued again; it goes on from its newest good checkpoint.")


@group.command("tune")
def tune(run_id: str, watch_it: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False) -> None:
    """Fine-tune on all responses of a run's data, as finding foreign_data asks for; prints the new run's id."""
    start(Client(Settings()), f"/runs/{run_id}/tune", watch_it)


@group.command("follow-up")
def follow_up(run_id: str, watch_it: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False) -> None:
    """Launch the recipe that a run was fine-tuned for, from its model; prints the new run's id."""
    start(Client(Settings()), f"/runs/{run_id}/follow-up", watch_it)


def start(client: Client, path: str, watch_it: bool) -> None:
    """Print the id of the run that this address launches, and follow it if that is asked for."""
    run = client.post(path)
    out.print(run["id"], markup=False)
    if watch_it:
        follow(client, run["id"])


@group.command("tag")
def tag(
    run_id: str,
    tags: Annotated[list[str], typer.Argument(help="Each is added.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take them away instead.")] = False,
) -> None:
    """Mark a run with words to find it by."""
    client = Client(Settings())
    known = set(client.get(f"/runs/{run_id}")["tags"])
    changed = client.patch(f"/runs/{run_id}", {"tags": sorted(known - set(tags) if remove else known | set(tags))})
    out.print(", ".join(changed["tags"]) or "no tags", markup=False)


@group.command("note")
def note(run_id: str, text: Annotated[str, typer.Argument(help="Instead of what is there; empty: nothing.")]) -> None:
    """Write a run's notes."""
    Client(Settings()).patch(f"/runs/{run_id}", {"notes": text})


@group.command("delete")
def delete(run_id: str) -> None:
    """Delete an ended run with its files."""
    Client(Settings()).delete(f"/runs/{run_id}")


@group.command("download")
def download(
    run_id: str,
    to: Annotated[Path, typer.Option(help="Folder; made when it isn't there.")] = Path(),
    only: Annotated[str, typer.Option(help="Only files whose name begins so, such as model/.")] = "",
) -> None:
    """Download what a run has made, and check the digests."""
    client = Client(Settings())
    chosen = [one for one in client.get(f"/runs/{run_id}/artifacts") if one["name"].startswith(only)]
    if not chosen:
        raise CommandFailed(f"Run {run_id} has no artifact{f' under {only}' if only else ''} (yet).")
    for artifact in chosen:
        fetch(client, run_id, artifact, to)
        out.print(artifact["name"], markup=False)


def fetch(client: Client, run_id: str, artifact: dict[str, Any], to: Path) -> None:
    """One file, written beside its place first, so that a broken download leaves nothing that looks whole."""
    target = (to / artifact["name"]).resolve()
    if not target.is_relative_to(to.resolve()):
        raise CommandFailed(f"The studio names a file outside of {to}: {artifact['name']!r}.")
    digest = hashlib.sha256()
    with writing(target) as partial:
        with client.stream(f"/runs/{run_id}/artifacts/{artifact['name']}") as response, partial.open("wb") as file:
            for chunk in response.iter_bytes(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != artifact["sha256"]:
            raise CommandFailed(f"{artifact['name']} arrived damaged: its digest is not the one the run recorded.")
