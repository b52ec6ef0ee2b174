"""`varstudio`: the studio from a terminal.

    varstudio up                     start the web and a worker here
    varstudio demo                   a whole alignment from nothing
    varstudio train RECIPE.yaml      one run without a server
    varstudio datasets | models | endpoints | scorings | recipes | runs | sweeps | workers …   over REST: STUDIO_URL, STUDIO_TOKEN
    varstudio prompt-sets | answers | farm      what models are asked, what they say, and the data it becomes
    varstudio compare | comparisons      models' answers side by side
    varstudio votes | vote-links | vote-link      people's votes on them, and the links by which people vote
    varstudio users | tokens | login-link | acts | db …      on the server's machine: straight to its database
    varstudio doctor                 what is wrong with this studio, and what to do
    varstudio backup | restore | prune      the whole studio in one file, and back from it; what is old by rule

Every error is a sentence on standard error, with exit status 1; 2 for a command line that can't be understood.
"""

import sys
from collections.abc import Sequence

import typer
from pydantic import ValidationError

from app.commands import (
    accounts,
    backups,
    datasets,
    doctor,
    models,
    recipes,
    retention,
    runs,
    scorings,
    sweeps,
    train,
    up,
    workers,
)
from app.commands.answering import answers, chat, chats, endpoints, farm, prompt_sets
from app.commands.comparing import comparisons, votes
from app.commands.terminal import err, show_error
from app.demonstration import flow
from app.domain.errors import StudioError
from app.settings import explain

INTERRUPTED = 130

cli = typer.Typer(
    name="varstudio",
    help="VAR Studio: align language models by reward-weighted fine-tuning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
cli.command("up")(up.up)
cli.command("demo")(flow.demo)
cli.command("train")(train.train)
cli.add_typer(datasets.group, name="datasets")
cli.add_typer(models.group, name="models")
cli.add_typer(endpoints.group, name="endpoints")
cli.add_typer(scorings.group, name="scorings")
cli.add_typer(recipes.group, name="recipes")
cli.add_typer(runs.group, name="runs")
cli.add_typer(sweeps.group, name="sweeps")
cli.add_typer(sweeps.experiments, name="experiments")
cli.add_typer(prompt_sets.group, name="prompt-sets")
cli.add_typer(answers.group, name="answers")
cli.command("farm")(farm.farm)
cli.command("compare")(comparisons.compare)
cli.add_typer(comparisons.group, name="comparisons")
cli.add_typer(votes.votes, name="votes")
cli.add_typer(votes.links, name="vote-links")
cli.command("vote-link")(votes.vote_link)
cli.command("chat")(chat.chat)
cli.add_typer(chats.group, name="chats")
cli.add_typer(workers.group, name="workers")
cli.add_typer(accounts.users, name="users")
cli.add_typer(accounts.tokens, name="tokens")
cli.command("login-link")(accounts.login_link)
cli.command("acts")(accounts.list_acts)
cli.add_typer(accounts.db, name="db")
cli.command("backup")(backups.backup)
cli.command("restore")(backups.restore)
cli.command("doctor")(doctor.doctor)
cli.command("prune")(retention.prune)


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line; returns the exit status."""
    try:
        result = cli(list(arguments), standalone_mode=False, prog_name="varstudio")
    except StudioError as error:
        show_error(error)
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except ValidationError as error:  # of the settings: commands check everything else themselves
        err.print(explain(error), style="red", markup=False)
        return 1
    except OSError as error:
        err.print(f"{error.strerror or error}: {error.filename}" if error.filename else str(error), style="red", markup=False)
        return 1
    except Exception as error:
        if not hasattr(error, "format_message"):  # the parser's own errors have one; anything else nobody foresaw
            first = next(iter(str(error).splitlines()), "")  # a database shows the values of the row in those behind it
            err.print(f"Unexpected: {type(error).__name__}: {first}", style="red", markup=False)
            return 1
        tell_usage(error.format_message())
        return int(getattr(error, "exit_code", 1))
    return result if isinstance(result, int) else 0


def tell_usage(message: str) -> None:
    """What the parser says; a command without the one it needs after it shows its help."""
    if message.startswith("Usage:"):
        err.print(message, markup=False)
    else:
        err.print(f"{message.rstrip('.')}. Try --help.", style="red", markup=False)


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
