"""`varstudio answers` and `varstudio farm`: what models say to a prompt set, who judges it, and the data it becomes."""

from typing import Annotated, Any

import typer

from app.commands.client import Client, Mine, Private, add_sharing, owner_of
from app.commands.events import follow
from app.commands.terminal import facts, out, table
from app.settings import Settings
from app.system.numbers import number

group = typer.Typer(no_args_is_help=True, help="Answers: one model's answers to a prompt set, and what judges say of them.")


@group.command("create")
def create(
    prompt_set: Annotated[str, typer.Argument(help="Id of the prompt set.")],
    model: Annotated[str | None, typer.Option(help="Id of a policy.")] = None,
    run: Annotated[str | None, typer.Option(help="Id of a run, whose model answers.")] = None,
    step: Annotated[int | None, typer.Option(help="Of a run: the step of a kept checkpoint.")] = None,
    num_draws: Annotated[int, typer.Option("--n", min=1, max=64, help="Answers to each prompt.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy decoding.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers, which all models share.")] = 0,
    judge: Annotated[list[str] | None, typer.Option(help="Id of a reward model, or: length, exact; may be given again.")] = None,
    private: Private = False,
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")] = False,
) -> None:
    """Ask a model the prompts of a set; prints the answers' id. What is there already is not made again."""
    chosen: dict[str, Any] = {"source": "model", "model": model} if model else {"source": "run", "run": run, "step": step}
    client = Client(Settings())
    made = client.post(
        "/answers",
        {
            "prompt_set": prompt_set, "model": chosen, "n": num_draws, "judges": [judge_of(one) for one in judge or []],
            "sampling": {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed},
        },
        params={"private": private},
    )  # fmt: skip
    out.print(made["id"], markup=False)
    if watch_it and made["state"] != "ready":
        follow(client, made["run_id"])


def judge_of(text: str) -> dict[str, str]:
    """Return the judge that a word or a reward model's id stands for."""
    return {"kind": text} if text in ("length", "exact") else {"kind": "reward", "model": text}


@group.command("list")
def list_(
    prompt_set: Annotated[str | None, typer.Option(help="Only those to this prompt set.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    mine: Mine = False,
) -> None:
    """List answers, newest first."""
    found = Client(Settings()).get("/answers", prompt_set=prompt_set, limit=limit, mine=mine)["items"]
    rows = [
        (one["id"], one["model_name"], one["state"], one["n"], len(one["judgements"]), one["created_at"][:16], owner_of(one))
        for one in found
    ]
    table("id", "model", "state", "n", "judges", "made", "owner", rows=rows)


add_sharing(group, "/answers", "answers, with the runs that made them,")


@group.command("show")
def show(answers_id: str) -> None:
    """Show answers: how far they are, their counts, and what each judge says."""
    found = Client(Settings()).get(f"/answers/{answers_id}")
    rows: list[tuple[str, object]] = [(name, found[name]) for name in ("id", "name", "state", "model_name", "n")]
    rows += [(name.removeprefix("num_").replace("_", " "), value) for name, value in (found["facts"] or {}).items()]
    for one in found["judgements"]:
        said = one["facts"]
        rows.append(
            (f"judge {one['key'][:12]}", f"{one['name']}: {number(said['mean'])} ± {number(said['se'])}" if said else one["name"])
        )
    facts(rows)


def farm(
    answers_id: Annotated[str, typer.Argument(help="Answers that were judged.")],
    judge: Annotated[str | None, typer.Option(help="Its name, or how its key begins; the first unless given.")] = None,
    shape: Annotated[str, typer.Option(help="best_worst, pairs, ranked, best or rated.")] = "best_worst",
    margin: Annotated[float, typer.Option(min=0, help="Answers whose scores lie no further apart are left out.")] = 0.0,
    name: Annotated[str, typer.Option(help="Of the data set.")] = "",
) -> None:
    """Make a data set of answers by a judge's scores; prints its id."""
    client = Client(Settings())
    asked = {"judge": find_key(client, answers_id, judge), "shape": shape, "margin": margin, "name": name}
    figures = client.post(f"/answers/{answers_id}/farm", asked)
    made = client.post(f"/answers/{answers_id}/dataset", asked)
    told = [("rows", figures["num_rows"]), ("prompts", figures["num_prompts"]), ("mean gap", number(figures["mean_gap"]))]
    left_out = ", ".join(f"{num} {reason}" for reason, num in figures["left_out"].items())
    facts([*told, *([("left out", left_out)] if left_out else [])])
    out.print(made["id"], markup=False)


def find_key(client: Client, answers_id: str, judge: str | None) -> str:
    """Return the key of the judge that is meant; what is not known goes to the studio, which says who has judged."""
    known = client.get(f"/answers/{answers_id}")["judgements"]
    if judge is None:
        return str(known[0]["key"]) if known else "none"
    return next((str(one["key"]) for one in known if one["name"] == judge or one["key"].startswith(judge)), judge)
