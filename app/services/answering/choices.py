"""Which model answers or judges, found from what was asked: its row, its name, and what tells its contents from all others'."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.domain.answering.answers import EndpointModel, RegisteredModel, RunModel
from app.domain.answering.judge import LlmJudge, RewardJudge
from app.domain.answering.verdicts import GRADE, PAIR
from app.domain.errors import InvalidInput
from app.domain.recipe import Method
from app.domain.run import RunKind, RunState
from app.store import checkpoints, journal
from app.store.sharing import find_visible
from app.store.tables import Answers, Endpoint, JournalEntry, Model, Run

MODEL_FIELD = "model"
WEIGHTS = "model/"


@dataclass(frozen=True)
class Chosen:
    """A model that can answer. `contents` is part of the answers' identity."""

    name: str
    contents: tuple[object, ...]
    policy: Model | None  # itself, or what its run began from; None: deleted meanwhile
    run_id: str | None = None

    @property
    def has_template(self) -> bool:
        """Whether its tokenizer may have a chat template; of the hub's models only the worker knows."""
        return self.policy is None or self.policy.facts.get("has_chat_template") is not False


def choose(session: Session, owner_id: str, asked: RegisteredModel | RunModel | EndpointModel) -> Chosen:
    """Return the model that shall answer. Raises InvalidInput with the field."""
    if isinstance(asked, RunModel):
        return _choose_run(session, owner_id, asked)
    if isinstance(asked, EndpointModel):
        endpoint = find_endpoint(session, asked.endpoint, f"{MODEL_FIELD}.endpoint")
        return Chosen(endpoint.name, ("endpoint", endpoint.address, endpoint.model), None)
    model = find_model(session, owner_id, asked.model, "policy", f"{MODEL_FIELD}.model")
    return Chosen(model.name, ("model", *identify(model)), model)


def find_model(session: Session, owner_id: str, model_id: str, kind: str, field: str) -> Model:
    """Return a model of this kind that the user may see. Raises InvalidInput."""
    model = find_visible(session, Model, owner_id, model_id)
    if model is None:
        raise InvalidInput.at(field, f"There is no model {model_id!r}: choose one from your list, or register it first.")
    if model.kind != kind:
        wanted = "a policy, which answers" if kind == "policy" else "a reward model, which judges"
        raise InvalidInput.at(field, f"“{model.name}” is a {model.kind} model, but {wanted}, is needed here.")
    return model


def find_endpoint(session: Session, endpoint_id: str, field: str) -> Endpoint:
    """Return the endpoint. Raises InvalidInput."""
    endpoint = session.get(Endpoint, endpoint_id)
    if endpoint is None:
        raise InvalidInput.at(field, f"There is no endpoint {endpoint_id!r}: choose one from the list, or have an admin add it.")
    return endpoint


def find_judge(session: Session, owner_id: str, judge: RewardJudge, field: str) -> Model:
    return find_model(session, owner_id, judge.model, "reward", field)


def choose_llm(session: Session, user_id: str, prompt_set_id: str, judge: LlmJudge, field: str) -> tuple[tuple[object, ...], str]:
    """Return what tells a language model's judgement from others', and its name. Raises InvalidInput with the field."""
    endpoint = find_endpoint(session, judge.endpoint, f"{field}.endpoint")
    if judge.against is None:
        return (endpoint.address, endpoint.model, GRADE.sha256), f"Grade by {endpoint.name}"
    other = find_visible(session, Answers, user_id, judge.against)
    if other is None:
        raise InvalidInput.at(f"{field}.against", f"There are no answers {judge.against!r} to compare with.")
    if other.prompt_set_id != prompt_set_id:
        raise InvalidInput.at(f"{field}.against", f"“{other.name}” answers another prompt set: choose answers to the same one.")
    if other.facts is None:
        raise InvalidInput.at(f"{field}.against", f"“{other.name}” is not ready yet: wait for its run, then ask for the judge.")
    return (endpoint.address, endpoint.model, PAIR.sha256, other.fingerprint), f"{endpoint.name} against {other.model_name}"


def identify(model: Model) -> tuple[object, ...]:
    """Return what tells a registered model's contents from others'; files on the hub by their name and revision."""
    return model.facts.get("sha256") or "", model.path if model.source == "hub" else "", model.revision or ""


def _choose_run(session: Session, owner_id: str, asked: RunModel) -> Chosen:
    run = find_visible(session, Run, owner_id, asked.run)
    field = f"{MODEL_FIELD}.run"
    if run is None or run.kind != RunKind.TRAINING:
        raise InvalidInput.at(field, f"There is no training run {asked.run!r}: choose one from your list.")
    if run.recipe.get("method") == Method.REWARD_MODEL:
        raise InvalidInput.at(field, f"Run “{run.name}” trains a reward model, which gives no answers: choose it as a judge.")
    policy = session.get(Model, run.policy_id) if run.policy_id else None
    if asked.step is None:
        return Chosen(f"{run.name}"[:200], ("run", run.id, *_find_result(session, run, field)), policy, run.id)
    kept = checkpoints.list_kept(session, [run]).get(run.id, [])
    found = next((one for one in kept if one.step == asked.step), None)
    if found is None:
        there = f"there are those of {', '.join(f'step {one.step}' for one in kept[::-1])}" if kept else "there is none"
        raise InvalidInput.at(f"{MODEL_FIELD}.step", f"Run “{run.name}” keeps no checkpoint of step {asked.step}: {there}.")
    return Chosen(f"{run.name} at step {asked.step}"[:200], ("checkpoint", run.id, asked.step, found.attempt), policy, run.id)


def _find_result(session: Session, run: Run, field: str) -> list[str]:
    """Return the hashes of the weights that a run has left. Raises InvalidInput when it has none."""
    if run.state != RunState.SUCCEEDED:
        raise InvalidInput.at(
            field, f"Run “{run.name}” is {run.told_state}, so it has no model yet: wait for its end, or take a checkpoint's step."
        )
    written: list[JournalEntry] = journal.read(session, run.id, limit=10_000, kinds=["artifact"])
    newest = {entry.payload["name"]: entry.payload["sha256"] for entry in written}
    found = sorted(f"{name} {digest}" for name, digest in newest.items() if name.startswith(WEIGHTS) and name.endswith("tensors"))
    if not found:
        raise InvalidInput.at(field, f"Run “{run.name}” has left no model among its artifacts.")
    return found
