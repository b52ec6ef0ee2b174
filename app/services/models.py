"""Models: taken in after a look at their files (no torch), and let go when no run needs them."""

import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sqlalchemy.orm import Session

from app.domain.errors import Conflict, ModelInvalid, NotFound, Unavailable
from app.domain.model import ModelRequest
from app.domain.recipe import Method
from app.domain.run import RunState
from app.ingest.models.folder import inspect_apart
from app.services.names import read_name, tell_apart
from app.services.runs import get_next
from app.services.sharing import describe_uses, refuse_used, take
from app.settings import Settings
from app.store import models, scorings
from app.store.answering.answers import list_using_model
from app.store.database import Database, now
from app.store.files.files import DEMONSTRATION, DISK_FULL, Files
from app.store.runs import get_run, lock_run
from app.store.sharing import NOBODY, find_visible
from app.store.signals.after_commit import after_commit
from app.store.tables import Answers, Model, Run, Scoring
from app.system.files import link_or_copy, remove_tree
from app.system.identifiers import new_id

HUB_NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
HUB_ADDRESS = re.compile(r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)|hf:/)/+([^?#]+)", re.IGNORECASE)
HUB_VIEWS = ("tree", "blob", "resolve", "raw", "commit", "commits")  # before a revision in an address of the hub
REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,119}")
MODEL_FILES = {".safetensors", ".json", ".jinja", ".model", ".txt", ".md"}
CAUSAL = ("ForCausalLM", "LMHeadModel")


@dataclass(frozen=True)
class ModelCandidate:
    """A model that has been looked at and may be added."""

    kind: str
    source: str
    name: str
    path: str  # as Model.path
    revision: str | None
    facts: dict[str, Any]
    id: str = ""  # once its files are kept
    private: bool = False
    is_named: bool = False  # by somebody: such a name stays as it is


def examine(session: Session, files: Files, settings: Settings, owner_id: str, asked: ModelRequest) -> ModelCandidate:
    """Return whether the studio can use this model, without adding it; a reading session is enough.

    A look can take seconds: where others wait for the database, call `keep` before the transaction, `add` in it, and `discard`
    when it fails. Raises ModelInvalid with the field; NotFound or Conflict for a run that isn't there or hasn't succeeded.
    """
    if asked.revision and asked.source != "hub":
        raise ModelInvalid.at("revision", "Only a model of the hub has a revision; leave it empty.")
    if asked.source == "hub":
        return examine_hub(asked)
    if asked.source == "folder":
        return examine_folder(asked, roots_of(settings))
    return examine_run(session, files, owner_id, asked)


def examine_hub(asked: ModelRequest) -> ModelCandidate:
    """Return a name and a revision; the files are checked by the worker that downloads them."""
    name, named_revision = read_hub_address(asked.name.strip())
    revision = asked.revision or named_revision
    if not HUB_NAME.fullmatch(name):
        raise ModelInvalid.at(
            "name", 'Give the model\'s name on the hub, such as "HuggingFaceTB/SmolLM2-135M", or the address of its page there.'
        )
    if revision and not REVISION.fullmatch(revision):
        raise ModelInvalid.at("revision", "A revision is a branch, a tag or a commit, of letters, digits and . _ - /.")
    return ModelCandidate(asked.kind, "hub", name, name, revision or None, {})


def read_hub_address(text: str) -> tuple[str, str | None]:
    """Return the name and the revision of which a pasted address of the hub speaks; what is no address stays a name.

    Raises: ModelInvalid for the page of a data set or a space.
    """
    address = HUB_ADDRESS.match(text)
    if address is None:
        return text, None
    owner, name, view, revision, *_ = [*map(unquote, address[1].strip("/").split("/")), "", "", "", ""]
    if owner in ("datasets", "spaces"):
        raise ModelInvalid.at("name", f"This is an address of the hub's {owner}: a model's is like huggingface.co/owner/name.")
    if name in HUB_VIEWS:  # a model of the hub's early days, without an owner
        return owner, view or None
    return f"{owner}/{name}".rstrip("/"), revision or None if view in HUB_VIEWS else None


def examine_folder(asked: ModelRequest, roots: Sequence[Path]) -> ModelCandidate:
    folder = allowed_folder(asked.path, roots)
    facts = check_folder(folder, roots, asked.kind)
    named = asked.name.strip()
    return ModelCandidate(asked.kind, "folder", named or folder.name[:200], str(folder), None, facts, is_named=bool(named))


def examine_run(session: Session, files: Files, owner_id: str, asked: ModelRequest) -> ModelCandidate:
    run = get_run(session, owner_id, asked.run_id)
    if run.state != RunState.SUCCEEDED:
        raise Conflict(f"Run {run.name} is {run.state}: only a succeeded run has a model to take.")
    folder = files.result_dir(run.id)
    if not folder.is_dir():
        raise NotFound(f"Run {run.name} has left no model among its artifacts.")
    made = "reward" if run.recipe.get("method") == Method.REWARD_MODEL else "policy"
    if asked.kind != made:
        raise ModelInvalid.at("kind", f"Run {run.name} has trained a {made} model: add it as kind {made}.")
    facts = {**check_folder(folder, [folder], asked.kind), "run_id": run.id}
    hidden = find_visible(session, Run, NOBODY, run.id) is None
    named = asked.name.strip()
    return ModelCandidate(asked.kind, "run", named or run.name, str(folder), None, facts, private=hidden, is_named=bool(named))


def roots_of(settings: Settings) -> list[Path]:
    """Return the folders that models may be taken from: those of the settings, and what `varstudio demo` has made for us here."""
    ours = settings.root / DEMONSTRATION
    return [*settings.model_roots, *([ours] if ours.is_dir() else [])]


def allowed_folder(path: str, roots: Sequence[Path]) -> Path:
    """Return the folder with all links resolved, when it lies under one of the allowed roots.

    Whether a folder elsewhere exists is not told. Raises: ModelInvalid.
    """
    if not roots:
        raise ModelInvalid.at("path", "No folder of this machine may be used yet: name the allowed ones in STUDIO_MODEL_ROOTS.")
    try:
        folder = Path(path).resolve()
    except (OSError, ValueError, RuntimeError):
        raise ModelInvalid.at("path", "This isn't a path of a folder.") from None
    if not path.startswith("/") or not any(folder.is_relative_to(root.resolve()) for root in roots):
        raise ModelInvalid.at("path", f"Give a full path under an allowed folder: {', '.join(str(root) for root in roots)}.")
    if not is_folder(folder):
        raise ModelInvalid.at("path", f"There is no folder {folder}.")
    return folder


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # longer than the file system takes
        return False


def check_folder(folder: Path, roots: Sequence[Path], kind: str) -> dict[str, Any]:
    """Return the facts of a folder that can serve as `kind`.

    Raises: ModelInvalid.
    """
    facts = inspect_apart(folder, list(roots))
    architecture = facts["architecture"]
    if kind == "policy" and not architecture.endswith(CAUSAL):
        raise ModelInvalid.at("kind", f"A policy must be a causal language model (…ForCausalLM); this is {architecture}.")
    if kind == "reward" and not architecture.endswith("ForSequenceClassification"):
        raise ModelInvalid.at(
            "kind", f"A reward model must be a …ForSequenceClassification with one label; this is {architecture}."
        )
    if kind == "reward" and facts["num_labels"] != 1:
        raise ModelInvalid.at("kind", f"A reward model gives one number; this classifier has {facts['num_labels']} labels.")
    return facts


def keep(files: Files, candidate: ModelCandidate) -> ModelCandidate:
    """Return a run's files in a folder of the model's own, so that the run may be deleted later; others stay where they are.

    Before the transaction that adds it: a large model takes minutes on its way into an object store.
    """
    if candidate.source == "folder":
        return replace(candidate, path=files.name_of(Path(candidate.path)))
    if candidate.source != "run":
        return candidate
    model_id = new_id("model")
    folder = files.model_dir(model_id)
    path = keep_files(Path(candidate.path), folder)
    try:
        files.share(folder)
    except BaseException:
        remove_tree(folder)
        raise
    return replace(candidate, id=model_id, path=files.name_of(path))


def discard(files: Files, candidate: ModelCandidate) -> None:
    """Remove what was kept for a candidate that could not be added."""
    if candidate.id:
        files.remove(files.model_dir(candidate.id))


@contextmanager
def discarding(files: Files, candidate: ModelCandidate) -> Iterator[None]:
    """Let a candidate's kept files go when it is not added."""
    try:
        yield
    except BaseException:
        discard(files, candidate)
        raise


def add(session: Session, owner_id: str, candidate: ModelCandidate, *, is_copy: bool = False) -> Model:
    """Add an examined model whose files are kept.

    Raises: Conflict when the folder, with the same files, is there already, unless it is to be there twice.
    """
    if candidate.source == "folder" and not is_copy:
        refuse_same(models.find_same_folder(session, owner_id, candidate.kind, candidate.path), candidate)
    name = candidate.name
    if not candidate.is_named:
        name = tell_apart(session, Model, owner_id, name, Model.kind == candidate.kind)
    model = Model(
        id=candidate.id or new_id("model"),
        owner_id=owner_id,
        private=candidate.private,
        name=name,
        kind=candidate.kind,
        source=candidate.source,
        path=candidate.path,
        revision=candidate.revision,
        facts=candidate.facts,
        created_at=now(session),
    )
    session.add(model)
    session.flush()
    session.refresh(model, ["owner"])  # it is shown after the transaction
    return model


def examine_within(database: Database, files: Files, settings: Settings, owner_id: str, asked: ModelRequest) -> ModelCandidate:
    """Examine a model in a reading session of its own and keep its files, before the transaction that adds it.

    Raises: as `examine`.
    """
    with database.reading() as session:
        candidate = examine(session, files, settings, owner_id, asked)
    return keep(files, candidate)


def take_within(database: Database, files: Files, settings: Settings, owner_id: str, run_id: str) -> Model:
    """Return the model of a run that a recipe follows, as it was taken or by taking it now, in sessions of its own; of two who
    ask at the same moment both get the one that was there first.

    Raises Conflict where no recipe follows or there is no model yet; and as `examine` and `add`.
    """
    with database.reading() as session:
        get_next(session, owner_id, run_id)
        known = models.find_of_run(session, owner_id, run_id)
    if known is not None:
        return known
    asked = ModelRequest(kind="policy", source="run", run_id=run_id)
    candidate = examine_within(database, files, settings, owner_id, asked)
    with discarding(files, candidate), database.writing() as session:
        lock_run(session, run_id)
        known = models.find_of_run(session, owner_id, run_id)
        model = known or add(session, owner_id, candidate)
    if known is not None:
        discard(files, candidate)
    return model


def add_within(
    database: Database, files: Files, owner_id: str, candidate: ModelCandidate, *, private: bool = False, is_copy: bool = False
) -> Model:  # fmt: skip
    """Add an examined model in a transaction of its own; its kept files go again when that fails.

    Private is also what is taken of a private run. Raises: as `add`.
    """
    with discarding(files, candidate), database.writing() as session:
        return add(session, owner_id, replace(candidate, private=candidate.private or private), is_copy=is_copy)


def copy_within(database: Database, files: Files, owner_id: str, model_id: str, name: str) -> Model:
    """Register a model once more, under another name; files that are the studio's own are kept a second time.

    Raises: NotFound; InvalidInput for a name that can't be.
    """
    with database.reading() as session:
        model = models.get_model(session, owner_id, model_id)
    path = model.path if model.source == "hub" else str(files.place_of(model.path))
    if model.source == "run":
        files.bring(Path(path))
    named = read_name(Model, name)
    copied = ModelCandidate(
        model.kind, model.source, named, path, model.revision, model.facts, private=model.private, is_named=True
    )
    return add_within(database, files, owner_id, keep(files, copied), is_copy=True)


def list_files(session: Session, files: Files, settings: Settings, owner_id: str, model_id: str) -> dict[str, Path]:
    """Return the files of a model by their names within its folder; links out of the allowed folders are left out.

    Raises: NotFound, also for a model of the hub, whose files are there.
    """
    model = models.get_model(session, owner_id, model_id)
    if model.source == "hub":
        raise NotFound(f"The files of {model.name} are on the hub, as {model.path}: download them there.")
    folder = files.place_of(model.path)
    if model.source == "run":
        files.bring(folder)
    roots = [root.resolve() for root in (folder, *(roots_of(settings) if model.source == "folder" else ()))]
    found = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.suffix in MODEL_FILES and path.is_file() and any(path.resolve().is_relative_to(root) for root in roots)
    }
    if not found:
        raise NotFound(f"The files of {model.name} are not there any more.")
    return found


