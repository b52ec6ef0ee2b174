"""Scorings as kept: found by what their scores depend on, listed with the names and runs around them."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from app.domain.recipe import Recipe, revive_recipe
from app.domain.run import FINAL_STATES, RunKind
from app.domain.scoring import ScoringFacts, fingerprint, scoring_settings
from app.store.runs import names_of
from app.store.sharing import find_visible, get_visible, visible_to
from app.store.tables import Dataset, JournalEntry, Model, Run, Scoring


@dataclass(frozen=True)
class ScoringRow:
    """A scoring beside the names its ids stand for, the run that makes it, and how many training runs use it."""

    scoring: Scoring
    dataset: str
    policy: str
    reward: str
    run: Run | None
    num_runs: int


def fingerprint_of(recipe: Recipe, dataset: Dataset, policy: Model, *rewards: Model | None) -> str:
    """Return the fingerprint of the recipe's scoring: its settings, and the contents of the data set and the models.

    `rewards`: the reward model, None where there is none, and those beside it.
    """
    return fingerprint(scoring_settings(recipe), _contents(dataset, policy, *rewards))


def list_further(session: Session, reward: Mapping[str, Any]) -> list[Model | None]:
    """Return the reward models beside the first, by what a recipe or a scoring says of the reward; None for one that is gone."""
    ids = (reward.get(name) for name in ("second", "third"))
    return [session.get(Model, model_id) for model_id in ids if model_id]


def contents_of(session: Session, scoring: Scoring) -> list[str]:
    """Return what the scoring's fingerprint says of its data set and models, by their rows of now."""
    dataset, policy = session.get_one(Dataset, scoring.dataset_id), session.get_one(Model, scoring.policy_id)
    reward = session.get_one(Model, scoring.reward_id) if scoring.reward_id else None
    return _contents(dataset, policy, reward, *list_further(session, scoring.settings.get("reward", {})))


def _contents(dataset: Dataset, policy: Model, *rewards: Model | None) -> list[str]:
    return [dataset.sha256, json.dumps(dataset.mapping, sort_keys=True), *map(_identity, (policy, *rewards))]


def _identity(model: Model | None) -> str:
    if model is None:
        return ""
    return json.dumps([model.path, model.revision, model.facts.get("sha256")])


def find_for(session: Session, user_id: str, recipe: Recipe) -> Scoring | None:
    """Return the scoring that a run of this recipe by this user would use; None when the user may not see its ingredients."""
    dataset = find_visible(session, Dataset, user_id, recipe.dataset)
    policy = find_visible(session, Model, user_id, recipe.policy.model)
    named = [recipe.reward.model, *recipe.reward.further.values()]
    rewards = [find_visible(session, Model, user_id, model_id) if model_id else None for model_id in named]
    if dataset is None or policy is None or any(id and model is None for id, model in zip(named, rewards, strict=True)):
        return None
    return find_by_fingerprint(session, user_id, fingerprint_of(recipe, dataset, policy, *rewards))


def find_by_fingerprint(session: Session, user_id: str, fingerprint: str) -> Scoring | None:
    """Return a scoring that serves this user: one that is whole, the user's own before others', else the user's own."""
    is_mine, is_whole = Scoring.owner_id == user_id, Scoring.facts.is_not(None)
    query = select(Scoring).where(Scoring.fingerprint == fingerprint, or_(is_mine, is_whole))
    found = session.scalars(query.order_by(is_whole.desc(), is_mine.desc(), Scoring.id))  # at most one of each owner
    return next((scoring for scoring in found if find_visible(session, Scoring, user_id, scoring.id)), None)


def find_own(session: Session, owner_id: str, fingerprint: str) -> Scoring | None:
    """Return the scoring of this owner with this fingerprint, made or in the making."""
    return session.scalar(select(Scoring).where(Scoring.owner_id == owner_id, Scoring.fingerprint == fingerprint))


def get_scoring(session: Session, user_id: str, scoring_id: str) -> Scoring:
    """Return a scoring that the user may see. Raises NotFound."""
    return get_visible(session, Scoring, user_id, scoring_id)


def list_scorings(
    session: Session, user_id: str, *, dataset_id: str | None = None, mine: bool = False, after: str | None = None,
    limit: int = 50,
) -> list[Scoring]:  # fmt: skip
    """Return the scorings that the user may see, or the user's own, newest first; `after` is the last id of the page before."""
    query = select(Scoring).where(visible_to(user_id, Scoring, mine=mine))
    if dataset_id is not None:
        query = query.where(Scoring.dataset_id == dataset_id)
    if after is not None:
        query = query.where(Scoring.id < after)
    return list(session.scalars(query.order_by(Scoring.id.desc()).limit(limit)))


def describe_scorings(session: Session, scorings: Sequence[Scoring]) -> list[ScoringRow]:
    """Return the rows of these scorings, in their order. Four queries, however many."""
    datasets = names_of(session, Dataset, {scoring.dataset_id for scoring in scorings})
    named = [(scoring.policy_id, *_reward_ids(scoring)) for scoring in scorings]
    models = names_of(session, Model, {id for ids in named for id in ids})
    makers = [scoring.run_id for scoring in scorings if scoring.run_id]
    runs = {run.id: run for run in session.scalars(select(Run).where(Run.id.in_(makers)))}
    counts = count_users(session, [scoring.id for scoring in scorings])
    return [
        ScoringRow(
            scoring=scoring,
            dataset=datasets.get(scoring.dataset_id, scoring.dataset_id),
            policy=models.get(scoring.policy_id, scoring.policy_id),
            reward=" and ".join(models.get(id, id) for id in _reward_ids(scoring)),
            run=runs.get(scoring.run_id) if scoring.run_id else None,
            num_runs=counts.get(scoring.id, 0),
        )
        for scoring in scorings
    ]


