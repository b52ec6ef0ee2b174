"""An attempt before it has a runner, where hosts share no folder: what it needs is fetched from the object store first.

A thread fetches; meanwhile the lease is renewed, and cancelling, stopping and losing the run work as for a running attempt.
Once all is here, the runner is started and the attempt goes on as a RunningAttempt.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import select

from app.domain.answering.answers import RunModel, read_choice
from app.domain.errors import NotFound, RecipeInvalid, StaleToken, StudioError, Unavailable
from app.domain.events import OutcomeReached
from app.domain.preview.readings import ReadingJob
from app.domain.preview.weights import PreviewJob
from app.domain.recipe import Recipe
from app.domain.run import Outcome, RunKind
from app.services import attempts
from app.settings import Settings
from app.store import checkpoints, scorings
from app.store.database import Database
from app.store.files.object_folders import fetch_tree, find_tree, list_files
from app.store.files.objects import Check, Interruption, ObjectDamaged
from app.store.files.shared_files import SharedFiles
from app.store.tables import Answers, Dataset, Judgement, Model, Run
from app.system.files import remove_tree
from worker.supervision.attempt import RunningAttempt
from worker.supervision.leases import LeaseKeeper
from worker.supervision.sending import CARRIED, LOGS, PATIENCE_SECONDS, Delivery, deliver_all, parts_key

RETRY_SECONDS = 2.0
WEIGHTS = ".safetensors"

log = logging.getLogger(__name__)


class Abandoned(Interruption):
    """The attempt shall not begin here any more."""


class Arrival:
    """`advance` as of a RunningAttempt.

    `take_over` settles what earlier attempts left here and is told how to send what one of them made that had succeeded; True
    when nothing is left to do.
    """

    def __init__(
        self, database: Database, settings: Settings, files: SharedFiles, claim: attempts.Claim, slots: Sequence[int], *,
        take_over: Callable[[Callable[[], None]], bool], spawn: Callable[[Delivery], RunningAttempt],
        give_up: Callable[[attempts.Claim, Exception], None],
    ) -> None:  # fmt: skip
        self.claim, self.slots = claim, tuple(slots)
        self._database, self._settings, self._files = database, settings, files
        self._take_over, self._spawn, self._give_up = take_over, spawn, give_up
        self._attempt: RunningAttempt | None = None
        self._is_cancelled = self._is_stopped = self._is_lost = False
        self._is_settled = False
        self._failure: Exception | None = None
        self._began_at = time.monotonic()
        self._lease = LeaseKeeper(database, settings, claim)
        self.log = logging.LoggerAdapter(log, {"run_id": claim.run_id, "attempt": claim.attempt})
        self._thread = threading.Thread(target=self._run, name=f"arrival-{claim.run_id}", daemon=True)
        self._thread.start()

    def advance(self) -> bool:
        """Do what is due. True when the attempt is over and the run is in other hands, or ended."""
        if self._attempt is not None:
            return self._attempt.advance()
        try:
            self._is_cancelled |= self._lease.renew()
            return not self._thread.is_alive() and self._conclude()
        except StaleToken:
            self.log.warning("another attempt owns the run now: it does not begin here")
            self._is_lost = True
            return True
        except Unavailable as error:
            self.log.warning("the database is away, the attempt waits: %s", error)
            return False

    def describe(self) -> dict[str, Any]:
        """As of a RunningAttempt."""
        if self._attempt is not None:
            return self._attempt.describe()
        own = {"run_id": self.claim.run_id, "attempt": self.claim.attempt, "slots": list(self.slots), "pid": 0}
        return {**own, "spool_lag_bytes": 0, "spool_lag_seconds": 0.0}

    def cancel(self) -> None:
        """End the attempt for good."""
        self._is_cancelled = True
        if self._attempt is not None:
            self._attempt.cancel()

    def stop(self) -> None:
        """Leave the run to another worker, because this one goes."""
        self._is_stopped = True
        if self._attempt is not None:
            self._attempt.stop()

    def kill_as_stale(self) -> None:
        """The run is in other hands: end without a word."""
        self._is_lost = True
        if self._attempt is not None:
            self._attempt.kill_as_stale()

    def _conclude(self) -> bool:
        if self._is_settled:
            return True
        if self._is_cancelled or self._is_stopped:
            kind = Outcome.CANCELLED if self._is_cancelled else Outcome.INTERRUPTED
            self._end(OutcomeReached(outcome=kind, reason="" if self._is_cancelled else "The worker was stopped."))
            return True
        if isinstance(self._failure, Unavailable):
            self._end(OutcomeReached(outcome=Outcome.INTERRUPTED, reason=self._failure.detail))
            return True
        try:
            if self._failure is not None:
                raise self._failure
            self._attempt = self._begin()
        except (StudioError, OSError, ValueError) as error:
            if isinstance(error, (StaleToken, Unavailable)):
                raise
            self.log.exception("the runner could not be started", exc_info=error)
            self._give_up(self.claim, error)
            return True
        return False

    def _begin(self) -> RunningAttempt:
        delivery = Delivery(self._files, self.claim)
        try:
            return self._spawn(delivery)
        except BaseException:  # it is tried again, or given up
            delivery.close()
            raise

    def _end(self, outcome: OutcomeReached) -> None:
        with self._database.writing() as session:
            attempts.finish(session, self.claim.run_id, self.claim.token, outcome)

    def _check(self) -> None:
        if self._is_cancelled or self._is_stopped or self._is_lost:
            raise Abandoned

    def _run(self) -> None:
        while True:
            try:
                self._check()
                self._settle_and_fetch()
            except Abandoned:
                return
            except Unavailable as error:
                if time.monotonic() - self._began_at > PATIENCE_SECONDS:
                    self._failure = error
                    return
                self.log.warning("the attempt can't begin yet: %s", error)
                time.sleep(RETRY_SECONDS)
            except Exception as error:  # told by the loop, which owns the claim
                self._failure = error
                return
            else:
                return

    def _settle_and_fetch(self) -> None:
        earlier = self.claim.spool_attempt
        spool = self._files.attempt_dir(self.claim.run_id, earlier) / "events.jsonl"
        was_here = bool(earlier) and spool.exists()
        (self._files.run_dir(self.claim.run_id) / CARRIED).unlink(missing_ok=True)

        def deliver() -> None:
            delivery = Delivery(self._files, self.claim, earlier)
            try:
                deliver_all(delivery, spool, self._check)
            finally:
                delivery.close()

        if self._take_over(deliver):
            self._is_settled = True
            return
        if not was_here:
            fetch_checkpoints(self._database, self._files, self.claim, self._check)
        fetch_ingredients(self._database, self._files, self.claim, self._check, was_here=was_here)


def fetch_ingredients(
    database: Database, files: SharedFiles, claim: attempts.Claim, check: Check, *, was_here: bool = False
) -> None:
    """The data set, the models that the studio keeps, and the scores that there are. Raises RecipeInvalid, Unavailable.

    `was_here`: the attempt before was on this host, which has all that it has made.
    """
    if claim.kind is RunKind.ANSWERS:
        fetch_for_answers(database, files, claim, check, was_here=was_here)
        return
    recipe = Recipe.model_validate(claim.recipe)
    with database.reading() as session:
        dataset = session.get(Dataset, recipe.dataset)
        rewards = {"reward.model": recipe.reward.model, **recipe.reward.further, "reward.judge": recipe.reward.judge}
        named = {"policy.model": recipe.policy.model, **rewards}
        models = {field: session.get(Model, model_id) for field, model_id in named.items() if model_id}
        keys = scorings.list_keys_for(session, recipe.dataset, recipe.policy.model)
    if dataset is not None:
        files.bring(files.dataset_dir(dataset.id), ["examples.parquet"], check)
        if not (files.dataset_dir(dataset.id) / "examples.parquet").is_file():
            raise RecipeInvalid.at(
                "dataset", f"The data set “{dataset.name}” is not in the studio's store {files.store.url}: upload it again."
            )
    for field, model in models.items():
        if model is not None:
            _fetch_model(files, field, model, check)
    for key in sorted(keys):
        files.bring(files.scoring_dir(key), check=check)


def fetch_for_answers(database: Database, files: SharedFiles, claim: attempts.Claim, check: Check, *, was_here: bool) -> None:
    """The prompts, the answers and scores that there are, and the models that are asked. Raises RecipeInvalid, Unavailable."""
    with database.reading() as session:
        run = session.get_one(Run, claim.run_id)
        answers = session.get(Answers, run.answers_id) if run.answers_id else None
        if answers is None:
            return  # the runner's spec says it in a sentence
        judging = select(Judgement.model_id).where(Judgement.answers_id == answers.id, Judgement.facts.is_(None))
        ids = {answers.model_id, *session.scalars(judging)} - {None}
        models = list(session.scalars(select(Model).where(Model.id.in_(ids))))
        choice = read_choice(answers.model)
        judged = select(Judgement.judge).where(Judgement.answers_id == answers.id, Judgement.facts.is_(None))
        opponents = {judge["against"] for judge in session.scalars(judged) if judge.get("against")}
    for folder in (files.prompt_set_dir(answers.prompt_set_id), *map(files.answers_dir, opponents)):
        files.bring(folder, check=check)
    if not was_here:
        files.bring(files.answers_dir(answers.id), check=check)
        fetch_parts(files, claim, answers.id, check)
    for model in models:
        _fetch_model(files, "model", model, check)
    if isinstance(choice, RunModel):
        fetch_step(database, files, choice, check)


def fetch_parts(files: SharedFiles, claim: attempts.Claim, answers_id: str, check: Check) -> None:
    """The answers as far as the newest earlier attempt had sent them that arrived whole. Raises Unavailable."""
    for number in range(claim.attempt - 1, 0, -1):
        with suppress(NotFound, ObjectDamaged):
            fetch_tree(files.store, parts_key(files, claim.run_id, number), files.answers_dir(answers_id), check=check)
            return


def fetch_step(database: Database, files: SharedFiles, choice: RunModel, check: Check) -> None:
    """The checkpoint of the step that is to answer, where one is named. Raises Unavailable."""
    with database.reading() as session:
        reached = checkpoints.list_reached(session, choice.run) if choice.step is not None else []
    for checkpoint in reached:
        key = f"{files.key_of(files.attempt_dir(choice.run, checkpoint.attempt))}/checkpoints/{checkpoint.name}"
        if checkpoint.step == choice.step and find_tree(files.store, key) is not None:
            fetch_tree(files.store, key, files.checkpoints_dir(choice.run) / checkpoint.name, check=check, trusting=True)


def _fetch_model(files: SharedFiles, field: str, model: Model, check: Check) -> None:
    if model.source == "run":
        files.bring(files.model_dir(model.id), check=check)
        if not files.model_dir(model.id).is_dir():
            raise RecipeInvalid.at(
                field, f"The model “{model.name}” is not in the studio's store {files.store.url}: take it from its run again."
            )
    elif model.source == "folder" and not files.place_of(model.path).is_dir():
        raise RecipeInvalid.at(
            field,
            f"This worker has no folder {model.path} of the model “{model.name}”: folders under STUDIO_MODEL_ROOTS are not "
            "copied, so put it at the same path on every worker, or take the model from the hub or from a run.",
        )


def fetch_checkpoints(database: Database, files: SharedFiles, claim: attempts.Claim, check: Check) -> None:
    """The newest checkpoints of the run's present line, in place of whatever an earlier attempt left on this host.

    They come as they are in the store: the runner verifies them, names a damaged one, and goes on from the one before.
    """
    with database.reading() as session:
        reached = checkpoints.list_reached(session, claim.run_id)
    folder, artifacts = files.checkpoints_dir(claim.run_id), files.artifacts_dir(claim.run_id)
    remove_tree(folder)
    remove_tree(artifacts)
    artifacts.mkdir(parents=True)
    num_wanted = max(2, claim.keeps_checkpoints)
    for checkpoint in reached:
        key = f"{files.key_of(files.attempt_dir(claim.run_id, checkpoint.attempt))}/checkpoints/{checkpoint.name}"
        if num_wanted and find_tree(files.store, key) is not None:
            fetch_tree(files.store, key, folder / checkpoint.name, check=check, trusting=True)
            _take_logs(folder / checkpoint.name, artifacts)
            num_wanted -= 1


def _take_logs(checkpoint: Path, artifacts: Path) -> None:
    """The records up to a checkpoint came with it; those of the newest are the ones to go on in."""
    for name in LOGS:
        path = list_files(checkpoint).get(f"log-{name}")
        if path is not None:
            path.replace(artifacts / name) if not (artifacts / name).exists() else path.unlink()


def fetch_preview(files: SharedFiles, job: PreviewJob | ReadingJob, check: Check) -> None:
    """The scores that a preview is computed from, or the model that reads, and the examples. Raises Unavailable."""
    if isinstance(job, ReadingJob):
        for source in (job.model, *([job.reward] if job.reward else [])):
            if source.source == "folder" and Path(source.path).is_relative_to(files.root):
                _fetch_small_files(files, Path(source.path), check)
    else:
        for key in (job.index_key, job.logprob_key, job.reward_key):
            if key:
                files.bring(files.scoring_dir(key), check=check)
    if job.dataset_path:
        files.bring(Path(job.dataset_path).parent, ["examples.parquet"], check)


def fetch_models(files: SharedFiles, folders: Sequence[Path], check: Check) -> None:
    """The models that the studio keeps, of these folders. Raises Unavailable."""
    for folder in folders:
        if folder.is_relative_to(files.root) and find_tree(files.store, files.key_of(folder)) is not None:
            files.bring(folder, check=check)


def _fetch_small_files(files: SharedFiles, folder: Path, check: Check) -> None:
    """A model's files but its weights, which a reading needs none of."""
    tree = find_tree(files.store, files.key_of(folder))
    if tree is not None:
        files.bring(folder, [name for name in tree.files if not name.endswith(WEIGHTS)], check)
