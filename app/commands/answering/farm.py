"""`varstudio farm`: the data set that judged answers become, over REST."""

from typing import Annotated

import typer

from app.commands.client import Client, CommandFailed
from app.commands.terminal import facts, out
from app.settings import Settings
from app.system.numbers import number, percent


def farm(
    answers_id: Annotated[str, typer.Argument(help="Answers that were judged.")],
    judge: Annotated[
        str | None, typer.Option(help="Its name, or how its key begins; the first that is more than a length unless given.")
    ] = None,
    shape: Annotated[str, typer.Option(help="best_worst, pairs, ranked, best or rated.")] = "best_worst",
    margin: Annotated[float, typer.Option(min=0, help="Answers whose scores lie no further apart are left out.")] = 0.0,
    name: Annotated[str, typer.Option(help="Of the data set.")] = "",
    preview: Annotated[bool, typer.Option("--preview", help="Only tell what it would hold; nothing is made.")] = False,
) -> None:
    """Make a data set of answers by a judge's scores; prints its id."""
    client = Client(Settings())
    asked = {"judge": find_key(client, answers_id, judge), "shape": shape, "margin": margin, "name": name}
    figures = client.post(f"/answers/{answers_id}/farm", asked)
    made = None if preview else client.post(f"/answers/{answers_id}/dataset", asked)
    told = [("rows", figures["num_rows"]), ("prompts", figures["num_prompts"]), ("mean gap", number(figures["mean_gap"]))]
    if figures["longer_wins"] is not None:
        told.append(("longer is better", percent(figures["longer_wins"])))
    left_out = ", ".join(f"{num} {reason}" for reason, num in figures["left_out"].items())
    facts([*told, *([("left out", left_out)] if left_out else [])])
    if made is not None:
        out.print(made["id"], markup=False)


def find_key(client: Client, answers_id: str, judge: str | None) -> str:
    """Return the key of the judge that is meant; what is not known goes to the studio, which says who has judged.

    Raises CommandFailed where nobody has.
    """
    known = client.get(f"/answers/{answers_id}")["judgements"]
    if judge is None:
        if not known:
            raise CommandFailed(
                f"Nobody has judged these answers yet: varstudio answers judge {answers_id} --judge MODEL_ID asks a reward model."
            )
        return str(max(known, key=lambda one: one["kind"] != "length")["key"])
    return next((str(one["key"]) for one in known if one["name"] == judge or one["key"].startswith(judge)), judge)
