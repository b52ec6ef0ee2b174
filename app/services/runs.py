"""What a user can do with runs: launch, cancel, resume, clone, delete. Nothing here commits.

The other side, what a worker does with them, is in `attempts`.
"""

import hashlib
import json
from datetime import date
from functools import partial
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, InvalidInput
from app.domain.events import LogWritten, StateChanged
from app.domain.recipe import Method, Recipe, revive_recipe
from app.domain.remedies import follow_tuning, make_tuning
from app.domain.run import RunKind, RunState, can_move
from app.domain.training.methods import WITH_REFERENCE
from app.services import provenance
from app.services.names import name_copy, tell_apart
from app.services.recipes import Ingredients, find_ingredients, freeze_date
from app.services.sharing import describe_uses, take
from app.store import journal
from app.store.database import add_once, now
from app.store.files.files import Files
from app.store.runs import get_run, has_lost_checkpoints, lock_run
from app.store.signals.after_commit import after_commit
from app.store.tables import Model, Run
from app.system.identifiers import new_id

KEY_LENGTH = 200
NAME_LENGTH = 120
TUNING = " · fine-tuned first"


def launch(
    session: Session, owner_id: str, recipe: Recipe,
    *, idempotency_key: str | None = None, asked: str | None = None, priority: int = 0, private: bool = False,
) -> Run:  # fmt: skip
    """Queue a run of this recipe and hint the workers. Its priority, and whether it is private, are not part of the recipe.

    With an idempotency key, the same request again gives the run of the first time, and another one InvalidInput. What was
    asked for is the recipe, unless `asked` says it. Raises RecipeInvalid with the dotted field of everything that doesn't fit.
    """
    digest = hashlib.sha256((asked or json.dumps(recipe.to_dict(), sort_keys=True)).encode()).hexdigest()
    if idempotency_key is not None:
        check_key(idempotency_key)
        known = _find_known(session, owner_id, idempotency_key, digest)
        if known is not None:
            return known
    ingredients = find_ingredients(session, owner_id, recipe)
    run = new_run(session, owner_id, recipe, ingredients)
    run.scoring_id = ingredients.scoring.id if ingredients.scoring else None
    run.priority, run.private = priority, private
    if idempotency_key is not None:
        run.idempotency_key, run.idempotency_digest = idempotency_key, digest
        known = add_once(session, run, lambda: _find_known(session, owner_id, idempotency_key, digest))
        if known is not run:
            return known
    enqueue(session, run)
    return run


def enqueue(session: Session, run: Run) -> None:
    """Put a new run at the end of the queue and hint the workers. Raises StorageFull when there is no room."""
    session.info["disk"].require_room("A new run")
    journal.begin(session, run, StateChanged(state=RunState.QUEUED, attempt=0), run.queued_at)
    hint(session, run.id)


def check_key(key: str) -> None:
    """Raises InvalidInput for an idempotency key that can't be kept."""
    if not 0 < len(key) <= KEY_LENGTH or not key.isprintable():
        raise InvalidInput.at("Idempotency-Key", f"An idempotency key has 1 to {KEY_LENGTH} printable characters.")


def name_of(ingredients: Ingredients) -> str:
    """Return the name of what has none: data set and policy."""
    return f"{ingredients.dataset.name} · {ingredients.models['policy'].name}"[:NAME_LENGTH]


def _find_known(session: Session, owner_id: str, key: str, digest: str) -> Run | None:
    known = session.scalar(select(Run).where(Run.owner_id == owner_id, Run.idempotency_key == key))
    if known is not None and known.idempotency_digest != digest:
        raise InvalidInput.at(
            "Idempotency-Key", f"This key was used before, for another request (run {known.id}): take a new key for a new run."
        )
    return known


