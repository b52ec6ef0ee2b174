"""What a user can do with sweeps: launch, add variants, stop, resume, delete. Nothing here commits.

All runs of a sweep are queued in one transaction. A run that is deleted leaves its variant behind, so that it can be made anew.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, InvalidInput, RecipeInvalid
from app.domain.experiments.catalogue import refuse_unknown
from app.domain.recipe import revive_recipe
from app.domain.run import RunState
from app.domain.sweep import SweepRequest, Variant, expand, parse_request, refuse
from app.services import runs
from app.services.names import tell_apart
from app.services.recipes import Ingredients, find_ingredients
from app.services.sharing import take
from app.store.database import add_once, now
from app.store.files.files import Files
from app.store.sweeps import list_runs, lock_sweep
from app.store.tables import Run, Sweep
from app.system.identifiers import new_id

NAME_LENGTH = 120


def launch(
    session: Session, owner_id: str, request: SweepRequest, *, idempotency_key: str | None = None, private: bool = False
) -> Sweep:
    """Queue a run for every variant and hint the workers.

    With an idempotency key, the same request again gives the sweep of the first time, and another one InvalidInput.
    Raises RecipeInvalid with the fault of every variant: its dotted field, and the variant's label where not all have it.
    """
    digest = hashlib.sha256(json.dumps(request.to_dict(), sort_keys=True).encode()).hexdigest()
    if idempotency_key is not None:
        runs.check_key(idempotency_key)
        known = _find_known(session, owner_id, idempotency_key, digest)
        if known is not None:
            return known
    refuse_unknown(request.experiment)
    variants = expand(request)
    ingredients = _find_ingredients(session, owner_id, variants)
    name = request.name or variants[0].recipe.name or tell_apart(session, Sweep, owner_id, runs.name_of(ingredients[0]))
    variants = [_named(variant, name) for variant in variants]
    sweep = Sweep(
        id=new_id("sweep"),
        owner_id=owner_id,
        private=private,
        name=name,
        request=request.to_dict(),
        variants=[variant.to_dict() for variant in variants],
        idempotency_key=idempotency_key,
        idempotency_digest=digest if idempotency_key is not None else None,
        created_at=now(session),
    )
    known = add_once(
        session, sweep, lambda: _find_known(session, owner_id, idempotency_key, digest) if idempotency_key is not None else None
    )
    if known is not sweep:
        return known
    _queue(session, sweep, dict(enumerate(variants)), ingredients)
    return sweep


def add_variants(
    session: Session, owner_id: str, sweep_id: str, *, lambdas: Sequence[float] = (),
    fields: Mapping[str, Sequence[object]] | None = None, baselines: Sequence[str] = (),
) -> Sweep:  # fmt: skip
    """Queue further variants of the sweep's recipe: what isn't given of λ and fields is as it was asked for at first.

    Variants that are there already are left out. Raises RecipeInvalid as `launch`, Conflict when none is new.
    """
    sweep = _take(session, owner_id, sweep_id, "given more variants")
    before = SweepRequest.model_validate(sweep.request)
    wanted = before.model_copy(
        update={
            "lambdas": list(lambdas) or before.lambdas,
            "fields": {path: list(values) for path, values in (fields or {}).items()} or before.fields,
            "baselines": list(baselines),
        }
    )
    there = [Variant.model_validate(variant) for variant in sweep.variants]
    fresh = expand(parse_request(wanted.to_dict()), beside=there)
    if not fresh:
        raise Conflict("Each of these variants is in the sweep already: resume the sweep to make what is missing.")
    ingredients = _find_ingredients(session, sweep.owner_id, fresh)
    fresh = [_named(variant, sweep.name) for variant in fresh]
    sweep.variants = [*sweep.variants, *(variant.to_dict() for variant in fresh)]
    sweep.stopped_at = None
    _queue(session, sweep, dict(enumerate(fresh, start=len(there))), ingredients)
    return sweep


def stop(session: Session, owner_id: str, sweep_id: str) -> Sweep:
    """Cancel every run that hasn't ended; what has been made stays. Raises Conflict when all have ended."""
    sweep = _take(session, owner_id, sweep_id, "stopped")
    going = [run for run in list_runs(session, sweep_id).values() if not RunState(run.state).final]
    if not going:
        raise Conflict("Every run of this sweep has ended, so there is nothing to stop.")
    for run in going:
        with suppress(Conflict):  # it has ended in this moment
            runs.request_cancel(session, owner_id, run.id)
    sweep.stopped_at = now(session)
    return sweep


