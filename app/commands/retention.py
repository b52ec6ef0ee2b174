"""`varstudio prune`: carry out the rules of retention now, or say what they would remove."""

from typing import Annotated

import typer

from app.commands.terminal import out, table
from app.services import acts
from app.services.keeping import retention
from app.settings import Settings
from app.store.database import Database
from app.store.files.files import Files
from app.system.sizes import describe_size


def prune(dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False) -> None:
    """Remove old checkpoints, logs and scorings by the rules of the settings; workers do it by themselves too."""
    settings = Settings()
    if not dry_run:
        forget_acts(settings)
    if not retention.has_rules(settings):
        out.print(
            "No rule is set, so nothing is removed: see STUDIO_KEEP_CHECKPOINTS, STUDIO_CHECKPOINTS_DAYS, STUDIO_LOGS_DAYS and "
            "STUDIO_SCORINGS_DAYS.",
            markup=False,
        )
        return
    database = Database(settings)
    try:
        removals = retention.prune(database, Files(settings.root), settings, dry_run=dry_run)
        if removals and not dry_run:
            with database.writing() as session:
                acts.record(session, acts.at_the_server(), "studio_kept", f"{len(removals)} things were pruned by rule.")
    finally:
        database.close()
    if removals:
        table(
            "of",
            "size",
            "what",
            rows=[(removal.owner, describe_size(removal.num_bytes), removal.sentence) for removal in removals],
        )
    total = describe_size(sum(removal.num_bytes for removal in removals))
    out.print(
        f"{'Would remove' if dry_run else 'Removed'} {total} from {len({removal.owner for removal in removals})} places.",
        markup=False,
    )


def forget_acts(settings: Settings) -> None:
    database = Database(settings)
    try:
        num_removed = retention.forget_old_acts(database, settings)
    finally:
        database.close()
    if num_removed:
        out.print(f"Removed {num_removed} lines from the log of acts (STUDIO_ACTS_DAYS).", markup=False)