def new_run(
    session: Session,
    owner_id: str,
    recipe: Recipe,
    ingredients: Ingredients,
    *,
    kind: RunKind = RunKind.TRAINING,
    day: date | None = None,
) -> Run:
    """Return a run of this recipe, not added to the session yet. `day`: what its chat templates take for today."""
    dataset, models = ingredients.dataset, ingredients.models
    at = now(session)
    recipe = freeze_date(recipe, models.values(), day or at.date())
    return Run(
        id=new_id("run"),
        owner_id=owner_id,
        name=recipe.name or tell_apart(session, Run, owner_id, name_of(ingredients), Run.kind == kind.value),
        kind=kind.value,
        state=RunState.QUEUED.value,
        recipe=recipe.to_dict(),
        provenance=provenance.describe(dataset, models),
        dataset_id=dataset.id,
        policy_id=models["policy"].id,
        reward_id=models["reward"].id if "reward" in models else None,
        created_at=at,
        queued_at=at,
        num_processes=recipe.training.num_processes,
        tag_rows=[],
    )


def request_cancel(session: Session, user_id: str, run_id: str) -> Run:
    """Cancel: a queued run never starts; a running one is asked to stop, and stops within a step.

    Asking twice is one request. Raises Conflict when the run has ended.
    """
    run = _take(session, user_id, run_id, "cancelled")
    state = RunState(run.state)
    if state.final:
        raise Conflict(f"Run {run_id} has already {_ended(state)}, so there is nothing to cancel.")
    if state is RunState.RUNNING:
        if run.cancel_requested_at is None:
            run.cancel_requested_at = now(session)
            journal.append(session, run, [LogWritten(level="info", text="Cancelling was requested.")])
        hint(session, run_id)
        return run
    run.finished_at, run.held_at = now(session), None  # a resumed run waits for its turn, not for a release
    move(session, run, RunState.CANCELLED, reason="It was cancelled before it started.")
    return run


def resume(session: Session, user_id: str, run_id: str) -> Run:
    """Queue a failed or cancelled run again; it goes on from its last good checkpoint. Raises Conflict otherwise."""
    run = _take(session, user_id, run_id, "resumed")
    state = RunState(run.state)
    if not (state.final and can_move(state, RunState.QUEUED)):
        what = "has succeeded: clone it to run it again" if state.final else f"is {state}"
        raise Conflict(f"Run {run_id} {what}; only a failed or cancelled run can be resumed.")
    session.info["disk"].require_room("A run to go on with")
    run.num_failures, run.cancel_requested_at, run.error, run.finished_at = 0, None, None, None
    run.queued_at = now(session)
    run.place = run.queued_at.timestamp()
    lost = has_lost_checkpoints(session, run_id)
    reason = "It was resumed. Its checkpoints were removed, so it starts from step 0." if lost else "It was resumed."
    move(session, run, RunState.QUEUED, reason=reason)
    hint(session, run_id)
    return run


def clone(session: Session, user_id: str, run_id: str, *, idempotency_key: str | None = None) -> Run:
    """Launch the recipe of a run once more, as a new run of the user's whose name tells it apart.

    With an idempotency key that was used for a clone of this run, that clone. Raises Conflict for a scoring's run.
    """
    original = get_run(session, user_id, run_id)
    if original.kind != RunKind.TRAINING:
        what = (
            "a scoring, which is made once: ask for the scoring" if original.kind == RunKind.SCORING else "answers: ask for them"
        )
        raise Conflict(f"Run {run_id} makes {what} again instead.")
    recipe = revive_recipe({**original.recipe, "name": name_copy(session, user_id, original)})
    # Not the recipe: its name depends on the copies that there are, which others make at the same moment.
    return launch(session, user_id, recipe, idempotency_key=idempotency_key, asked=f"clone {run_id}", private=original.private)


def tune_first(session: Session, user_id: str, run_id: str, *, idempotency_key: str | None = None) -> Run:
    """Launch plain fine-tuning on all responses of a run's data, after which the run's recipe is to follow with that model.

    Asked again it is the user's one of the first time, unless a new key is given. Raises Conflict for a run whose method has no
    reference.
    """
    original = get_run(session, user_id, run_id)
    if original.kind != RunKind.TRAINING or original.recipe["method"] not in (Method.VAR, *WITH_REFERENCE):
        raise Conflict(f"Run {original.name} trains towards no optimum around a reference: there is nothing to fine-tune for.")
    asked = f"tune {run_id}"
    following = {**original.recipe, "name": original.name}
    return tune_for(session, user_id, following, key=idempotency_key or asked, asked=asked, private=original.private)


