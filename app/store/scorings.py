"""Scorings as kept: found by what their scores depend on, listed with the names and runs around them."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from app.domain.errors import NotFound
from app.domain.recipe import Recipe, revive_recipe
from app.domain.run import FINAL_STATES, RunKind
from app.domain.scoring import ScoringFacts, fingerprint, scoring_settings
from app.store.runs import names_of
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


def fingerprint_of(recipe: Recipe, dataset: Dataset, policy: Model, reward: Model | None) -> str:
    """Return the fingerprint of the recipe's scoring: its settings, and the contents of the data set and the models."""
    return fingerprint(scoring_settings(recipe), _contents(dataset, policy, reward))


def contents_of(session: Session, scoring: Scoring) -> list[str]:
    """Return what the scoring's fingerprint says of its data set and models, by their rows of now."""
    dataset, policy = session.get_one(Dataset, scoring.dataset_id), session.get_one(Model, scoring.policy_id)
    return _contents(dataset, policy, session.get_one(Model, scoring.reward_id) if scoring.reward_id else None)


def _contents(dataset: Dataset, policy: Model, reward: Model | None) -> list[str]:
    return [dataset.sha256, json.dumps(dataset.mapping, sort_keys=True), *map(_identity, (policy, reward))]


def _identity(model: Model | None) -> str:
    if model is None:
        return ""
    return json.dumps([model.path, model.revision, model.facts.get("sha256")])


def fingerprint_for(session: Session, owner_id: str, recipe: Recipe) -> str | None:
    """Return the fingerprint, from the owner's rows that the recipe names; None when one of them isn't there."""
    dataset, policy = session.get(Dataset, recipe.dataset), session.get(Model, recipe.policy.model)
    reward = session.get(Model, recipe.reward.model) if recipe.reward.model else None
    if dataset is None or policy is None or (recipe.reward.model and reward is None):
        return None
    if any(row is not None and row.owner_id != owner_id for row in (dataset, policy, reward)):
        return None
    return fingerprint_of(recipe, dataset, policy, reward)


def find_for(session: Session, owner_id: str, recipe: Recipe) -> Scoring | None:
    """Return the owner's scoring that a run of this recipe would use, made or in the making."""
    known = fingerprint_for(session, owner_id, recipe)
    return None if known is None else find_by_fingerprint(session, owner_id, known)


def find_by_fingerprint(session: Session, owner_id: str, fingerprint: str) -> Scoring | None:
    return session.scalar(select(Scoring).where(Scoring.owner_id == owner_id, Scoring.fingerprint == fingerprint))


def get_scoring(session: Session, owner_id: str, scoring_id: str) -> Scoring:
    """Return the owner's scoring. Raises NotFound, for somebody else's too."""
    scoring = session.get(Scoring, scoring_id)
    if scoring is None or scoring.owner_id != owner_id:
        raise NotFound(f"There is no scoring {scoring_id!r}.")
    return scoring


def list_scorings(
    session: Session, owner_id: str, *, dataset_id: str | None = None, after: str | None = None, limit: int = 50
) -> list[Scoring]:
    """Return the owner's scorings, newest first; `after` is the id of the last one of the page before."""
    query = select(Scoring).where(Scoring.owner_id == owner_id)
    if dataset_id is not None:
        query = query.where(Scoring.dataset_id == dataset_id)
    if after is not None:
        query = query.where(Scoring.id < after)
    return list(session.scalars(query.order_by(Scoring.id.desc()).limit(limit)))


def describe_scorings(session: Session, scorings: Sequence[Scoring]) -> list[ScoringRow]:
    """Return the rows of these scorings, in their order. Four queries, however many."""
    datasets = names_of(session, Dataset, {scoring.dataset_id for scoring in scorings})
    models = names_of(session, Model, {id for scoring in scorings for id in (scoring.policy_id, scoring.reward_id) if id})
    makers = [scoring.run_id for scoring in scorings if scoring.run_id]
    runs = {run.id: run for run in session.scalars(select(Run).where(Run.id.in_(makers)))}
    counts = count_users(session, [scoring.id for scoring in scorings])
    return [
        ScoringRow(
            scoring=scoring,
            dataset=datasets.get(scoring.dataset_id, scoring.dataset_id),
            policy=models.get(scoring.policy_id, scoring.policy_id),
            reward=models.get(scoring.reward_id, scoring.reward_id) if scoring.reward_id else "",
            run=runs.get(scoring.run_id) if scoring.run_id else None,
            num_runs=counts.get(scoring.id, 0),
        )
        for scoring in scorings
    ]


def count_users(session: Session, scoring_ids: Collection[str]) -> dict[str, int]:
    """Return how many training runs use each of these scorings."""
    query = select(Run.scoring_id, func.count().label("num_runs")).group_by(Run.scoring_id)
    query = query.where(Run.scoring_id.in_(scoring_ids), Run.kind == RunKind.TRAINING.value)
    return {row.scoring_id: row.num_runs for row in session.execute(query)}


def list_users(session: Session, scoring_id: str, limit: int = 50) -> list[Run]:
    """Return the training runs that use a scoring, newest first."""
    query = select(Run).where(Run.scoring_id == scoring_id, Run.kind == RunKind.TRAINING.value)
    return list(session.scalars(query.order_by(Run.id.desc()).limit(limit)))


def list_makers(session: Session, scoring_id: str) -> list[Run]:
    """Return the runs of kind scoring that made it, or tried, newest first."""
    query = select(Run).where(Run.scoring_id == scoring_id, Run.kind == RunKind.SCORING.value)
    return list(session.scalars(query.order_by(Run.id.desc())))


def list_unfinished(session: Session, scoring: Scoring) -> list[Run]:
    """Return the runs that use the scoring and have not ended, also those that have not come as far as to say so."""
    query = select(Run).where(
        Run.owner_id == scoring.owner_id,
        Run.dataset_id == scoring.dataset_id,
        Run.policy_id == scoring.policy_id,
        Run.state.not_in([str(state) for state in FINAL_STATES]),
    )
    return [
        run
        for run in session.scalars(query.order_by(Run.id.desc()))
        if run.scoring_id == scoring.id
        or fingerprint_for(session, run.owner_id, revive_recipe(run.recipe)) == scoring.fingerprint
    ]


def keys_of(facts: ScoringFacts) -> set[str]:
    """Return the folders below scorings_dir that the facts speak of."""
    parts = {facts.index_key, facts.logprob.key} | ({facts.reward.key} if facts.reward else set())
    return parts - {""}


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
    named = or_(*(place.as_string().in_(keys) for place in places))
    others = session.scalars(select(Scoring.facts).where(Scoring.id != but, named))
    return {key for facts in others if facts for key in keys_of(ScoringFacts.model_validate(facts))} & set(keys)


def list_using_dataset(session: Session, dataset_id: str) -> list[tuple[str, str]]:
    """Return the scorings of the data set, newest first: id and name."""
    query = select(Scoring.id, Scoring.name).where(Scoring.dataset_id == dataset_id)
    return [(row[0], row[1]) for row in session.execute(query.order_by(Scoring.id.desc()))]


def list_using_model(session: Session, model_id: str) -> list[tuple[str, str]]:
    """Return the scorings made with the model, newest first: id and name."""
    query = select(Scoring.id, Scoring.name).where(or_(Scoring.policy_id == model_id, Scoring.reward_id == model_id))
    return [(row[0], row[1]) for row in session.execute(query.order_by(Scoring.id.desc()))]
