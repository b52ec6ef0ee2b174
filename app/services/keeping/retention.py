"""Retention by rule: old checkpoints, logs and spools of ended runs, and scorings that nobody uses any more.

A run is pruned while its row is locked and its state is final, so never while somebody resumes it. What goes is first set
aside under a name that no runner looks at, then the journal says so, and after the commit it is removed.
"""

import logging
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, NotFound
from app.domain.events import LogWritten
from app.domain.run import FINAL_STATES, RunState
from app.services import acts, scorings
from app.services.answering import chats
from app.settings import Settings
from app.store import journal
from app.store import scorings as scoring_store
from app.store.database import Database, now
from app.store.files.disk import weigh
from app.store.files.files import Files
from app.store.runs import ALL_CHECKPOINTS_REMOVED, lock_run
from app.store.signals.after_commit import after_commit
from app.store.tables import Run, Scoring
from app.system.files import remove_tree

SET_ASIDE = ".removed-"
DONE, PLANNED = " were removed", " would be removed"  # of a dry run's sentences

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Removal:
    """What goes of one run, or one scoring."""

    owner: str  # id of the run or scoring
    sentence: str
    paths: list[Path] = field(default_factory=list)
    num_bytes: int = 0


def has_rules(settings: Settings) -> bool:
    """Return whether anything that runs and users have made is ever to be removed."""
    return bool(settings.keep_checkpoints or settings.checkpoints_days or settings.logs_days or settings.scorings_days)


def forget_old_acts(database: Database, settings: Settings) -> int:
    """Remove what the log of acts no longer keeps; returns how many lines."""
    with database.writing() as session:
        return acts.forget_old(session, settings.acts_days)


def forget_old_chats(database: Database, settings: Settings) -> int:
    """Remove the chats that are not kept any longer; returns how many."""
    with database.writing() as session:
        return chats.forget_old(session, settings.chats_days)


def prune(database: Database, files: Files, settings: Settings, *, dry_run: bool = False) -> list[Removal]:
    """Remove what the rules let go, run by run; with `dry_run` only say what that would be.

    Old acts and chats go without a word.
    """
    if not dry_run:
        forget_old_acts(database, settings)
        forget_old_chats(database, settings)
    if not has_rules(settings):
        return []
    with database.reading() as session:
        at = now(session)
        final = [str(state) for state in FINAL_STATES]
        ended = session.execute(select(Run.id, Run.finished_at).where(Run.state.in_(final)).order_by(Run.id)).all()
        unused = list_unused_scorings(session, settings, at)
        idle = [one for one in unused if not scoring_store.list_unfinished(session, one)] if dry_run else []
        planned_scorings = [_plan_scoring(session, files, settings, one) for one in idle]
    removals: list[Removal] = []
    for run_id, finished_at in ended:
        planned = plan(files, settings, run_id, finished_at, at)
        if planned and not dry_run:
            planned = _prune_run(database, files, settings, run_id)
        removals += planned
    if dry_run:
        return [replace(one, sentence=one.sentence.replace(DONE, PLANNED, 1)) for one in removals] + planned_scorings
    for scoring in unused:
        removals += _prune_scoring(database, files, settings, scoring)
    return removals


def plan(files: Files, settings: Settings, run_id: str, finished_at: datetime | None, at: datetime) -> list[Removal]:
    """Return what the rules let go of a run that has ended; nothing where files are in an object store, which has rules of its
    own.
    """
    if settings.store_url:
        return []
    age = at - finished_at if finished_at is not None else timedelta(0)
    removals = []
    found = _list_folders(files.checkpoints_dir(run_id))
    kept = found[-settings.keep_checkpoints :] if settings.keep_checkpoints else found
    rule = f"of an ended run the newest {settings.keep_checkpoints} are kept"
    if settings.checkpoints_days and age > timedelta(days=settings.checkpoints_days):
        kept, rule = [], f"the run ended more than {settings.checkpoints_days:g} days ago"
    if going := [path for path in found if path not in kept]:
        names = ", ".join(path.name.removeprefix(SET_ASIDE) for path in going)
        what = f"Checkpoints were removed: {names}" if kept else f"{ALL_CHECKPOINTS_REMOVED} ({names})"
        removals.append(Removal(run_id, f"{what}, because {rule}.", going, _total(going)))
    if settings.logs_days and age > timedelta(days=settings.logs_days):
        going = _list_folders(files.run_dir(run_id) / "attempts")
        if going:
            what = f"Logs and spools of {len(going)} attempt{'s' if len(going) > 1 else ''} were removed"
            removals.append(
                Removal(run_id, f"{what}, because the run ended more than {settings.logs_days:g} days ago.", going, _total(going))
            )
    return removals


