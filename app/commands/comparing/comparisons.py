"""`varstudio compare` and `comparisons`: models' answers side by side, over REST."""

import time
from typing import Annotated, Any

import typer

from app.commands.client import AsJson, Client, CommandFailed, Mine, Private, add_renaming, add_sharing, owner_of
from app.commands.comparing.figures import tell
from app.commands.judges import Against, Judges, Llms, Patterns, require_judges
from app.commands.terminal import err, head, out, say, table
from app.settings import Settings
from app.system.numbers import signed

group = typer.Typer(no_args_is_help=True, help="Comparisons of models' answers; varstudio compare makes and shows one.")
POLL_SECONDS = 2.0


def compare(
    ids: Annotated[list[str], typer.Argument(help="Two answers or more to the same prompt set; or one comparison, to show it.")],
    name: Annotated[str, typer.Option(help="Empty: made from models and prompt set.")] = "",
    private: Private = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until all answers are there and judged.")] = True,
    as_json: AsJson = False,
) -> None:
    """Compare models by their answers: who is better, by which judge, and how sure that is."""
    client = Client(Settings())
    shown = len(ids) == 1 and ids[0].startswith("comparison_")
    if shown:
        found = client.get(f"/comparisons/{ids[0]}")
    else:
        found = client.post("/comparisons", {"answers": ids, "name": name}, params={"private": private})
    if is_going_on(found) and wait:
        err.print("Answers are being made or judged …", style="dim")
    while is_going_on(found) and wait:
        time.sleep(POLL_SECONDS)
        found = client.get(f"/comparisons/{found['id']}")
    if as_json:
        out.print_json(data=found)
        return
    out.print(found["id"], markup=False)
    if found["state"] == "failed":
        raise CommandFailed("Nobody makes some of the answers any more: resume their run, or make them again.")
    if found["judging"]:
        out.print(f"Not all answers are judged yet: {', '.join(found['judging'])} will say more.", markup=False)
    if found["state"] == "ready":
        tell(found)


def is_going_on(comparison: dict[str, Any]) -> bool:
    """Return whether more will be known of a comparison without anybody's doing."""
    return comparison["state"] in ("making", "computing") or (comparison["state"] == "ready" and bool(comparison["judging"]))


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


add_renaming(group, "/comparisons", "a comparison")
add_sharing(group, "/comparisons", "a comparison")


@group.command("judge")
def judge(
    comparison_id: str, judge: Judges = None, pattern: Patterns = None, llm: Llms = None, against: Against = None
) -> None:  # fmt: skip
    """Have more judges say what they think of all of a comparison's answers, which are not made anew."""
    judges = require_judges(judge, pattern, llm, against)
    Client(Settings()).post(f"/comparisons/{comparison_id}/judges", {"judges": judges})
    out.print("The judges are asked; varstudio compare shows what they say.")


@group.command("prompts")
def prompts(
    comparison_id: str,
    sort: Annotated[str, typer.Option(help="prompts, losses, gains or disagreement.")] = "losses",
    judge: Annotated[str, typer.Option(help="A judge's key, or votes; empty: the leading one.")] = "",
    pair: Annotated[str, typer.Option(help="Two places in the list of models, from 0.")] = "0,1",
    search: Annotated[str, typer.Option(help="Words in prompt or answers.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most so many prompts.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Read the prompts with all models' answers, where the pair's first model loses most unless sorted otherwise."""
    client = Client(Settings())
    asked = {"sort": sort, "judge": judge, "pair": pair, "search": search, "limit": limit}
    found = client.get(f"/comparisons/{comparison_id}/prompts", **asked)["items"]
    if as_json:
        out.print_json(data=found)
        return
    names = [model["name"] for model in client.get(f"/comparisons/{comparison_id}")["models"]]
    for prompt in found:
        head(f"Prompt {prompt['index']}, gain {signed(prompt['gain'])}")
        for message in prompt["messages"]:
            say(f"{message['role']}: {message['content']}")
        for name, draws in zip(names, prompt["answers"], strict=True):
            for answer in draws:
                say(f"{name}: {answer['text']}")