def refuse_same(known: Sequence[Model], candidate: ModelCandidate) -> None:
    """Raises: Conflict that names the model; a folder whose files have changed since is another model."""
    for model in known:
        if model.facts.get("sha256") == candidate.facts.get("sha256"):
            sentence = f"This folder is here already, as the {model.kind} model “{model.name}” ({model.id}): use that one."
            raise Conflict(sentence, problems=[{"field": "path", "message": sentence}])


def keep_files(folder: Path, to: Path) -> Path:
    """Hard links where the file system has them, copies elsewhere; nothing half-made stays.

    Raises: NotFound where they are deleted meanwhile, Unavailable when the disk is full.
    """
    try:
        shutil.copytree(folder, to, copy_function=link_or_copy)
    except BaseException as error:
        remove_tree(to)
        said = str(error) if isinstance(error, OSError) else ""  # of many files, copytree raises but their texts
        if os.strerror(errno.ENOENT) in said:
            raise NotFound("The model's files were deleted while they were taken: look at what is still there.") from error
        if os.strerror(errno.ENOSPC) in said:
            raise Unavailable(DISK_FULL, retry_after_seconds=60) from error
        raise
    return to


def check(session: Session, settings: Settings, owner_id: str, model_id: str) -> list[dict[str, Any]]:
    """Return what is wrong with a registered model's files now; empty: nothing. A hub model's files are not here to look at."""
    model = models.get_model(session, owner_id, model_id)
    if model.source == "hub":
        return []
    folder = settings.root / model.path
    roots = roots_of(settings) if model.source == "folder" else [folder]
    try:
        facts = check_folder(allowed_folder(str(folder), roots), roots, model.kind)
    except ModelInvalid as error:
        return error.problems
    if facts["sha256"] != model.facts.get("sha256"):
        return [{"field": "path", "message": "The files have changed since the model was added. Add it again under a new name."}]
    return []


def check_within(database: Database, settings: Settings, owner_id: str, model_id: str) -> list[dict[str, Any]]:
    """Check in a reading session of its own."""
    with database.reading() as session:
        return check(session, settings, owner_id, model_id)


def delete(session: Session, files: Files, user_id: str, model_id: str) -> None:
    """Forgets a model; a folder given by a user stays as it is.

    Raises: NotFound, Forbidden; Conflict while a run or a scoring uses it.
    """
    model = take(session, user_id, Model, model_id, "deleted")
    runs, scored = models.list_runs_using(session, model_id), scorings.list_using_model(session, model_id)
    refuse_used(session, user_id, "this model", [("run", Run, runs), ("scoring", Scoring, scored)])
    uses = describe_uses(session, user_id, Answers, list_using_model(session, model_id))
    if uses.num:
        which = f"{uses.num} answers were given or judged" if uses.num > 1 else f"The answers {uses.name} were given or judged"
        raise uses.refuse(f"{which} by this model. Delete these answers first.", "answers")
    session.delete(model)
    after_commit(session, ("files", model_id), lambda: files.remove(files.model_dir(model_id)))
