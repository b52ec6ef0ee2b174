"""`varstudio demo`: a whole alignment from nothing."""

import sys

import typer

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def demo(context: typer.Context) -> None:
    """Make data, train policy and reward model, run VAR, show what it changed."""
    from app import demonstration

    sys.exit(demonstration.run(context.args))
