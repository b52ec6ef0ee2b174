"""`varstudio scorings`: make scores once, check the rewards, preview the weights of a λ grid, over REST."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from app.commands.client import Client, CommandFailed, Mine, Unreachable, add_renaming, add_sharing, owner_of
from app.commands.events import follow
from app.commands.recipes import REWARD_HELP, merge, named_as_typed, read_recipe, reward_of
from app.commands.terminal import err, facts, out, plain, table
from app.domain.preview.weights import WANTED_ERROR, tell_most_draws
from app.settings import Settings
from app.system.numbers import percent, signed
from app.system.sizes import describe_size

group = typer.Typer(no_args_is_help=True, help="Scorings: scores computed once, reused by every run, λ and preview.")
BLOCKS = "▁▂▃▄▅▆▇█"
GIVE_UP_SECONDS = 180.0
RETRY_SECONDS = 1.0
BAR_WIDTH = 40


@group.command("create")
def create(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe, YAML or JSON; options below replace what it says.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Id of the data set.")] = None,
    policy: Annotated[str | None, typer.Option(help="Id of the policy.")] = None,
    reward: Annotated[str | None, typer.Option(help=REWARD_HELP)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Prompts per batch.")] = None,
    name: Annotated[str | None, typer.Option()] = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Follow its run to the end.")] = False,
) -> None:
    """Ask for a scoring; prints its id. One that is there already is not made again."""
    body = read_recipe(recipe)
    sections: dict[str, dict[str, Any]] = {
        "": {"dataset": dataset, "name": name},
        "policy": {"model": policy},
        "reward": reward_of(reward),
        "training": {"batch_size": batch_size},
    }
    client = Client(Settings())
    with named_as_typed(sections):
        scoring = client.post("/scorings", merge(body, sections))
    out.print(scoring["id"], markup=False)
    if watch_it and scoring["state"] != "ready":
        follow(client, scoring["run_id"])


@group.command("list")
def list_(
    dataset: Annotated[str | None, typer.Option(help="Only those of this data set.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 50,
    mine: Mine = False,
) -> None:
    """List scorings, newest first."""
    found = Client(Settings()).get("/scorings", dataset=dataset, limit=limit, mine=mine)["items"]
    rows = [
        (
            scoring["id"],
            scoring["name"],
            scoring["state"],
            scoring["num_pairs"],
            describe_size(scoring["size_bytes"] or 0),
            scoring["num_runs"],
            scoring["used_at"][:16],
            owner_of(scoring),
        )
        for scoring in found
    ]
    table("id", "name", "state", "pairs", "size", "runs", "used", "owner", rows=rows)


@group.command("show")
def show(scoring_id: str) -> None:
    """Show what is in a scoring: sizes, hits and reasons of misses, and the runs that use it."""
    scoring = Client(Settings()).get(f"/scorings/{scoring_id}")
    rows: list[tuple[str, object]] = [
        (name, scoring[name]) for name in ("id", "name", "state", "reason", "remedy") if scoring[name]
    ]
    rows += [(key.replace("_id", ""), scoring[key]) for key in ("dataset_id", "policy_id", "reward_id", "run_id") if scoring[key]]
    if scoring["facts"]:
        held = scoring["facts"]
        rows.append(("examples", f"{held['num_examples']} in {held['num_batches']} batches of {held['batch_size']}"))
        rows += [(name, describe_part(held[name])) for name in ("logprob", "reward") if held[name]]
        rows += [("draws", describe_draws(held["draws"]))] if held["draws"] else []
    rows += [("used by", f"{run['id']}  {run['name']}  {run['state']}") for run in scoring["runs"]]
    facts(rows)


def describe_part(part: dict[str, Any]) -> str:
    """One artifact in a line."""
    whole = part["num_scored"] == part["num_pairs"]
    told = [f"{part['num_scored']} pairs" if whole else f"{part['num_scored']} of {part['num_pairs']} pairs"]
    if part["smallest_lambda"] is not None:
        told.append(f"stopped early for λ from {part['smallest_lambda']:g}")
    how = "found" if part["hit"] else f"made in {part['seconds']:.1f} s {part['backend']}".strip()
    told += [describe_size(part["size_bytes"]), how, part["key"]]
    return ", ".join(told) + (f" ({part['miss_reason']})" if part["miss_reason"] else "")


def describe_draws(draws: dict[str, Any]) -> str:
    """Return how many draws of the reference there are, and whether the data could be such draws."""
    error = "" if draws["gap_error"] is None else f" ± {draws['gap_error']:.2f}"
    data, drawn = draws["data_logprob"], draws["draw_logprob"]
    return (
        f"{draws['num_draws']} of each of {draws['num_prompts']} prompts, {'found' if draws['hit'] else 'made'}; log π_ref of "
        f"the data {data:.2f} nats a token, of the draws {drawn:.2f} (difference {signed(draws['gap'], 2)}{error})"
    )


@group.command("check")
def check(scoring_id: str, as_json: Annotated[bool, typer.Option("--json", help="The whole answer.")] = False) -> None:
    """Show what the rewards know of the preference labels."""
    found = Client(Settings()).get(f"/scorings/{scoring_id}/check")
    if as_json:
        out.print_json(data=found)
        return
    rows: list[tuple[str, object]] = [
        ("responses", f"{found['num_responses']}, rewards {found['mean']:.3g} ± {found['std']:.3g}"),
        ("pairs", f"{found['num_pairs']}, {found['num_ties']} of them tied"),
    ]
    for title, prefix in (("agreement", ""), ("longer wins", "length_")):
        share = found["accuracy" if not prefix else "length_accuracy"]
        if share is not None:
            rows.append((title, f"{percent(share)} ({percent(found[prefix + 'low'])} to {percent(found[prefix + 'high'])})"))
    if found["length_explains"] is not None:
        rows.append(("length", describe_length(found)))
    if ensemble := found["ensemble"]:
        agree = "one of them is constant" if ensemble["correlation"] is None else f"correlation {ensemble['correlation']:.2f}"
        alike = "" if ensemble["same_order"] is None else f", {percent(ensemble['same_order'])} of the pairs ranked alike"
        alone = ", ".join("none" if share is None else percent(share) for share in ensemble["accuracies"])
        num = f"mean of {len(ensemble['accuracies'])} less {ensemble['caution']:g} deviations"
        rows.append(("models", f"{num}: {agree}{alike}; alone {alone}"))
    facts(rows)
    highest = max(found["counts"], default=0)
    for edge, times in zip(found["edges"], found["counts"], strict=False):
        out.print(f"{edge:>10.3g}  {'█' * round(BAR_WIDTH * times / max(1, highest))} {times}", markup=False)
    show_findings(found["findings"])


def describe_length(check: dict[str, Any]) -> str:
    """Return what length explains of the rewards, and how well they know the labels without it."""
    without = "" if check["controlled_accuracy"] is None else f"; {percent(check['controlled_accuracy'])} agreement without it"
    slope = signed(check["length_slope"])
    return f"explains {percent(check['length_explains'])} of the rewards' variance, {slope} a token{without}"


@group.command("preview")
def preview(
    scoring_id: str,
    preset: Annotated[list[str] | None, typer.Option(help="paper, length_normalised, …; repeatable.")] = None,
    lambdas: Annotated[list[float] | None, typer.Option("--lambda", help="A temperature λ > 0; repeatable.")] = None,
    batch_size: Annotated[list[int] | None, typer.Option(help="Prompts per batch; repeatable.")] = None,
    target_ess: Annotated[float | None, typer.Option(help="Suggest a λ for this share of the batch.")] = None,
    flip: Annotated[float | None, typer.Option(help="Share of the labels that are swapped first.")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise on the rewards, in their standard deviations.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the swaps and the noise.")] = None,
    length_control: Annotated[bool, typer.Option(help="Take out of the rewards what length explains.")] = False,
    per_prompt: Annotated[bool, typer.Option(help="Rewards in deviations of each prompt's own.")] = False,
    choice: Annotated[
        list[str] | None, typer.Option("--set", help="A choice of the weights: logprob_norm=mean; repeatable.")
    ] = None,
    responses: Annotated[bool, typer.Option("--responses", help="The heaviest and lightest responses too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The whole answer.")] = False,
) -> None:
    """Show what the weights would be for each λ × preset × batch size, without training.

    ESS: their effective sample size as a share of the batch; prompts: the same of the data's prompts; chance: how much of a
    weight's variance is which prompts meet; chosen: their share on chosen responses; ρ: rank correlation.
    """
    query: dict[str, Any] = {
        "preset": preset, "lambda": lambdas, "batch_size": batch_size, "target_ess": target_ess,
        "label_flip_share": flip, "reward_std": noise, "noise_seed": seed,
        "length_control": length_control or None, "per_prompt": per_prompt or None, **overrides_of(choice or []),
    }  # fmt: skip
    answer = ask_patiently(Client(Settings()), f"/scorings/{scoring_id}/preview", query)
    if as_json:
        out.print_json(data=answer)
        return
    rows = [row_of(cell) for cell in answer["cells"]]
    shares = ("ESS", "prompts", "chance", "chosen")
    table("preset", "B", "λ", "weights 1e-8 … 1e2", *shares, "ρ reward", "ρ length", "findings", rows=rows)
    for cell in answer["cells"]:
        if cell["partition_error"] is not None:
            out.print(plain(tell_draws(cell)), markup=False)
    for suggestion in answer["suggestions"]:
        found = f"λ {suggestion['lambda']:.3g}" if suggestion["lambda"] is not None else f"no λ: {suggestion['reason']}"
        what = f"ESS {percent(suggestion['target_ess'])}, {suggestion['preset']}, B {suggestion['batch_size']}"
        out.print(plain(f"{what}: {found}"), markup=False)
    show_findings(answer["findings"])
    if responses:
        for cell in answer["cells"]:
            show_responses(cell)


def ask_patiently(client: Client, path: str, query: dict[str, Any]) -> Any:
    """Return the answer; a worker that is busy or just starting is waited for."""
    end = time.monotonic() + GIVE_UP_SECONDS
    while True:
        try:
            return client.get(path, **query)
        except Unreachable as error:
            if time.monotonic() > end:
                raise
            err.print(error.detail, style="dim", markup=False)
            time.sleep(RETRY_SECONDS)


def overrides_of(choices: list[str]) -> dict[str, str]:
    """Raises: CommandFailed."""
    found = {}
    for text in choices:
        name, separator, value = text.partition("=")
        if not separator:
            raise CommandFailed(f"--set needs a name and a value, such as logprob_norm=mean, not {text!r}.")
        found[f"weights.{name.strip().removeprefix('weights.')}"] = value.strip()
    return found


def row_of(cell: dict[str, Any]) -> tuple[object, ...]:
    metrics = cell["metrics"]
    share, chosen = metrics.get("weight/ess_share"), metrics.get("weight/share_chosen")
    follows = (signed(metrics.get(f"weight/spearman_{rank}"), 2) for rank in ("reward", "length"))
    findings = ", ".join(finding["name"] for finding in cell["findings"])
    picture = spark(cell["histogram"])
    return (
        cell["preset"],
        cell["batch_size"],
        f"{cell['lambda']:g}",
        picture,
        percent(share),
        percent(cell["prompt_ess_share"]),
        percent(cell["partner_share"]),
        percent(chosen),
        *follows,
        findings,
    )


def tell_draws(cell: dict[str, Any]) -> str:
    """Return how sure Z(x) from draws is, and how many draws would do."""
    where = f"{cell['preset']}, B {cell['batch_size']}, λ {cell['lambda']:g}"
    return (
        f"{where}: the draws give log Z(x) with an error of {cell['partition_error']:.2g} nats; "
        f"for {WANTED_ERROR:g} it takes about {cell['draws_needed']} of each prompt" + tell_most_draws(cell["draws_needed"])
    )


def spark(counts: list[int]) -> str:
    """Return a histogram in one line; an empty bin is a space."""
    highest = max(counts, default=0)
    return "".join(BLOCKS[min(7, 8 * times // (highest + 1))] if times else " " for times in counts)


def show_findings(findings: list[dict[str, Any]]) -> None:
    for finding in findings:
        text = f"{finding['severity']}: {finding['title']}. {finding['evidence']} {finding['remedy']}"
        out.print(plain(text), markup=False)


def show_responses(cell: dict[str, Any]) -> None:
    for title in ("heaviest", "lightest"):
        out.print(f"\n{cell['preset']}, B {cell['batch_size']}, λ {cell['lambda']:g}: {title}", markup=False)
        sides = {1: "chosen", -1: "rejected", 0: "neither", None: ""}
        table("w", "reward", "tokens", "side", "example", "response", rows=[
            (f"{row['weight']:.3g}", "" if row["reward"] is None else f"{row['reward']:.3g}", row["num_tokens"],
             sides.get(row["preference"], ""), row["example_id"], json.dumps(row["content"][:60], ensure_ascii=False))
            for row in cell[title]
        ])  # fmt: skip


add_renaming(group, "/scorings", "a scoring")
add_sharing(group, "/scorings", "a scoring")


@group.command("delete")
def delete(
    scoring_id: str, force: Annotated[bool, typer.Option("--force", help="Don't ask, also when runs used it.")] = False
) -> None:
    """Delete a scoring that no unfinished run uses, with the scores that no other scoring shares. Runs that used it stay."""
    client = Client(Settings())
    num_runs = 0 if force else client.get(f"/scorings/{scoring_id}")["num_runs"]
    if num_runs:
        who = "1 run" if num_runs == 1 else f"{num_runs} runs"
        typer.confirm(f"This scoring was used by {who}, which will stay. Delete it all the same?", abort=True, err=True)
    client.delete(f"/scorings/{scoring_id}{'?anyway=true' if force or num_runs else ''}")
