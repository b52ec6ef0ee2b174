"""`varstudio answers`: what models say to a prompt set, and who judges it, over REST."""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.answering import reading
from app.commands.client import Client, CommandFailed, Mine, Private, add_renaming, add_sharing, owner_of
from app.commands.events import follow
from app.commands.judges import Against, Judges, Llms, Patterns, gather_judges, require_judges
from app.commands.terminal import err, facts, out, table
from app.settings import Settings
from app.system.numbers import number

group = typer.Typer(no_args_is_help=True, help="Answers: one model's answers to a prompt set, and what judges say of them.")
group.command("read")(reading.answers)
group.command("tokens")(reading.tokens)

Watch = Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")]


@group.command("create")
def create(
    prompt_set: Annotated[str, typer.Argument(help="Id of the prompt set.")],
    model: Annotated[str | None, typer.Option(help="Id of a policy.")] = None,
    run: Annotated[str | None, typer.Option(help="Id of a run, whose model answers.")] = None,
    step: Annotated[int | None, typer.Option(help="Of a run: the step of a kept checkpoint.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Id of an endpoint, whose model answers.")] = None,
    num_draws: Annotated[int, typer.Option("--n", min=1, max=64, help="Answers to each prompt.")] = 1,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0: greedy decoding.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest tokens that together have this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers, which all models share.")] = 0,
    prompt_format: Annotated[str, typer.Option(help="auto, chat or plain.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    judge: Judges = None, pattern: Patterns = None, llm: Llms = None, against: Against = None,
    name: Annotated[str, typer.Option(help="Empty: made from model and prompt set.")] = "",
    private: Private = False, watch_it: Watch = False,
) -> None:  # fmt: skip
    """Ask a model the prompts of a set; prints the answers' id. What is there already is not made again."""
    sampling = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed,
        "prompt_format": prompt_format, "dtype": dtype,
    }  # fmt: skip
    asked = {
        "name": name, "prompt_set": prompt_set, "model": choose_model(model, run, step, endpoint), "n": num_draws,
        "sampling": sampling, "judges": gather_judges(judge, pattern, llm, against),
    }  # fmt: skip
    client = Client(Settings())
    tell_made(client, client.post("/answers", asked, params={"private": private}), watch_it)


def choose_model(model: str | None, run: str | None, step: int | None, endpoint: str | None) -> dict[str, Any]:
    """Return who is asked. Raises CommandFailed unless it is one."""
    if sum(one is not None for one in (model, run, endpoint)) != 1:
        raise CommandFailed("Give one of: --model, --run, --endpoint.")
    if step is not None and run is None:
        raise CommandFailed("--step is a step of a run: give --run too.")
    if run is not None:
        return {"source": "run", "run": run, "step": step}
    return {"source": "model", "model": model} if model is not None else {"source": "endpoint", "endpoint": endpoint}


def tell_made(client: Client, made: dict[str, Any], watch_it: bool) -> None:
    """Print the answers' id and, where that is wanted, follow the run that makes or judges them."""
    out.print(made["id"], markup=False)
    if watch_it and made["state"] != "ready":
        follow(client, made["run_id"])


@group.command("judge")
def judge(
    answers_id: str, judge: Judges = None, pattern: Patterns = None, llm: Llms = None, against: Against = None,
    watch_it: Watch = False,
) -> None:  # fmt: skip
    """Have more judges say what they think of answers, which are not made anew; prints their id."""
    judges = require_judges(judge, pattern, llm, against)
    client = Client(Settings())
    tell_made(client, client.post(f"/answers/{answers_id}/judges", {"judges": judges}), watch_it)


@group.command("upload")
def upload(
    prompt_set: Annotated[str, typer.Argument(help="Id of the prompt set.")],
    file: Annotated[Path, typer.Argument(help="JSON in AlpacaEval's shape: instruction, output, generator.")],
    name: Annotated[str, typer.Option(help="The model's name; empty: the generator.")] = "",
    private: Private = False,
) -> None:
    """Take in a model's outputs that were made elsewhere, matched to the prompts by their texts; prints the answers' id."""
    fields = {"prompt_set": prompt_set, "name": name, "private": str(private).lower()}
    with file.open("rb") as content:
        made = Client(Settings()).post("/answers/file", files={"file": (file.name, content)}, data=fields)
    if made["remark"]:
        err.print(made["remark"], markup=False)
    out.print(made["id"], markup=False)


@group.command("list")
def list_(
    prompt_set: Annotated[str | None, typer.Option(help="Only those to this prompt set.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those of this model, or of what began from it.")] = None,
    run: Annotated[str | None, typer.Option(help="Only those of what this run has trained.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    mine: Mine = False,
) -> None:
    """List answers, newest first."""
    found = Client(Settings()).get("/answers", prompt_set=prompt_set, model=model, run=run, limit=limit, mine=mine)["items"]
    rows = [
        (one["id"], one["model_name"], one["state"], one["n"], len(one["judgements"]), one["created_at"][:16], owner_of(one))
        for one in found
    ]
    table("id", "model", "state", "n", "judges", "made", "owner", rows=rows)


add_renaming(group, "/answers", "answers")
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


@group.command("cancel")
def cancel(answers_id: str) -> None:
    """Cancel the run that makes or judges answers; what is there stays, and asking again goes on with it."""
    client = Client(Settings())
    run_id = client.get(f"/answers/{answers_id}")["run_id"]
    if run_id is None:
        raise CommandFailed(f"No run makes or judges {answers_id}: there is nothing to cancel.")
    state = client.post(f"/runs/{run_id}/cancel")["state"]
    out.print("The run is cancelled." if state == "cancelled" else "Cancelling was requested; the run stops soon.")


@group.command("delete")
def delete(answers_id: str) -> None:
    """Delete answers with their scores and the runs that made them, unless a comparison shows them."""
    Client(Settings()).delete(f"/answers/{answers_id}")
