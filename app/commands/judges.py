"""Who judges answers, as options name them."""

from typing import Annotated, Any

import typer

from app.commands.client import CommandFailed

Judges = Annotated[list[str] | None, typer.Option("--judge", help="Id of a reward model, or: length, exact; may be given again.")]
Patterns = Annotated[
    list[str] | None,
    typer.Option("--pattern", help="A regular expression, whose match is to be the reference answer's; may be given again."),
]
Llms = Annotated[
    list[str] | None, typer.Option("--llm", help="Id of an endpoint, whose language model judges; may be given again.")
]
Against = Annotated[
    str | None,
    typer.Option("--against", help="For --llm: id of the answers to compare with, in both orders; without it: grades, 1 to 10."),
]


def gather_judges(
    words: list[str] | None, patterns: list[str] | None, llms: list[str] | None, against: str | None
) -> list[dict[str, Any]]:
    """Return the judges of these options, as the REST API takes them. Raises CommandFailed."""
    if against and not llms:
        raise CommandFailed("--against says what a language model compares with: give --llm too.")
    return [
        *(judge_of(word) for word in words or []),
        *({"kind": "pattern", "pattern": pattern} for pattern in patterns or []),
        *({"kind": "llm", "endpoint": endpoint, "against": against} for endpoint in llms or []),
    ]


def require_judges(
    words: list[str] | None, patterns: list[str] | None, llms: list[str] | None, against: str | None
) -> list[dict[str, Any]]:
    """Return the judges of these options, one at least. Raises CommandFailed."""
    judges = gather_judges(words, patterns, llms, against)
    if not judges:
        raise CommandFailed("Say who judges: --judge, --pattern or --llm.")
    return judges


def judge_of(text: str) -> dict[str, Any]:
    """Return the judge that a word or a reward model's id stands for."""
    return {"kind": text} if text in ("length", "exact") else {"kind": "reward", "model": text}
