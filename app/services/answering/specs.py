"""What a runner is told of answers, from the rows as they are when it begins: where prompts, models and the answers are."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.answering.answers import EndpointModel, LocalModel, RegisteredModel, SamplingSettings, read_choice
from app.domain.answering.endpoint import EndpointSource
from app.domain.answering.job import CheckpointSource, JudgeJob, OpponentSource
from app.domain.answering.judge import LlmJudge, RewardJudge, read_judge
from app.domain.errors import InvalidInput
from app.domain.jobs import ModelSource
from app.domain.recipe import revive_recipe
from app.services.answering.endpoints import describe_source
from app.services.recipes import find_source
from app.settings import Settings
from app.store.answering.lines import prompts_path
from app.store.files.files import Files
from app.store.tables import Answers, Endpoint, Judgement, Run


def describe_answers(session: Session, files: Files, settings: Settings, run: Run | None) -> dict[str, Any]:
    """Return an AnswersSpec's own part, with the judges that have not said all. Raises InvalidInput when a model is gone."""
    answers = session.get(Answers, run.answers_id) if run is not None and run.answers_id else None
    if answers is None:
        raise InvalidInput("The answers that this run was to make were deleted.")
    wanted = select(Judgement).where(Judgement.answers_id == answers.id, Judgement.facts.is_(None))
    return {
        "prompts_path": str(prompts_path(files, answers.prompt_set_id)),
        "answers_dir": str(files.answers_dir(answers.id)),
        "num_draws": answers.num_draws,
        "sampling": SamplingSettings.model_validate(answers.sampling),
        "verdicts_dir": str(files.verdicts_dir),
        "judges": tuple(_describe_judge(session, files, settings, row) for row in session.scalars(wanted.order_by(Judgement.id))),
        **_find_answering(session, files, settings, answers),
    }


def _find_answering(session: Session, files: Files, settings: Settings, answers: Answers) -> dict[str, Any]:
    """Return where the model is that answers: a registered one, or a run's result or checkpoint; nowhere for uploaded answers."""
    choice = read_choice(answers.model)
    if choice.source == "upload":
        return {"model": None}
    if isinstance(choice, EndpointModel):
        return {"model": None, "endpoint": find_endpoint(session, settings, choice.endpoint, "model")}
    source, checkpoint = find_local(session, files, choice)
    return {"model": source, "checkpoint": checkpoint}


def find_local(session: Session, files: Files, choice: LocalModel) -> tuple[ModelSource, CheckpointSource | None]:
    """Return where the files of a registered model, or of a run's result, are; of a checkpoint where its base is, and itself.

    Raises InvalidInput when it was deleted.
    """
    if isinstance(choice, RegisteredModel):
        source, checkpoint = find_source(session, files, "model", choice.model, None), None
    else:
        trained = session.get(Run, choice.run)
        if trained is None:
            raise InvalidInput.at("model", f"The run {choice.run!r}, whose model was to answer, was deleted.")
        if choice.step is None:
            return ModelSource(source="folder", path=str(files.result_dir(trained.id)), name=f"{trained.id}/model"), None
        policy = revive_recipe(trained.recipe).policy
        checkpoint = CheckpointSource(folder=str(files.checkpoints_dir(trained.id)), step=choice.step, policy=policy)
        source = find_source(session, files, "model", policy.model, policy.revision)
    assert source is not None
    return source, checkpoint


def find_endpoint(session: Session, settings: Settings, endpoint_id: str, field: str) -> EndpointSource:
    """Return an endpoint as a runner is told of it. Raises InvalidInput when it was removed."""
    endpoint = session.get(Endpoint, endpoint_id)
    if endpoint is None:
        raise InvalidInput.at(field, f"The endpoint {endpoint_id!r} was removed.")
    return describe_source(settings, endpoint)


def _find_opponent(session: Session, files: Files, answers_id: str) -> OpponentSource:
    other = session.get(Answers, answers_id)
    if other is None:
        raise InvalidInput.at("judges", f"The answers {answers_id!r}, which the judge was to compare with, were deleted.")
    longest = SamplingSettings.model_validate(other.sampling).max_new_tokens
    return OpponentSource(folder=str(files.answers_dir(other.id)), num_draws=other.num_draws, max_new_tokens=longest)


def _describe_judge(session: Session, files: Files, settings: Settings, judgement: Judgement) -> JudgeJob:
    judge = read_judge(judgement.judge)
    if isinstance(judge, LlmJudge):
        opponent = _find_opponent(session, files, judge.against) if judge.against else None
        endpoint = find_endpoint(session, settings, judge.endpoint, "judges")
        return JudgeJob(key=judgement.key, judge=judge, endpoint=endpoint, opponent=opponent)
    model = find_source(session, files, "judges", judge.model, None) if isinstance(judge, RewardJudge) else None
    return JudgeJob(key=judgement.key, judge=judge, model=model)