def _reward_ids(scoring: Scoring) -> list[str]:
    reward = scoring.settings.get("reward", {})
    return [id for id in (scoring.reward_id, reward.get("second"), reward.get("third")) if id]


def count_users(session: Session, scoring_ids: Collection[str]) -> dict[str, int]:
    """Return how many training runs use each of these scorings."""
    query = select(Run.scoring_id, func.count().label("num_runs")).group_by(Run.scoring_id)
    query = query.where(Run.scoring_id.in_(scoring_ids), Run.kind == RunKind.TRAINING.value)
    return {row.scoring_id: row.num_runs for row in session.execute(query)}


def list_users(session: Session, user_id: str, scoring_id: str, limit: int = 50) -> list[Run]:
    """Return the training runs that use a scoring and that the user may see, newest first."""
    using = (Run.scoring_id == scoring_id, Run.kind == RunKind.TRAINING.value)
    query = select(Run).where(*using, visible_to(user_id, Run))
    return list(session.scalars(query.order_by(Run.id.desc()).limit(limit)))


def list_makers(session: Session, scoring_id: str) -> list[Run]:
    """Return the runs of kind scoring that made it, or tried, newest first."""
    query = select(Run).where(Run.scoring_id == scoring_id, Run.kind == RunKind.SCORING.value)
    return list(session.scalars(query.order_by(Run.id.desc())))


def list_unfinished(session: Session, scoring: Scoring) -> list[Run]:
    """Return the runs that use the scoring and have not ended, also those that have not come as far as to say so."""
    alike = and_(Run.dataset_id == scoring.dataset_id, Run.policy_id == scoring.policy_id)
    is_unfinished = Run.state.not_in([str(state) for state in FINAL_STATES])
    query = select(Run).where(is_unfinished, or_(Run.scoring_id == scoring.id, alike))
    dataset, policy = session.get_one(Dataset, scoring.dataset_id), session.get_one(Model, scoring.policy_id)

    def uses(run: Run) -> bool:
        reward = session.get(Model, run.reward_id) if run.reward_id else None
        recipe, further = revive_recipe(run.recipe), list_further(session, run.recipe["reward"])
        return run.scoring_id == scoring.id or (fingerprint_of(recipe, dataset, policy, reward, *further) == scoring.fingerprint)

    return [run for run in session.scalars(query.order_by(Run.id.desc())) if uses(run)]


def keys_of(facts: ScoringFacts) -> set[str]:
    """Return the folders below scorings_dir that the facts speak of."""
    parts = {facts.index_key, facts.logprob.key} | ({facts.reward.key} if facts.reward else set())
    return (parts | set(facts.more_keys)) - {""}


def list_keys(session: Session, scoring: Scoring) -> set[str]:
    """Return every folder that a scoring's runs have ever made or used for it."""
    query = select(JournalEntry.payload).join(Run, Run.id == JournalEntry.run_id)
    told = session.scalars(query.where(Run.scoring_id == scoring.id, JournalEntry.kind == "scoring"))
    facts = [payload["scoring"] for payload in told] + ([scoring.facts] if scoring.facts else [])
    return {key for fact in facts for key in keys_of(ScoringFacts.model_validate(fact))}


def list_keys_for(session: Session, dataset_id: str, policy_id: str, limit: int = 50) -> set[str]:
    """Return the folders of all scorings, the newest `limit`, that a run of this data set and policy may find its scores in."""
    query = select(Scoring).where(Scoring.dataset_id == dataset_id, Scoring.policy_id == policy_id, Scoring.facts.is_not(None))
    newest = session.scalars(query.order_by(Scoring.id.desc()).limit(limit))
    return {key for scoring in newest for key in list_keys(session, scoring)}


def list_shared_keys(session: Session, keys: Collection[str], *, but: str) -> set[str]:
    """Those of the keys that the facts of another scoring than `but` name too, whoever owns it."""
    places = (Scoring.facts["index_key"], Scoring.facts["logprob"]["key"], Scoring.facts["reward"]["key"])
    has_more = Scoring.facts["more_keys"].as_string() != "[]"
    named = or_(*(place.as_string().in_(keys) for place in places), has_more)
    others = session.scalars(select(Scoring.facts).where(Scoring.id != but, named))
    return {key for facts in others if facts for key in keys_of(ScoringFacts.model_validate(facts))} & set(keys)


def list_using_dataset(session: Session, dataset_id: str) -> list[str]:
    """Return the ids of the scorings of the data set, whoever's, newest first."""
    return list(session.scalars(select(Scoring.id).where(Scoring.dataset_id == dataset_id).order_by(Scoring.id.desc())))


def list_using_model(session: Session, model_id: str) -> list[str]:
    """Return the ids of the scorings made with the model, whoever's, newest first."""
    further = [Scoring.settings["reward"][part].as_string() == model_id for part in ("second", "third")]
    uses = or_(Scoring.policy_id == model_id, Scoring.reward_id == model_id, *further)
    return list(session.scalars(select(Scoring.id).where(uses).order_by(Scoring.id.desc())))
