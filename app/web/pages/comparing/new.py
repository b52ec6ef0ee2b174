"""A new comparison: which models, which prompts, which judges; answers that are not there yet are queued with one button."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, Response
from sqlalchemy.orm import Session

from app.domain.answering.answers import AnsweringModel, EndpointModel, RegisteredModel, RunModel, SamplingSettings
from app.domain.answering.judge import Judge, LengthJudge, LlmJudge, RewardJudge
from app.domain.answering.prompt_set import PromptSetRequest
from app.domain.errors import InvalidInput
from app.domain.problems import parse
from app.domain.recipe import Method
from app.domain.run import RunKind, RunState
from app.services.answering import prompt_sets as service
from app.services.comparing.asking import ask
from app.store.answering import prompt_sets as sets
from app.store.answering.answers import get_answers
from app.store.answering.endpoints import list_endpoints
from app.store.checkpoints import list_kept
from app.store.database import Database
from app.store.files.files import Files
from app.store.models import list_models
from app.store.runs import get_run, list_runs
from app.store.tables import Answers, Endpoint, Model, PromptSet, Run
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentUser, ReadSession, read_apart, write_apart
from app.web.rendering.choices import checkpoint_choices
from app.web.rendering.environment import Context, go_to, render

router = APIRouter()

SHOWN = 20  # of each kind; what is asked for by the address is always there
USUAL_TOKENS = 128
MOST_RUNS = 5  # whose checkpoints are offered where no run was asked for

Keys = Annotated[str, Query(max_length=2000, description="Ids, joined by commas.")]


@dataclass(frozen=True)
class Contestant:
    """Something that can be compared, and whether it is ticked."""

    value: str  # run:ID, run:ID@STEP, model:ID, endpoint:ID or answers:ID
    name: str
    note: str
    is_chosen: bool


@dataclass(frozen=True)
class Prompts:
    """Where the prompts come from: set:ID, run:ID (its test prompts), or text."""

    value: str
    name: str
    is_chosen: bool


@dataclass(frozen=True, kw_only=True)
class NewComparisonPage(Context):
    template = "comparisons/new.html"

    contestants: list[Contestant]
    prompts: list[Prompts]
    judges: list[tuple[Model, bool]]
    endpoints: list[Endpoint]  # which answer, or grade
    max_new_tokens: int


@router.get("/comparisons/new")
def show_form(
    request: Request, session: ReadSession, user: CurrentUser, runs: Keys = "", models: Keys = "", answers: Keys = ""
) -> HTMLResponse:
    """With what the address names ticked: `?runs=a,b`, `?models=a`, `?answers=a,b`."""
    asked_runs = [get_run(session, user.id, key) for key in split(runs)]
    asked_answers = [get_answers(session, user.id, key) for key in split(answers)]
    asked_models = split(models)
    known_runs = list_runs(session, user.id, state=RunState.SUCCEEDED, kind=RunKind.TRAINING, limit=SHOWN)
    policies = list_models(session, user.id, kind="policy", limit=SHOWN)
    rewards = list_models(session, user.id, kind="reward", limit=SHOWN)
    endpoints = list_endpoints(session, limit=SHOWN)
    context = NewComparisonPage(
        contestants=[
            *list_contestants(asked_runs, known_runs, policies, asked_models, asked_answers),
            *(Contestant(f"endpoint:{one.id}", one.name, "endpoint", False) for one in endpoints),
            *list_checkpoints(session, asked_runs or list_runs(session, user.id, kind=RunKind.TRAINING, limit=MOST_RUNS)),
        ],
        prompts=list_prompts(asked_runs, known_runs, sets.list_prompt_sets(session, user.id, limit=SHOWN), asked_answers),
        judges=choose_judges(rewards, asked_runs),
        endpoints=endpoints,
        max_new_tokens=max((int(run.recipe["evaluation"]["max_new_tokens"]) for run in asked_runs), default=USUAL_TOKENS),
    )
    return render(request, context)


def split(keys: str) -> list[str]:
    return list(dict.fromkeys(key.strip() for key in keys.split(",") if key.strip()))


def list_contestants(
    asked_runs: Sequence[Run], known_runs: Sequence[Run], policies: Sequence[Model], asked_models: Sequence[str],
    asked_answers: Sequence[Answers],
) -> list[Contestant]:  # fmt: skip
    """Return answers, runs and registered policies; those that were asked for come first."""
    runs = {run.id: run for run in [*asked_runs, *known_runs]}
    chosen = {run.id for run in asked_runs}
    found = [
        *(Contestant(f"answers:{one.id}", one.name, "answers", True) for one in asked_answers),
        *(Contestant(f"run:{run.id}", run.name, f"run, {run.told_state}", run.id in chosen) for run in runs.values()),
        *(Contestant(f"model:{model.id}", model.name, "registered policy", model.id in asked_models) for model in policies),
    ]
    return sorted(found, key=lambda one: not one.is_chosen)


def list_checkpoints(session: Session, runs: Sequence[Run]) -> list[Contestant]:
    """Return what these runs had trained by the steps whose checkpoints are kept."""
    answering = [run for run in runs if run.recipe.get("method") != Method.REWARD_MODEL]
    offered = checkpoint_choices(answering, list_kept(session, answering))
    return [Contestant(f"run:{one.id}", one.label, "checkpoint", False) for one in offered]


def list_prompts(
    asked_runs: Sequence[Run], known_runs: Sequence[Run], known: Sequence[PromptSet], asked_answers: Sequence[Answers]
) -> list[Prompts]:
    """Return where prompts may come from; chosen are those of the answers, else of the first run that was asked for."""
    own = {one.prompt_set_id for one in asked_answers}
    runs = {run.id: run for run in [*asked_runs, *known_runs]}
    found = [
        *(Prompts(f"run:{run.id}", f"Test prompts of {run.name}", False) for run in runs.values()),
        *(Prompts(f"set:{one.id}", f"{one.name} ({one.num_prompts})", one.id in own) for one in known),
        Prompts("text", "Prompts typed below", False),
    ]
    if not any(one.is_chosen for one in found):
        found[0] = Prompts(found[0].value, found[0].name, True)
    return found


def choose_judges(rewards: Sequence[Model], runs: Sequence[Run]) -> list[tuple[Model, bool]]:
    """Return the reward models, those ticked that judge the runs already; the newest where there is none."""
    wanted = {key for run in runs for key in (run.recipe["reward"].get("judge"), run.reward_id) if key}
    ticked = wanted & {model.id for model in rewards} or {model.id for model in rewards[:1]}
    return [(model, model.id in ticked) for model in rewards]


@router.post("/comparisons/new")
async def make_comparison(
    request: Request, database: CurrentDatabase, files: CurrentFiles, user: CurrentUser,
    contestant: Annotated[tuple[str, ...], Form(max_length=40)] = (), prompts: Annotated[str, Form(max_length=100)] = "text",
    text: Annotated[str, Form(max_length=200_000)] = "", num_prompts: Annotated[int, Form(ge=1, le=10_000)] = 200,
    judge: Annotated[tuple[str, ...], Form(max_length=15)] = (),
    max_new_tokens: Annotated[int, Form(ge=1, le=32_768)] = USUAL_TOKENS,
    temperature: Annotated[float, Form(ge=0, le=10, allow_inf_nan=False)] = 1.0,
    top_p: Annotated[float, Form(gt=0, le=1, allow_inf_nan=False)] = 1.0, seed: Annotated[int, Form(ge=0, lt=2**63)] = 0,
    num_draws: Annotated[int, Form(ge=1, le=64)] = 1,
    private: Annotated[bool, Form()] = False,
) -> Response:  # fmt: skip
    """Queues a run for each model whose answers are not there yet; then the comparison's page, which waits for them."""
    models, answers_ids = read_contestants(contestant)
    sampling = SamplingSettings(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    judges: list[Judge] = [LengthJudge(), *map(read_judge, judge)]
    kind, _, key = prompts.partition(":")
    gathered = None
    if kind != "set":
        asked = {"source": {"run": key, "num_prompts": num_prompts}} if kind == "run" else {"text": text}
        wanted = parse(PromptSetRequest, asked, InvalidInput)
        gathered = await read_apart(request, gather, database, files, user.id, wanted)

    def write() -> str:
        with database.writing() as session:
            set_id = service.keep(session, files, user.id, gathered, private=private, or_shared=True).id if gathered else key
            made = ask(
                session,
                user.id,
                set_id,
                models,
                answers_ids=answers_ids,
                sampling=sampling,
                num_draws=num_draws,
                judges=judges,
                private=private,
            )
            return made.id

    return go_to(request, f"/comparisons/{await write_apart(request, write)}")


def read_judge(value: str) -> Judge:
    """Return the judge that a tick stands for: a reward model's id, or llm:ENDPOINT."""
    kind, _, key = value.rpartition(":")
    return LlmJudge(endpoint=key) if kind == "llm" else RewardJudge(model=key)


def gather(database: Database, files: Files, owner_id: str, wanted: PromptSetRequest) -> service.Gathered:
    with database.reading() as session:
        return service.gather(session, files, owner_id, wanted)


def read_contestants(values: Sequence[str]) -> tuple[list[AnsweringModel], list[str]]:
    """Return the models that shall answer, and answers that are there. Raises InvalidInput for fewer than two in all."""
    models: list[AnsweringModel] = []
    answers_ids: list[str] = []
    for value in dict.fromkeys(values):
        kind, _, key = value.partition(":")
        if kind == "run":
            run_id, _, step = key.partition("@")
            models.append(parse(RunModel, {"run": run_id, "step": step or None}, InvalidInput))
        elif kind == "model":
            models.append(RegisteredModel(model=key))
        elif kind == "endpoint":
            models.append(EndpointModel(endpoint=key))
        elif kind == "answers":
            answers_ids.append(key)
    if len(models) + len(answers_ids) < 2:
        raise InvalidInput.at("contestant", "Tick two models or more: a comparison sets them side by side.")
    return models, answers_ids
