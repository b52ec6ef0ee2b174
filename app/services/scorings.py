"""What can be done with scorings: asked for, kept by the runs that make them, deleted when unused. Nothing here commits.

A scoring is made by a run of kind scoring, which is queued, claimed, cancelled and resumed like any other, or on the way
by a training run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from app.domain.errors import Conflict
from app.domain.recipe import Preset, Recipe, revive_recipe
from app.domain.run import RunKind, RunState
from app.domain.scoring import ScorePart, ScoringFacts, has_all_pairs, scoring_settings
from app.services import runs
from app.services.names import tell_apart
from app.services.recipes import find_ingredients, freeze_date
from app.services.sharing import describe_uses, take
from app.store import scorings as store
from app.store.database import add_once, now
from app.store.files.files import Files
from app.store.runs import lock_run
from app.store.scorings import find_for
from app.store.signals.after_commit import after_commit
from app.store.tables import Dataset, Model, Run, Scoring
from app.system.identifiers import new_id

__all__ = ["ScoringState", "delete", "find_for", "keep", "recipe_of", "request", "standing_of"]

NAME_LENGTH = 120


@dataclass(frozen=True)
class ScoringState:
    """How far a scoring is: "queued", "paused", "running", "ready", "failed" or "cancelled", and for the last two why."""

    state: str
    reason: str = ""
    remedy: str = ""

    @property
    def is_under_way(self) -> bool:
        """True while a run is to make it."""
        return self.state in ("queued", "paused", "running")


def request(session: Session, owner_id: str, recipe: Recipe, *, private: bool = False) -> Scoring:
    """Return the scoring of this recipe with all its pairs, made by a run of its own when it isn't there yet; another's, whole
    and seen by the user, serves as well.

    Asking again gives the same one; one whose run failed or was cancelled is queued again. Raises RecipeInvalid with the
    dotted field of everything that doesn't fit.
    """
    ingredients = find_ingredients(session, owner_id, recipe, kind=RunKind.SCORING)
    models = ingredients.models
    recipe = freeze_date(recipe, models.values(), now(session).date())
    rewards = [models.get("reward"), *(models[path] for path in recipe.reward.further)]
    fingerprint = store.fingerprint_of(recipe, ingredients.dataset, models["policy"], *rewards)
    known = store.find_by_fingerprint(session, owner_id, fingerprint)
    if known is not None and _has_all(known):
        known.used_at = now(session)
        return known
    scoring = _find_or_add(session, owner_id, recipe, ingredients.dataset, models["policy"], rewards, private=private)
    scoring.used_at = now(session)
    maker = session.get(Run, scoring.run_id) if scoring.run_id else None
    state = RunState(maker.state) if maker is not None else None
    if maker is not None and state is not None and not state.final:
        return scoring
    if maker is not None and state in (RunState.FAILED, RunState.CANCELLED) and maker.recipe == recipe.to_dict():
        runs.resume(session, owner_id, maker.id)
        return scoring
    run = runs.new_run(session, owner_id, recipe, ingredients, kind=RunKind.SCORING)
    run.private = scoring.private
    run.name, run.scoring_id, scoring.run_id = f"Scoring of {scoring.name}"[:NAME_LENGTH], scoring.id, run.id
    session.flush()
    runs.enqueue(session, run)
    return scoring


def keep(session: Session, run_id: str, facts: ScoringFacts) -> Scoring | None:
    """Note what a run's scores are: in the scoring that it was queued for, in that of its recipe, or in a new one.

    A run whose method asks no reward model (DPO) has log-probabilities only: it is tied to a scoring that is there, and
    tells it nothing; None when there is none.
    """
    run = lock_run(session, run_id)
    recipe = revive_recipe(run.recipe)
    scoring = session.get(Scoring, run.scoring_id) if run.scoring_id else None
    if facts.reward is None and recipe.reward.source == "model":
        scoring = scoring or find_for(session, run.owner_id, recipe)
        run.scoring_id = scoring.id if scoring else None
        return scoring
    if scoring is None:
        dataset, policy = session.get_one(Dataset, run.dataset_id), session.get_one(Model, run.policy_id)
        reward = session.get_one(Model, run.reward_id) if run.reward_id else None
        rewards = [reward, *store.list_further(session, run.recipe["reward"])]
        if run.sweep_id:  # its name says what one of those that share the scoring differs in
            recipe = recipe.model_copy(update={"name": ""})
        scoring = _find_or_add(session, run.owner_id, recipe, dataset, policy, rewards, private=run.private)
        run.scoring_id = scoring.id
    scoring.used_at = now(session)
    if _says_more(facts, scoring.facts):
        scoring.facts = facts.model_dump(mode="json")
    session.flush()
    return scoring


def standing_of(scoring: Scoring, maker: Run | None) -> ScoringState:
    """Return the state of a scoring; `maker`: the run of its run_id, None when that was deleted."""
    if scoring.facts is not None:
        return ScoringState("ready")
    if maker is None:
        return ScoringState("failed", "The run that was to make it was deleted.", "Ask for the scoring again.")
    state = maker.told_state
    if not state.final:
        return ScoringState("queued" if state is RunState.INTERRUPTED else state.value)
    error = maker.error or {}
    if state is RunState.SUCCEEDED:
        return ScoringState("failed", "Its scores are not there any more.", "Ask for the scoring again.")
    reason = "Its run was cancelled." if state is RunState.CANCELLED else error.get("reason", "")
    return ScoringState(state.value, reason, error.get("remedy", "") or "Ask for the scoring again.")


def recipe_of(scoring: Scoring, maker: Run | None = None) -> Recipe:
    """Return a recipe that this scoring belongs to, to ask for it again: that of its run, or one whose weights are any."""
    if maker is not None:
        return revive_recipe(maker.recipe)
    policy: dict[str, Any] = dict(scoring.settings["policy"])
    if policy.get("quantization", "none") != "none":
        policy["adaptation"] = "lora"
    settings = {**scoring.settings, "policy": policy}
    weights = {"lambda": 1.0} | ({"preset": Preset.DRAWS} if "draws" in settings else {})
    return revive_recipe({**settings, "name": scoring.name, "weights": weights})


def delete(session: Session, files: Files, user_id: str, scoring_id: str, *, anyway: bool = False) -> None:
    """Remove a scoring that nothing uses, with the runs that made it and the artifacts no other scoring names.

    `anyway`: also when training runs that have ended used it; they stay. Raises NotFound; Conflict while a run that has not
    ended uses or makes it, and without `anyway` while there is any training run that used it.
    """
    scoring = take(session, user_id, Scoring, scoring_id, "deleted")
    for run in store.list_unfinished(session, scoring):
        is_maker = run.kind == RunKind.SCORING
        uses = describe_uses(session, user_id, Run, [run.id])
        user = f"the {run.state} run {uses.name}" + (f" ({run.id})" if uses.shown else "")
        what = f"is being made by run {run.id}" if is_maker else f"is used by {user}"
        wait = "cancel that run, or wait for its end, then delete the scoring."
        raise uses.refuse(f"The scoring “{scoring.name}” {what}: {wait}", "run")
    num_users = store.count_users(session, [scoring.id]).get(scoring.id, 0)
    if num_users and not anyway:
        who = "1 run" if num_users == 1 else f"{num_users} runs"
        raise Conflict.in_use(
            f"The scoring “{scoring.name}” was used by {who}: delete {'it' if num_users == 1 else 'them'} first, "
            "or ask to delete the scoring anyway.",
            "run", [(run.id, run.name) for run in store.list_users(session, user_id, scoring.id)], num=num_users,
        )  # fmt: skip
    keys = store.list_keys(session, scoring)
    for key in keys - store.list_shared_keys(session, keys, but=scoring.id):
        after_commit(session, ("remove", key), partial(files.remove, files.scoring_dir(key)))
    for maker in store.list_makers(session, scoring_id):
        runs.delete(session, files, user_id, maker.id)
    session.flush()
    session.delete(scoring)


def _find_or_add(
    session: Session, owner_id: str, recipe: Recipe, dataset: Dataset, policy: Model, rewards: Sequence[Model | None], *,
    private: bool,
) -> Scoring:  # fmt: skip
    fingerprint = store.fingerprint_of(recipe, dataset, policy, *rewards)
    known = store.find_own(session, owner_id, fingerprint)
    if known is not None:
        return known
    at = now(session)
    scoring = Scoring(
        id=new_id("scoring"),
        owner_id=owner_id,
        private=private,
        name=recipe.name or tell_apart(session, Scoring, owner_id, f"{dataset.name} · {policy.name}"[:NAME_LENGTH]),
        fingerprint=fingerprint,
        settings=scoring_settings(recipe),
        dataset_id=dataset.id,
        policy_id=policy.id,
        reward_id=rewards[0].id if rewards[0] else None,
        created_at=at,
        used_at=at,
    )
    return add_once(session, scoring, lambda: store.find_own(session, owner_id, fingerprint))


def _has_all(scoring: Scoring) -> bool:
    return scoring.facts is not None and has_all_pairs(ScoringFacts.model_validate(scoring.facts))


def _says_more(facts: ScoringFacts, known: dict[str, Any] | None) -> bool:
    """Return whether new facts replace the known ones: never by less, and not by the mere news that the same was used again."""
    if known is None:
        return True
    old = ScoringFacts.model_validate(known)
    if store.keys_of(old) - set(old.more_keys) == store.keys_of(facts) - set(facts.more_keys):
        return not facts.logprob.hit
    return [_reach(part) for part in (facts.logprob, facts.reward)] >= [_reach(part) for part in (old.logprob, old.reward)]


def _reach(part: ScorePart | None) -> tuple[bool, float]:
    """Return how much a part serves: cross pairs before own ones, then down to how small a λ."""
    if part is None:
        return True, 0.0
    return part.cross, -(part.smallest_lambda or 0.0)
