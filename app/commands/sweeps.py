"""`varstudio sweeps`: one recipe over a grid and beside its baselines, over REST."""

import json
import math
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from app.commands.client import AsJson, Client, CommandFailed, Mine, Private, Unreachable, add_renaming, add_sharing, owner_of
from app.commands.recipes import read_document
from app.commands.terminal import err, lines_of, out, table
from app.domain.training.baselines import BASELINES
from app.settings import Settings

group = typer.Typer(no_args_is_help=True, help="Sweeps: runs that differ in named settings only.")
POLL_SECONDS = 2.0
GIVE_UP_SECONDS = 300.0
COLUMNS = (
    "variant", "state", "reward gain", "win rate", "KL", "held-out loss", "length", "ESS", "ρ len", "ρ reward", "s", "tokens/s",
)  # fmt: skip
OUTCOMES = {"waiting": "not known yet", "expected": "as expected", "unexpected": "not as expected", "undecided": "not decided"}
GOING = ("queued", "paused", "running")

Lambda = Annotated[list[float] | None, typer.Option("--lambda", help="A temperature λ > 0; give it once for each.")]
Fields = Annotated[
    list[str] | None, typer.Option("--field", help="A setting and its values, such as training.batch_size=2,8; repeatable.")
]
Baselines = Annotated[
    list[str] | None, typer.Option("--baseline", help=f"{', '.join(list(BASELINES)[:-1])} or {list(BASELINES)[-1]}; repeatable.")
]
Together = Annotated[
    list[str] | None,
    typer.Option(
        "--together", help="Settings that change together, such as 'training.batch_size=2 training.learning_rate=1e-5'."
    ),
]
Budget = Annotated[float | None, typer.Option("--kl", help="Seek the best among the variants that end within this KL.")]


@group.command("launch")
def launch(
    recipe: Annotated[Path, typer.Argument(help="The recipe that all variants start from, YAML or JSON.")],
    lambdas: Lambda = None,
    field: Fields = None,
    together: Together = None,
    baseline: Baselines = None,
    name: Annotated[str, typer.Option(help="Empty: the recipe's name, or data set and policy.")] = "",
    private: Private = False,
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow it to its end.")] = False,
) -> None:
    """Launch a sweep; prints its id."""
    client = Client(Settings())
    grid = {**grid_of(lambdas, field, baseline), "combinations": combine(together)}
    asked = {"name": name, "recipe": read_document(recipe), **grid}
    sweep = client.post("/sweeps", asked, params={"private": private})
    out.print(sweep["id"], markup=False)
    if watch_it:
        follow(client, sweep["id"])


def grid_of(lambdas: list[float] | None, fields: list[str] | None, baselines: list[str] | None) -> dict[str, Any]:
    """Return the options as a request has them.

    Raises: CommandFailed.
    """
    grid: dict[str, list[Any]] = {}
    for option in fields or []:
        path, separator, values = option.partition("=")
        if not separator or not path.strip() or not values.strip():
            raise CommandFailed(f"--field needs a setting and its values, such as training.batch_size=2,8, not {option!r}.")
        grid.setdefault(path.strip(), []).extend(read_value(value) for value in values.split(","))
    if not all(math.isfinite(value) for value in lambdas or []):
        raise CommandFailed("--lambda must be a finite number greater than 0.")
    return {"lambda": lambdas or [], "fields": grid, "baselines": baselines or []}


def combine(options: list[str] | None) -> list[dict[str, Any]]:
    """Return the settings that change together, a dictionary for each option.

    Raises: CommandFailed.
    """
    found = []
    for option in options or []:
        pairs = [part.partition("=") for part in option.split()]
        if not pairs or not all(path and separator and value for path, separator, value in pairs):
            raise CommandFailed(f"--together needs settings with a value each, such as training.batch_size=2, not {option!r}.")
        found.append({path: read_value(value) for path, _, value in pairs})
    return found


def read_value(text: str) -> Any:
    """Return a number, true, false or null as such; everything else as text."""
    try:
        return json.loads(text, parse_constant=str)  # NaN and Infinity are no JSON
    except ValueError:
        return text.strip()


@group.command("list")
def list_(limit: Annotated[int, typer.Option(min=1, max=200)] = 50, mine: Mine = False) -> None:
    """List sweeps, newest first."""
    found = Client(Settings()).get("/sweeps", limit=limit, mine=mine)["items"]
    rows = [(sweep["id"], sweep["name"], sweep["state"], done_of(sweep), owner_of(sweep)) for sweep in found]
    table("id", "name", "state", "succeeded", "owner", rows=rows)


def done_of(sweep: dict[str, Any]) -> str:
    return f"{sweep['counts'].get('succeeded', 0)}/{sweep['num_variants']}"


