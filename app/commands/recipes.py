"""A recipe as the terminal gives it: a file's settings, and options that replace what the file says.

`varstudio recipes`: recipes kept as templates, taken out of runs, written to files and read from them, over REST.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from app.commands.client import Client, CommandFailed, Mine, Private, add_renaming, add_sharing, owner_of
from app.commands.terminal import out, table
from app.settings import Settings
from app.system.files import writing

MAX_DOCUMENT_BYTES = 2**20
group = typer.Typer(no_args_is_help=True, help="Recipe templates: settings under a name, to begin launches from.")
FURTHER = ("second", "third")  # reward models beside the first
OPTIONS = {"policy.model": "--policy"} | {  # named unlike their fields
    f"reward.{name}": "--reward" for name in ("source", "model", *FURTHER)
}
REWARD_HELP = "Id of the reward model, or of two or three with commas between: mean less deviation. Or: rating, preference."


def read_document(path: Path) -> Any:
    """Return a small YAML or JSON file, as plain data.

    Raises: CommandFailed, naming the field of what JSON has no word for, such as a date.
    """
    if not path.is_file():
        raise CommandFailed(f"There is no file {path}.")
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise CommandFailed(f"{path} is larger than {MAX_DOCUMENT_BYTES:,} bytes.")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        raise CommandFailed(f"{path} can't be read as YAML{f' (line {where.line + 1})' if where else ''}.") from error
    except (ValueError, ArithmeticError, LookupError, AttributeError) as error:  # as PyYAML's own readers of values raise them
        raise CommandFailed(f"{path} can't be read as YAML: it holds a number, a date or a tag that has no value.") from error
    refuse_unplain(document, path)
    return document


def refuse_unplain(value: Any, path: Path, field: str = "") -> None:
    """Raise CommandFailed for what YAML reads as something that JSON has no word for."""
    if isinstance(value, dict):
        for name, part in value.items():
            refuse_unplain(part, path, f"{field}.{name}".strip("."))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            refuse_unplain(part, path, f"{field}.{place}".strip("."))
    elif not isinstance(value, str | int | float | bool | None):
        kind = type(value).__name__
        raise CommandFailed(f"{field or 'All'} of {path} is read as a {kind}: put it in quotes where text is meant.")


def read_recipe(path: Path | None) -> dict[str, Any]:
    """Return the settings in a recipe's file; none without one. Raises: CommandFailed."""
    body = read_document(path) if path else {}
    if not isinstance(body, dict):
        raise CommandFailed(f"{path} should hold a recipe: settings by name.")
    return body


@contextmanager
def named_as_typed(sections: dict[str, dict[str, Any]]) -> Iterator[None]:
    """Provide a refusal of what an option gave names that option, not the recipe's field."""
    given = {
        f"{section}.{key}".strip("."): OPTIONS.get(f"{section}.{key}", f"--{key.replace('_', '-')}")
        for section, options in sections.items()
        for key, value in options.items()
        if value is not None
    }
    try:
        yield
    except CommandFailed as error:
        fields = [str(problem.get("field", "")) for problem in error.problems]
        problems = [{**problem, "field": given.get(field, field)} for problem, field in zip(error.problems, fields, strict=True)]
        field, _, rest = error.detail.partition(" ")
        raise CommandFailed(f"{given.get(field, field)} {rest}".strip(), problems=problems, extra=error.extra) from None


def reward_of(reward: str | None) -> dict[str, Any]:
    """Return the reward's settings of `--reward`: a source, or the ids of up to three reward models."""
    if reward is None or reward in {"rating", "preference"}:
        return {"source": reward}
    first, *further = (name.strip() for name in reward.split(","))
    if len(further) > len(FURTHER):
        raise CommandFailed(f"--reward names {1 + len(further)} reward models: at most {1 + len(FURTHER)} count as one.")
    return {"source": "model", "model": first, **dict(zip(FURTHER, further, strict=False))}


def merge(body: dict[str, Any], sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the recipe with the options that were given."""
    merged = dict(body)
    for section, options in sections.items():
        given = {key: value for key, value in options.items() if value is not None}
        if not given:
            continue
        if section:
            there = merged.get(section) or {}
            if not isinstance(there, dict):
                raise CommandFailed(f"{section} must be an object with fields, not {there!r:.60}.")
            merged[section] = {**there, **given}
        else:
            merged |= given
    return merged


@group.command("list")
def list_(limit: Annotated[int, typer.Option(min=1, max=200)] = 50, mine: Mine = False) -> None:
    """List templates, newest first."""
    found = Client(Settings()).get("/recipe-templates", limit=limit, mine=mine)["items"]
    rows = [(one["id"], one["name"], one["recipe"]["method"], one["created_at"][:16], owner_of(one)) for one in found]
    table("id", "name", "method", "kept", "owner", rows=rows)


@group.command("save")
def save(
    run_id: Annotated[str, typer.Argument(help="The run whose recipe is kept.")],
    name: Annotated[str, typer.Option(help="Empty: the run's.")] = "",
    private: Private = False,
) -> None:
    """Keep a run's recipe as a template; prints its id."""
    made = Client(Settings()).post("/recipe-templates", {"run": run_id, "name": name}, params={"private": private})
    out.print(made["id"], markup=False)


@group.command("import")
def import_(
    recipe: Annotated[Path, typer.Argument(help="A recipe, YAML or JSON; data set and models may be missing.")],
    name: Annotated[str, typer.Option(help="Empty: the recipe's own, or the file's.")] = "",
    private: Private = False,
) -> None:
    """Keep the recipe of a file as a template; prints its id. What no recipe has is refused by its name."""
    settings = read_recipe(recipe)
    body = {"name": name or str(settings.get("name") or recipe.stem), "recipe": settings}
    with named_as_in_the_file():
        made = Client(Settings()).post("/recipe-templates", body, params={"private": private})
    out.print(made["id"], markup=False)


@contextmanager
def named_as_in_the_file() -> Iterator[None]:
    """Provide a refusal of what a file says names its settings without the field of the request that it went in."""
    try:
        yield
    except CommandFailed as error:
        problems = [{**problem, "field": str(problem.get("field", "")).removeprefix("recipe.")} for problem in error.problems]
        raise CommandFailed(error.detail.removeprefix("recipe."), problems=problems, extra=error.extra) from None


@group.command("export")
def export(
    key: Annotated[str, typer.Argument(metavar="ID", help="Of a template, or of a run.")],
    to: Annotated[Path | None, typer.Option(help="A file; otherwise it is printed.")] = None,
) -> None:
    """Write a recipe as JSON, which the launch form imports and `varstudio runs launch` launches."""
    noun = "runs" if key.startswith("run_") else "recipe-templates"
    found = Client(Settings()).get(f"/{noun}/{key}")
    if not found["recipe"]:
        raise CommandFailed(f"{found['name']} follows no recipe: it answers prompts.")
    text = json.dumps(found["recipe"], indent=2, ensure_ascii=False) + "\n"
    if to is None:
        out.print(text, markup=False, highlight=False, soft_wrap=True, end="")
        return
    with writing(to) as partial:
        partial.write_text(text, encoding="utf-8")


@group.command("delete")
def delete(template_id: str) -> None:
    """Delete a template; what was launched from it stays."""
    Client(Settings()).delete(f"/recipe-templates/{template_id}")


add_renaming(group, "/recipe-templates", "a template")
add_sharing(group, "/recipe-templates", "a template")
