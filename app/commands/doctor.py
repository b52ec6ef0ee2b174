"""`varstudio doctor`: everything that can be wrong with a studio, looked at in one go."""

import json
from typing import Annotated

import typer

from app.commands.client import token_path
from app.commands.terminal import out, plain
from app.domain.check_result import CheckResult, Level, has_error
from app.services.checkup.studio import as_of, check_all
from app.settings import Settings

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> int:
    """Check versions, database, broker, disk, GPUs, workers and rights; exit status 1 when something is broken."""
    settings = Settings()
    verdicts = check_all(settings, token_path(settings))
    status = 1 if has_error(verdicts) else 0
    if as_json:
        report = {"at": as_of(), "healthy": status == 0, "checks": [verdict.to_dict() for verdict in verdicts]}
        out.print(json.dumps(report, indent=1), markup=False)
        return status
    for verdict in verdicts:
        show(verdict)
    num_bad = sum(verdict.level is not Level.OK for verdict in verdicts)
    out.print("All is well." if not num_bad else f"{num_bad} of {len(verdicts)} checks want a look.", markup=False)
    return status


def show(verdict: CheckResult) -> None:
    """A line for the check, and one for the remedy."""
    out.print(f"{verdict.level.value:<8}", style=STYLES[verdict.level], end="", markup=False)
    out.print(f"{verdict.check:<14}{plain(verdict.sentence)}", markup=False)
    if verdict.remedy:
        out.print(f"{'':<22}→ {plain(verdict.remedy)}", markup=False)