def tune_for(
    session: Session, user_id: str, following: dict[str, Any], *,
    key: str | None = None, asked: str | None = None, private: bool = False,
) -> Run:  # fmt: skip
    """Launch plain fine-tuning on all responses of a recipe's data, after which that recipe is to follow. Raises as `launch`."""
    name = following["name"]
    recipe = revive_recipe(make_tuning(following, name and f"{name[: NAME_LENGTH - len(TUNING)]}{TUNING}"))
    run = launch(session, user_id, recipe, idempotency_key=key, asked=asked, private=private)
    run.next_recipe = {**following, "name": name or run.name}
    session.flush()
    return run


def get_next(session: Session, user_id: str, run_id: str) -> dict[str, Any]:
    """Return the recipe that follows a run. Raises Conflict where none does, or before the run has a model."""
    run = get_run(session, user_id, run_id)
    if run.next_recipe is None:
        raise Conflict(f"No recipe follows run {run.name}: clone the run that you mean, with this run's model as its policy.")
    if run.state != RunState.SUCCEEDED:
        raise Conflict(f"Run {run.name} is {run.state}: its model can be followed up once it has succeeded.")
    return run.next_recipe


def follow_up(session: Session, user_id: str, run_id: str, model_id: str, *, idempotency_key: str | None = None) -> Run:
    """Launch the recipe that follows a run, with this model of the run as policy and reference.

    Asked again it is the user's one of the first time, unless a new key is given. Raises as `get_next`.
    """
    recipe = revive_recipe(follow_tuning(get_next(session, user_id, run_id), model_id))
    private, asked = get_run(session, user_id, run_id).private, f"follow up {run_id}"
    return launch(session, user_id, recipe, idempotency_key=idempotency_key or asked, asked=asked, private=private)


def delete(session: Session, files: Files, user_id: str, run_id: str) -> None:
    """Remove an ended run with its journal and files. Raises Conflict while it lives or a registered model is its result."""
    run = _take(session, user_id, run_id, "deleted")
    state = RunState(run.state)
    if not state.final:
        raise Conflict(f"Run {run_id} is {state}: cancel it first, then delete it.")
    folder = files.run_dir(run_id)
    within = [Model.path.startswith(f"{name}/", autoescape=True) for name in (files.name_of(folder), str(folder))]
    uses = describe_uses(session, user_id, Model, session.scalars(select(Model.id).where(or_(*within))).all())
    if uses.num:
        which = f"{uses.num} models are results" if uses.num > 1 else f"The model {uses.name} is a result"
        raise uses.refuse(f"{which} of run {run_id}: delete {'those models' if uses.num > 1 else 'that model'} first.", "model")
    session.delete(run)
    after_commit(session, ("remove", run_id), partial(files.remove, folder))


def move(session: Session, run: Run, state: RunState, *, reason: str = "", remedy: str = "") -> None:
    """Change the run's state and write it into the journal. Raises Conflict for a step its life doesn't allow."""
    old = RunState(run.state)
    if not can_move(old, state):
        raise Conflict(f"Run {run.id} is {old} and can't become {state}.")
    run.state = state.value
    tell(session, run, reason=reason, remedy=remedy)


def tell(session: Session, run: Run, *, reason: str = "", remedy: str = "") -> None:
    """Write into the journal what people are told of the run's state."""
    event = StateChanged(state=run.told_state, attempt=run.attempt, reason=reason, remedy=remedy, worker=run.worker_id or "")
    journal.append(session, run, [event])


def hint(session: Session, run_id: str) -> None:
    """After the commit, wake the workers."""
    session.info["hints"].send_after_commit(session, run_id)


def _take(session: Session, user_id: str, run_id: str, deed: str) -> Run:
    take(session, user_id, Run, run_id, deed)
    return lock_run(session, run_id)


def _ended(state: RunState) -> str:
    return {RunState.SUCCEEDED: "succeeded", RunState.FAILED: "failed"}.get(state, "been cancelled")
