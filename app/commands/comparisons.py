"""`varstudio compare`, `comparisons`, `vote-link`: models' answers side by side, and a link by which people vote, over REST."""

import time
from typing import Annotated, Any

import typer

from app.commands.client import Client, CommandFailed, Mine, Private, add_sharing, owner_of
from app.commands.terminal import err, out, table
from app.settings import Settings
from app.system.numbers import number, percent, signed

group = typer.Typer(no_args_is_help=True, help="Comparisons of models' answers; varstudio compare makes and shows one.")
POLL_SECONDS = 2.0
COLUMNS = ("judge", "model", "against", "gain", "wins", "at equal length", "told apart")


def compare(
    ids: Annotated[list[str], typer.Argument(help="Two answers or more to the same prompt set; or one comparison, to show it.")],
    name: Annotated[str, typer.Option(help="Empty: made from models and prompt set.")] = "",
    private: Private = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until all answers are there.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="All that is known.")] = False,
) -> None:
    """Compare models by their answers: who is better, by which judge, and how sure that is."""
    client = Client(Settings())
    shown = len(ids) == 1 and ids[0].startswith("comparison_")
    if shown:
        found = client.get(f"/comparisons/{ids[0]}")
    else:
        found = client.post("/comparisons", {"answers": ids, "name": name}, params={"private": private})
    if found["state"] == "making" and wait:
        err.print("Answers are being made …", style="dim")
    while found["state"] in ("making", "computing") and wait:
        time.sleep(POLL_SECONDS)
        found = client.get(f"/comparisons/{found['id']}")
    if as_json:
        out.print_json(data=found)
        return
    out.print(found["id"], markup=False)
    if found["state"] == "failed":
        raise CommandFailed("Nobody makes some of the answers any more: resume their run, or make them again.")
    if found["state"] == "ready":
        tell(found)


@group.command("list")
def list_(limit: Annotated[int, typer.Option(min=1, max=200)] = 50, mine: Mine = False) -> None:
    """List comparisons, newest first."""
    found = Client(Settings()).get("/comparisons", limit=limit, mine=mine)["items"]
    rows = [(one["id"], one["name"], one["num_prompts"], ", ".join(one["models"]), owner_of(one)) for one in found]
    table("id", "name", "prompts", "models", "owner", rows=rows)


@group.command("delete")
def delete(comparison_id: str) -> None:
    """Delete a comparison with its votes; the answers stay."""
    Client(Settings()).delete(f"/comparisons/{comparison_id}")


add_sharing(group, "/comparisons", "a comparison")


def tell(found: dict[str, Any]) -> None:
    """Print the sentence and a line for each judge and pair."""
    out.print(found["verdict"], markup=False, soft_wrap=True)
    names = [model["name"] for model in found["models"]]
    judges = [*found["figures"]["judges"], *([found["votes"]["judge"]] if found["votes"]["num_votes"] else [])]
    table(*COLUMNS, rows=[row_of(judge, pair, names) for judge in judges for pair in judge["pairs"]])


def row_of(judge: dict[str, Any], pair: dict[str, Any], names: list[str]) -> list[str]:
    gain, wins, controlled = pair["gain"], pair["win_rate"], pair["length_controlled"]
    apart = "the same model" if pair["is_same_model"] else "yes" if pair["told_apart"] else needed(pair["needed_prompts"])
    return [
        judge["name"],
        names[pair["first"]],
        names[pair["second"]],
        signed(gain[0]) + ("" if gain[1] is None else f" ({signed(gain[1])} to {signed(gain[2])})"),
        percent(wins[0]) + ("" if wins[1] is None else f" ({percent(wins[1])} to {percent(wins[2])})"),
        percent(controlled[0]) if controlled else number(None),
        "–" if judge["kind"] == "length" else apart,
    ]


def needed(num_prompts: int | None) -> str:
    return "no" if num_prompts is None else f"no: {num_prompts} prompts would"


def vote_link(
    comparison_id: Annotated[str, typer.Argument(help="The comparison to vote on.")],
    days: Annotated[int, typer.Option(min=1, max=365, help="After so many days it ends.")] = 14,
) -> None:
    """Make a link by which people without an account vote blind on one comparison; prints it once."""
    link = Client(Settings()).post(f"/comparisons/{comparison_id}/vote-links", {"days": days})
    out.print(link["url"], markup=False, soft_wrap=True)