@group.command("show")
def show(sweep_id: str, kl_budget: Budget = None, as_json: AsJson = False) -> None:
    """Show the variants of a sweep side by side, and which is best."""
    sweep = Client(Settings()).get(f"/sweeps/{sweep_id}", kl_budget=kl_budget)
    if as_json:
        out.print_json(data=sweep)
        return
    out.print(f"{sweep['name']}: {sweep['state']}, {done_of(sweep)} succeeded", markup=False)
    tell(sweep)


def tell(sweep: dict[str, Any]) -> None:
    """Print the table of the variants, and what they came to."""
    table(*COLUMNS, rows=[row_of(variant) for variant in sweep["variants"]])
    for line in verdict_of(sweep):
        out.print(line, markup=False)


def row_of(variant: dict[str, Any]) -> list[str]:
    """One line of the table; a star stands at the best."""
    metrics = variant["metrics"]
    keys = ("eval/kl", "eval/loss", "eval/length_policy", "weight/ess_share", "weight/spearman_length", "weight/spearman_reward")
    low, high = metrics.get("eval/win_rate_low"), metrics.get("eval/win_rate_high")
    interval = f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else ""
    return [
        variant["label"] + (" *" if variant["best"] else ""),
        variant["state"],
        number(metrics.get("eval/reward_gain"), "+.3g"),
        number(metrics.get("eval/win_rate"), ".2f") + interval,
        *(number(metrics.get(key)) for key in keys),
        number(variant["seconds"], ".0f"),
        number(metrics.get("tokens_per_second"), ".0f"),
    ]


def number(value: float | None, form: str = ".3g") -> str:
    return "–" if value is None else format(value, form)


def verdict_of(sweep: dict[str, Any]) -> list[str]:
    """Return the best, what isn't told apart from it, and what was better on the way, each as a line."""
    labels = [one["label"] for one in sweep["variants"]]
    lines = [f"{outcome['experiment']}: {OUTCOMES[outcome['state']]}"] if (outcome := sweep.get("outcome")) else []
    lines += outcome["sentences"] if outcome else []
    group = find_seeds_of_best(sweep)
    lines += [best_of(sweep, labels, group)] if sweep["best"] else []
    if sweep["best"] and sweep["test_gain"] is not None:
        spread = f" ± {group['test_gain']['deviation']:.3g} from seed to seed" if group and group["test_gain"] else ""
        lines.append(f"On the test prompts, which chose nothing: {sweep['test_gain']:+.3g}{spread}.")
    lines += [tell_rival(rival, labels) for rival in sweep["rivals"]]
    if earlier := sweep["earlier"]:
        where = f"{labels[earlier['variant']]} was at {earlier['reward_gain']:+.3g}, after step {earlier['step']}"
        lines.append(f"On the way {where}; to have the best model of a run, set keep.model to best.")
    return lines


def tell_rival(rival: dict[str, Any], labels: list[str]) -> str:
    """Return one line: whether the test prompts tell the best apart from this variant, and how many would."""
    gain, names = rival["gain"], ", ".join(labels[variant] for variant in rival["variants"])
    interval = "" if gain["low"] is None else f" ({gain['low']:+.3g} to {gain['high']:+.3g})"
    line = f"{'Told' if rival['told_apart'] else 'Not told'} apart from {names}: {gain['value']:+.3g}{interval} reward"
    needed = rival["needed_prompts"]
    more = f"; about {needed} would be needed" if not rival["told_apart"] and needed and needed > rival["num_prompts"] else ""
    return f"{line} on the same {rival['num_prompts']} test prompts{more}."


def find_seeds_of_best(sweep: dict[str, Any]) -> dict[str, Any] | None:
    """Return the variants that differ from the best in their seeds only, where two of them have a gain."""
    best = sweep["best"]
    return next((group for group in sweep["seeds"] if best and best["variant"] in group["variants"] and group["gain"]), None)


def best_of(sweep: dict[str, Any], labels: list[str], group: dict[str, Any] | None) -> str:
    best = sweep["best"]
    label = labels[best["variant"]]
    within = "" if sweep["kl_budget"] is None else f" within a KL of {sweep['kl_budget']:g}"
    gain = group["gain"] if group else {"mean": best["reward_gain"]}
    head = "Best" if gain["mean"] > 0 else "None gains reward; the least loss"
    if group:
        num = len(group["variants"])
        seeds = f"on average over {num} seeds" if gain["num"] == num else f"on average over {gain['num']} of its {num} seeds"
        kl = f" at KL {group['kl']['mean']:.3g}" if group["kl"] else ""
        told = f"{group['label']} {seeds}: reward gain {gain['mean']:+.3g} ± {gain['deviation']:.3g}{kl}"
        return f"* {head}{within}: {told}; in their middle {label}, step {best['step']}."
    return f"* {head}{within}: {label}, step {best['step']}: reward gain {best['reward_gain']:+.3g} at KL {best['kl']:.3g}."


@group.command("watch")
def watch(sweep_id: str) -> None:
    """Follow a sweep until none of its runs goes on; exit status 0 when all have succeeded."""
    follow(Client(Settings()), sweep_id)