def resume(session: Session, owner_id: str, sweep_id: str) -> Sweep:
    """Queue what failed or was cancelled, from its last checkpoint, and what was deleted, anew; what succeeded stays.

    Raises Conflict when nothing is missing or runs are still stopping, RecipeInvalid when a deleted one can't be made again.
    """
    sweep = _take(session, owner_id, sweep_id, "resumed")
    found = list_runs(session, sweep_id)
    stopping = [run for run in found.values() if run.cancel_requested_at is not None and not RunState(run.state).final]
    if stopping:
        raise Conflict(f"Not all runs have stopped yet (“{stopping[0].name}”): resume the sweep when they have.")
    again = [run for run in found.values() if run.state in (RunState.FAILED, RunState.CANCELLED)]
    gone = {n: _revive(settings) for n, settings in enumerate(sweep.variants) if n not in found}
    if not again and not gone:
        raise Conflict("Nothing is missing: every run of this sweep has succeeded or is under way.")
    for run in again:
        runs.resume(session, owner_id, run.id)
    _queue(session, sweep, gone, _find_ingredients(session, sweep.owner_id, list(gone.values())))
    sweep.stopped_at = None
    return sweep


def delete(session: Session, files: Files, owner_id: str, sweep_id: str) -> None:
    """Remove a sweep and its runs, with their journals and files.

    Raises Conflict while a run goes on, or when a registered model is the result of one.
    """
    sweep = _take(session, owner_id, sweep_id, "deleted")
    found = list(session.scalars(select(Run).where(Run.sweep_id == sweep_id)))
    num_going = sum(not RunState(run.state).final for run in found)
    if num_going:
        raise Conflict(f"{num_going} of the sweep's runs haven't ended: stop the sweep first, then delete it.")
    for run in found:
        runs.delete(session, files, owner_id, run.id)
    session.flush()
    session.delete(sweep)


def _take(session: Session, user_id: str, sweep_id: str, deed: str) -> Sweep:
    take(session, user_id, Sweep, sweep_id, deed)
    return lock_sweep(session, sweep_id)


def _find_known(session: Session, owner_id: str, key: str, digest: str) -> Sweep | None:
    known = session.scalar(select(Sweep).where(Sweep.owner_id == owner_id, Sweep.idempotency_key == key))
    if known is not None and known.idempotency_digest != digest:
        text = f"This key was used before, for another sweep ({known.id}): take a new key for a new sweep."
        raise InvalidInput.at("Idempotency-Key", text)
    return known


def _find_ingredients(session: Session, owner_id: str, variants: Sequence[Variant]) -> list[Ingredients]:
    found, faults = [], []
    for variant in variants:
        try:
            found.append(find_ingredients(session, owner_id, variant.recipe))
        except RecipeInvalid as error:
            faults.append((variant.label, error.problems))
    refuse(faults, len(variants))
    return found


def _revive(settings: Mapping[str, Any]) -> Variant:
    return Variant.model_validate({**settings, "recipe": revive_recipe(settings["recipe"])})


def _named(variant: Variant, name: str) -> Variant:
    """Return the variant whose run is called after the sweep and what it differs in."""
    room = max(0, NAME_LENGTH - len(variant.label) - 3)
    full = f"{name[:room].rstrip()} · {variant.label}"[:NAME_LENGTH]
    return variant.model_copy(update={"recipe": variant.recipe.model_copy(update={"name": full})})


def _queue(session: Session, sweep: Sweep, variants: Mapping[int, Variant], ingredients: Sequence[Ingredients]) -> None:
    for (number, variant), found in zip(variants.items(), ingredients, strict=True):
        run = runs.new_run(session, sweep.owner_id, variant.recipe, found, day=sweep.created_at.date())
        run.sweep_id, run.variant, run.private = sweep.id, number, sweep.private
        run.scoring_id = found.scoring.id if found.scoring else None
        runs.enqueue(session, run)