def _list_folders(parent: Path) -> list[Path]:
    """Return the folders in there, oldest number first; what an earlier pruning set aside and had no time to remove comes
    first.
    """
    with suppress(OSError):
        found = [path for path in parent.iterdir() if path.is_dir() and not path.name.endswith(".part")]
        return sorted(found, key=lambda path: (not path.name.startswith(SET_ASIDE), len(path.name), path.name))
    return []


def _total(paths: list[Path]) -> int:
    return sum(weigh(path) for path in paths)


def _prune_run(database: Database, files: Files, settings: Settings, run_id: str) -> list[Removal]:
    moved: list[tuple[Path, Path]] = []
    try:
        with database.writing() as session:
            run = lock_run(session, run_id)
            if not RunState(run.state).final:
                return []
            removals = plan(files, settings, run_id, run.finished_at, now(session))
            for path in [path for removal in removals for path in removal.paths]:
                moved.append((path, _set_aside(path)))
                after_commit(session, ("remove", str(path)), partial(remove_tree, moved[-1][1]))
            journal.append(session, run, [LogWritten(level="info", text=removal.sentence) for removal in removals])
    except NotFound:  # somebody deleted the run
        return []
    except BaseException:
        for path, aside in moved:
            with suppress(OSError):
                aside.rename(path)
        raise
    return removals


def _set_aside(path: Path) -> Path:
    """Return a name in the same folder that nothing resumes from."""
    if path.name.startswith(SET_ASIDE):
        return path
    aside = path.with_name(SET_ASIDE + path.name)
    remove_tree(aside)
    return path.rename(aside)


def list_unused_scorings(session: Session, settings: Settings, at: datetime) -> list[Scoring]:
    """Return the scorings that no run has used for as long as the rule says."""
    if not settings.scorings_days:
        return []
    query = select(Scoring).where(Scoring.used_at < at - timedelta(days=settings.scorings_days))
    return list(session.scalars(query.order_by(Scoring.id)))


def _plan_scoring(session: Session, files: Files, settings: Settings, scoring: Scoring) -> Removal:
    """Return the scoring, the scores that no other one names, and the runs that made it."""
    keys = scoring_store.list_keys(session, scoring)
    keys -= scoring_store.list_shared_keys(session, keys, but=scoring.id)
    paths = [files.scoring_dir(key) for key in sorted(keys)]
    paths += [files.run_dir(run.id) for run in scoring_store.list_makers(session, scoring.id)]
    sentence = f"The scoring “{scoring.name}” was not used for {settings.scorings_days:g} days."
    return Removal(scoring.id, sentence, paths, _total(paths))


def _prune_scoring(database: Database, files: Files, settings: Settings, scoring: Scoring) -> list[Removal]:
    """Empty when somebody uses it after all."""
    try:
        with database.reading() as session:
            removal = _plan_scoring(session, files, settings, scoring)
        with database.writing() as session:
            known = session.get(Scoring, scoring.id, with_for_update=True)
            if known is None or known.used_at != scoring.used_at:  # somebody has asked for it since it was looked up
                return []
            scorings.delete(session, files, scoring.owner_id, scoring.id, anyway=True)
    except (Conflict, NotFound):
        return []
    return [removal]