def follow(client: Client, sweep_id: str) -> None:
    """Raises: CommandFailed when not all runs succeeded."""
    sweep = client.get(f"/sweeps/{sweep_id}")
    said: dict[str, str] = {}
    live = Live(console=out, get_renderable=lambda: render(sweep), refresh_per_second=2, transient=True)
    with live if out.is_terminal else nullcontext():
        while sweep["state"] in GOING:
            tell_changes(sweep, said)
            time.sleep(POLL_SECONDS)
            sweep = fetch(client, sweep_id)
    tell_changes(sweep, said)
    tell(sweep)
    if sweep["state"] != "succeeded":
        raise CommandFailed(f"The sweep is {sweep['state']}: {done_of(sweep)} of its runs have succeeded.")


def fetch(client: Client, sweep_id: str) -> dict[str, Any]:
    """Return the sweep as it is now; a studio that is away for a while is waited for."""
    began = time.monotonic()
    while True:
        try:
            found: dict[str, Any] = client.get(f"/sweeps/{sweep_id}")
        except Unreachable:
            if time.monotonic() - began > GIVE_UP_SECONDS:
                raise
            err.print("The connection was lost; trying again …", style="dim")
            time.sleep(POLL_SECONDS)
        else:
            return found


def tell_changes(sweep: dict[str, Any], said: dict[str, str]) -> None:
    """A line for each run whose state has changed, where the output isn't a terminal."""
    for variant in sweep["variants"]:
        label, state = variant["label"], variant["state"]
        if said.get(label) != state and not out.is_terminal:
            out.print(f"{label}: {state}", markup=False)
        said[label] = state


def render(sweep: dict[str, Any]) -> RenderableType:
    lines = lines_of(COLUMNS, [row_of(variant) for variant in sweep["variants"]])
    return Group(Text(f"{sweep['name']}: {sweep['state']}, {done_of(sweep)} succeeded", style="bold"), *map(Text, lines))


experiments = typer.Typer(no_args_is_help=True, help="Experiments: sweeps that say what should come out, and what did.")


@experiments.command("list")
def list_experiments() -> None:
    """List the experiments, each with its question and what is expected."""
    found = Client(Settings()).get("/experiments")
    rows = [(one["name"], str(one["num_settings"]), one["question"], one["expected"]) for one in found]
    table("name", "runs a seed", "question", "expected", rows=rows)


@experiments.command("launch")
def launch_experiment(
    experiment: Annotated[str, typer.Argument(help="One of `varstudio experiments list`.")],
    recipe: Annotated[Path, typer.Argument(help="The recipe that every run starts from, YAML or JSON.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps of each run.")] = 100,
    seeds: Annotated[int, typer.Option(help="Runs of each setting.")] = 3,
    name: Annotated[str, typer.Option(help="Empty: the experiment's title.")] = "",
    private: Private = False,
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow it to its end, and say what came out.")] = False,
) -> None:
    """Launch an experiment; prints its sweep's id, of which `varstudio sweeps show` tells what came out."""
    client = Client(Settings())
    asked = {"name": name, "recipe": read_document(recipe), "steps": steps, "seeds": seeds}
    sweep = client.post(f"/experiments/{experiment}", asked, params={"private": private})
    out.print(sweep["id"], markup=False)
    if watch_it:
        follow(client, sweep["id"])


@group.command("add")
def add(sweep_id: str, lambdas: Lambda = None, field: Fields = None, baseline: Baselines = None) -> None:
    """Add variants; what isn't given of λ and fields is as it was launched with."""
    sweep = Client(Settings()).post(f"/sweeps/{sweep_id}/variants", grid_of(lambdas, field, baseline))
    out.print(f"The sweep has {sweep['num_variants']} variants now.")


@group.command("stop")
def stop(sweep_id: str) -> None:
    """Cancel every run that hasn't ended; what has been made stays."""
    Client(Settings()).post(f"/sweeps/{sweep_id}/stop")
    out.print("The sweep is stopped: queued runs never start, running ones stop within a step.")


@group.command("resume")
def resume(sweep_id: str) -> None:
    """Queue what failed, was cancelled or deleted again; what succeeded stays."""
    waiting = Client(Settings()).post(f"/sweeps/{sweep_id}/resume")["counts"].get("queued", 0)
    out.print(f"{waiting} {'run waits' if waiting == 1 else 'runs wait'} for a worker now.")


add_renaming(group, "/sweeps", "a sweep")
add_sharing(group, "/sweeps", "a sweep with its runs")


@group.command("delete")
def delete(sweep_id: str, yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False) -> None:
    """Delete a sweep with its runs and their files, once none goes on."""
    client = Client(Settings())
    if not yes:
        sweep = client.get(f"/sweeps/{sweep_id}")
        typer.confirm(f"Delete “{sweep['name']}” and its {sweep['num_variants']} runs with their files?", abort=True, err=True)
    client.delete(f"/sweeps/{sweep_id}")
