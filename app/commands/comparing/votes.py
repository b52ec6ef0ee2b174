"""`varstudio votes`, `vote-links` and `vote-link`: who votes on a comparison, by which links, and what votes give to train on."""

from pathlib import Path
from typing import Annotated

import typer

from app.commands.client import Client, CommandFailed
from app.commands.terminal import out, table
from app.settings import Settings
from app.system.files import writing

votes = typer.Typer(no_args_is_help=True, help="People's votes on a comparison.")
links = typer.Typer(no_args_is_help=True, help="Links by which people without an account vote blind on one comparison.")
CHUNK_BYTES = 2**20

Comparison = Annotated[str, typer.Argument(metavar="COMPARISON_ID", help="The comparison that is voted on.")]


@votes.command("dataset")
def dataset(
    comparison: Comparison,
    judge: Annotated[str, typer.Option(help="votes; or a judge's name, or how its key begins, to take its order.")] = "votes",
    margin: Annotated[float, typer.Option(min=0, help="Pairs that differ by no more are left out.")] = 0.0,
    name: Annotated[str, typer.Option(help="Of the data set; empty: made from the comparison's name.")] = "",
) -> None:
    """Make a data set of what people, or a judge, prefer, ready to train on; prints its id."""
    client = Client(Settings())
    asked = {"judge": find_judge(client, comparison, judge), "margin": margin, "name": name}
    out.print(client.post(f"/comparisons/{comparison}/dataset", asked)["id"], markup=False)


def find_judge(client: Client, comparison: str, judge: str) -> str:
    """Return the key of the judge that is meant. Raises CommandFailed with those there are."""
    if judge == "votes":
        return judge
    found = client.get(f"/comparisons/{comparison}")
    if found["figures"] is None:
        raise CommandFailed("Not all answers of this comparison are there yet: wait until they are, then ask again.")
    known = found["figures"]["judges"]
    for one in known:
        if one["name"] == judge or one["key"].startswith(judge):
            return str(one["key"])
    names = ", ".join(one["name"] for one in known if one["kind"] != "length")
    raise CommandFailed(f"“{judge}” has not judged this comparison. Take one of: votes, {names}.")


@votes.command("download")
def download(
    comparison: Comparison,
    to: Annotated[Path | None, typer.Option(help="File to write; votes-COMPARISON_ID.jsonl unless given.")] = None,
) -> None:
    """Download the votes, one a line: prompt, answers, choice, voter, seconds."""
    path = to or Path(f"votes-{comparison}.jsonl")
    asked = Client(Settings()).stream(f"/comparisons/{comparison}/votes.jsonl")
    with asked as response, writing(path) as partial, partial.open("wb") as file:
        for chunk in response.iter_bytes(CHUNK_BYTES):
            file.write(chunk)
    out.print(str(path), markup=False)


@votes.command("voters")
def voters(comparison: Comparison) -> None:
    """List who votes, with how many votes each gave."""
    found = Client(Settings()).get(f"/comparisons/{comparison}/voters")
    rows = [
        (one["id"], one["name"], "yes" if one["by_link"] else "no", one["num_votes"], (one["last_at"] or "")[:16])
        for one in found
    ]
    table("id", "name", "by link", "votes", "last", rows=rows)


@votes.command("remove")
def remove(comparison: Comparison, voter_id: str) -> None:
    """Remove a voter with all of the votes, for those that were not meant."""
    Client(Settings()).delete(f"/comparisons/{comparison}/voters/{voter_id}")


@links.command("create")
def vote_link(
    comparison: Comparison,
    days: Annotated[int, typer.Option(min=1, max=365, help="After so many days it ends.")] = 14,
) -> None:
    """Make a link by which people without an account vote blind on one comparison; prints it once."""
    link = Client(Settings()).post(f"/comparisons/{comparison}/vote-links", {"days": days})
    out.print(link["url"], markup=False)


@links.command("list")
def list_links(comparison: Comparison) -> None:
    """List the links of a comparison, newest first, without their secrets."""
    found = Client(Settings()).get(f"/comparisons/{comparison}/vote-links")
    rows = [
        (one["id"], *(day[:16] if day else "" for day in (one["created_at"], one["expires_at"], one["revoked_at"])))
        for one in found
    ]
    table("id", "made", "ends", "revoked", rows=rows)


@links.command("revoke")
def revoke(comparison: Comparison, link_id: str) -> None:
    """End a link, for those too who came by it; their votes stay."""
    Client(Settings()).delete(f"/comparisons/{comparison}/vote-links/{link_id}")
