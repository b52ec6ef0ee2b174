"""How commands speak: to standard output what was asked for, to standard error all else."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from app.domain.errors import StudioError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

MAX_PROBLEMS = 20


def show_error(error: StudioError) -> None:
    """The sentence, and below it the single faults when there are several."""
    err.print(error.detail, style="red", markup=False)
    for problem in error.problems[:MAX_PROBLEMS] if len(error.problems) > 1 else []:
        place = f"line {problem['line']}" if problem.get("line") else problem.get("field", "")
        err.print(f"  {place}: {problem['message']}", markup=False)


def table(*columns: str, rows: Sequence[Sequence[object]]) -> None:
    """A plain table; texts of users are never taken for markup."""
    made = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        made.add_row(*(escape("" if cell is None else str(cell)) for cell in row))
    out.print(made)


def escape(text: str) -> str:
    """Text that neither rich nor the terminal takes for an instruction."""
    from rich.markup import escape as escape_markup

    return escape_markup("".join(character if character.isprintable() else " " for character in text))


def size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"
