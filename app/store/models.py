"""Models as kept: rows of policies and reward models, whose files are on the hub, in a folder, or came out of a run."""

from pathlib import Path

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from app.domain.run import RunKind
from app.domain.scoring import fingerprint
from app.store.scorings import contents_of
from app.store.sharing import get_visible, visible_to
from app.store.tables import Model, Run, Scoring


def get_model(session: Session, user_id: str, model_id: str) -> Model:
    """Return a model that the user may see. Raises NotFound."""
    return get_visible(session, Model, user_id, model_id)


def list_models(
    session: Session, user_id: str, *, kind: str | None = None, mine: bool = False, after: str | None = None, limit: int = 50
) -> list[Model]:
    """Return the models that the user may see, or the user's own, newest first; `after` is the id of the last one seen."""
    query = select(Model).where(visible_to(user_id, Model, mine=mine)).order_by(Model.id.desc()).limit(limit)
    if kind is not None:
        query = query.where(Model.kind == kind)
    if after is not None:
        query = query.where(Model.id < after)
    return list(session.scalars(query))


def find_same_folder(session: Session, owner_id: str, kind: str, path: str) -> list[Model]:
    """Return the owner's models of this kind that are this folder, newest first."""
    same = (Model.owner_id == owner_id, Model.kind == kind, Model.source == "folder", Model.path == path)
    return list(session.scalars(select(Model).where(*same).order_by(Model.id.desc())))


def list_runs_using(session: Session, model_id: str) -> list[str]:
    """Return the ids of the training runs that name the model as policy, a reward model or judge, whoever's, newest first."""
    named = [Run.recipe["reward"][part].as_string() == model_id for part in ("second", "third", "judge")]
    uses = or_(Run.policy_id == model_id, Run.reward_id == model_id, *named)
    query = select(Run.id).where(uses, Run.kind == RunKind.TRAINING.value)
    return list(session.scalars(query.order_by(Run.id.desc())))


def find_of_run(session: Session, user_id: str, run_id: str) -> Model | None:
    """Return the newest model that was taken of the run, such as the user may see."""
    query = select(Model).where(visible_to(user_id, Model), Model.source == "run", Model.facts["run_id"].as_string() == run_id)
    return session.scalar(query.order_by(Model.id.desc()).limit(1))


def make_relative(session: Session, root: Path) -> None:
    """Keep the models in the data folder `root`, which an older studio named by their whole path, by their place within it.

    Scorings made with them are found by their new path.
    """
    moved = list(session.scalars(select(Model).where(Model.path.startswith(f"{root}/", autoescape=True))))
    if not moved:
        return
    ids = {model.id for model in moved}
    known = [one for one in session.scalars(select(Scoring)) if {one.policy_id, one.reward_id} & ids]
    true = [one for one in known if one.fingerprint == fingerprint(one.settings, contents_of(session, one))]
    for model in moved:
        model.path = Path(model.path).relative_to(root).as_posix()
    for scoring in true:
        scoring.fingerprint = fingerprint(scoring.settings, contents_of(session, scoring))
    session.flush()
