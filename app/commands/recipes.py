"""A recipe as the terminal gives it: a file's settings, and options that replace what the file says."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from app.commands.client import CommandFailed

MAX_DOCUMENT_BYTES = 2**20
OPTIONS = {"policy.model": "--policy", "reward.model": "--reward", "reward.source": "--reward"}  # named unlike their fields


def read_document(path: Path) -> Any:
    """Return a small YAML or JSON file.

    Raises: CommandFailed.
    """
    if not path.is_file():
        raise CommandFailed(f"There is no file {path}.")
    if path.stat().st_size > MAX_DOCUMENT_BYTES:
        raise CommandFailed(f"{path} is larger than {MAX_DOCUMENT_BYTES:,} bytes.")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        raise CommandFailed(f"{path} can't be read as YAML{f' (line {where.line + 1})' if where else ''}.") from error


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
    if reward in {None, "rating", "preference"}:
        return {"source": reward}
    return {"source": "model", "model": reward}


def merge(body: dict[str, Any], sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the recipe with the options that were given."""
    merged = dict(body)
    for section, options in sections.items():
        given = {key: value for key, value in options.items() if value is not None}
        if not given:
            continue
        if section:
            merged[section] = {**(merged.get(section) or {}), **given}
        else:
            merged |= given
    return merged
