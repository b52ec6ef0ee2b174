"""Where a model comes from and what it was used in: its line of models, runs and checkpoints; the runs, scorings, answers and
comparisons with it.
"""

from dataclasses import dataclass

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from app.domain.run import RunKind
from app.store.checkpoints import list_kept
from app.store.sharing import find_visible, visible_to
from app.store.tables import Answers, Comparison, Judgement, Model, Run, Scoring

FEW = 12
LONGEST_LINE = 40
LOOKED_AT = 200


@dataclass(frozen=True)
class Ancestor:
    """A model, a run or a checkpoint in the line; without `id` it is gone."""

    noun: str  # "models" | "runs" | "checkpoints"
    id: str  # of a checkpoint what models are chosen by: run_…@STEP
    name: str


@dataclass(frozen=True)
class Use:
    """Something that a model takes part in, and as what."""

    noun: str  # "runs" | "scorings" | "answers" | "comparisons"
    id: str
    name: str
    role: str
    state: str  # of a run


def find_line(session: Session, user_id: str, model: Model) -> list[Ancestor]:
    """Return what the model comes from, the base first, without itself: models, the runs that trained the next one, and the
    steps that these were at.
    """
    line: list[Ancestor] = []
    while len(line) < LONGEST_LINE and (run_id := str(model.facts.get("run_id") or "")):
        run = find_visible(session, Run, user_id, run_id)
        if run is None:
            return [Ancestor("runs", "", "a run that is deleted, or private"), *line]
        base = find_visible(session, Model, user_id, run.policy_id) if run.policy_id else None
        line[:0] = [Ancestor("runs", run.id, run.name), *find_checkpoint(session, run)]
        if base is None:
            break
        line.insert(0, Ancestor("models", base.id, base.name))
        model = base
    return line


def find_checkpoint(session: Session, run: Run) -> list[Ancestor]:
    """Return the step that the run's model is of, where it has made one; with an id where its checkpoint is kept."""
    if not run.step:
        return []
    is_kept = any(one.step == run.step for one in list_kept(session, [run]).get(run.id, ()))
    return [Ancestor("checkpoints", f"{run.id}@{run.step}" if is_kept else "", f"step {run.step}")]


def list_uses(session: Session, user_id: str, model: Model) -> tuple[list[Use], bool]:
    """Return what uses the model, of each noun the newest `FEW`, and whether there is more."""
    found = [look(session, user_id, model.id) for look in (list_runs, list_scorings, list_answers, list_comparisons)]
    return [use for uses in found for use in uses[:FEW]], any(len(uses) > FEW for uses in found)


def list_runs(session: Session, user_id: str, model_id: str) -> list[Use]:
    mine = (visible_to(user_id, Run), Run.kind == RunKind.TRAINING.value)
    query = select(Run).where(*mine, or_(Run.policy_id == model_id, Run.reward_id == model_id))
    return [
        Use("runs", run.id, run.name, "policy" if run.policy_id == model_id else "reward model", run.told_state.value)
        for run in session.scalars(query.order_by(Run.id.desc()).limit(FEW + 1))
    ]


def list_scorings(session: Session, user_id: str, model_id: str) -> list[Use]:
    uses = or_(Scoring.policy_id == model_id, Scoring.reward_id == model_id)
    query = select(Scoring).where(visible_to(user_id, Scoring), uses)
    return [
        Use("scorings", one.id, one.name, "policy" if one.policy_id == model_id else "reward model", "")
        for one in session.scalars(query.order_by(Scoring.id.desc()).limit(FEW + 1))
    ]


def list_answers(session: Session, user_id: str, model_id: str) -> list[Use]:
    """Return the answers that the model itself has given, not what a run made of it, or has judged."""
    judged = select(Judgement.answers_id).where(Judgement.model_id == model_id)
    given = and_(Answers.model_id == model_id, Answers.model_run_id.is_(None))
    query = select(Answers).where(visible_to(user_id, Answers), or_(given, Answers.id.in_(judged)))
    return [
        Use("answers", one.id, one.name, "the one that answers" if one.model_id == model_id else "judge", "")
        for one in session.scalars(query.order_by(Answers.id.desc()).limit(FEW + 1))
    ]


def list_comparisons(session: Session, user_id: str, model_id: str) -> list[Use]:
    """Return those of the newest comparisons in which the model itself answers, not what a run made of it."""
    own = (visible_to(user_id, Answers), Answers.model_id == model_id, Answers.model_run_id.is_(None))
    answers = set(session.scalars(select(Answers.id).where(*own)))
    if not answers:
        return []
    newest = select(Comparison).where(visible_to(user_id, Comparison)).order_by(Comparison.id.desc()).limit(LOOKED_AT)
    found = [one for one in session.scalars(newest) if answers.intersection(one.answers_ids)]
    return [Use("comparisons", one.id, one.name, "contender", "") for one in found[: FEW + 1]]


def name_sources(session: Session, user_id: str, models: list[Model]) -> dict[str, str]:
    """Return the names of the runs that models were taken from, by the run's id, of those that the user may see."""
    ids = {str(model.facts["run_id"]) for model in models if model.facts.get("run_id")}
    return {
        row.id: row.name for row in session.execute(select(Run.id, Run.name).where(Run.id.in_(ids), visible_to(user_id, Run)))
    }
