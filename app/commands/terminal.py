"""How commands speak: to standard output what was asked for, to standard error all else."""

from collections.abc import Sequence

from rich.console import Console

from app.domain.errors import StudioError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

MAX_PROBLEMS = 20


def show_error(error: StudioError) -> None:
    """The sentence with its field, and below it the single faults when there are several."""
    place = str(error.problems[0].get("field", "")) if len(error.problems) == 1 else ""
    err.print(f"{place}: {error.detail}" if place not in error.detail else error.detail, style="red", markup=False)
    for one in error.extra.get("used_by", []):
        err.print(f"  {one['kind']} {plain(one['name'])} ({one['id']})", markup=False)
    for problem in error.problems[:MAX_PROBLEMS] if len(error.problems) > 1 else []:
        place = f"line {problem['line']}" if problem.get("line") else problem.get("field", "")
        err.print(f"  {place}: {problem['message']}", markup=False)


def table(*columns: str, rows: Sequence[Sequence[object]]) -> None:
    """Columns side by side, never cut: an id must be whole to be used."""
    for line in lines_of(columns, rows):
        out.print(line, markup=False)


def lines_of(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a table, its head first."""
    cells = [list(columns), *([plain("" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def facts(rows: Sequence[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    width = max(len(name) for name, _ in rows) + 2
    for name, value in rows:
        out.print(f"{name:<{width}}{plain(str(value))}", markup=False)


def plain(text: str) -> str:
    """Text without what a terminal would take for an instruction."""
    return "".join(character if character.isprintable() else " " for character in text)


def head(text: str) -> None:
    """What the lines below it belong to."""
    out.print(plain(text), markup=False, style="bold")


def say(text: str) -> None:
    """Print a text below its head, its lines as they are."""
    for line in text.splitlines():
        out.print(f"  {plain(line)}", markup=False)
