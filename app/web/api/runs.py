"""REST: runs. Launched from a recipe, cancelled, resumed, cloned, deleted."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import set_committed_value

from app.domain.recipe import Recipe
from app.domain.run import RunKind, RunState
from app.services import queue as line_service
from app.services import runs as service
from app.services import workers
from app.services.acts import Actor
from app.services.models import take_within
from app.store import journal, queue
from app.store import runs as store
from app.store.database import Database, now
from app.store.overview.run_list import RunQuery, RunSort, SortOrder, find_runs
from app.store.tables import Run
from app.store.workers import list_workers
from app.web.api.paging import Page, to_page
from app.web.api.sharing import OwnedView, Private
from app.web.dependencies import (
    CurrentActor,
    CurrentDatabase,
    CurrentFiles,
    CurrentSettings,
    CurrentUser,
    ReadSession,
    WriteSession,
    run_errand,
    write_apart,
)

router = APIRouter(prefix="/runs", tags=["runs"])

IdempotencyKey = Annotated[
    str | None,
    Header(
        description="The same key with the same request gives the same run and answer, however often it is sent.",
        examples=["6f0c1d9e"],
    ),
]
Priority = Annotated[int, Query(description="Higher ones begin first, -100 to 100; only admins raise a run above 0.")]


class RunView(OwnedView):
    """A run as lists show it."""

    model_config = ConfigDict(from_attributes=True)

    id: str = Field(examples=["run_01kb4y7v3m2q8d5n6c9t0r1x2z"])
    name: str
    kind: RunKind = Field(description="training; scoring: it ends once the scores are kept; answers: a model answers prompts.")
    state: RunState = Field(description="paused: it is queued and doesn't begin before it is released.")
    stage: str = Field(description="prepare, score, train or evaluate; answer or judge; empty before the first attempt.")
    step: int
    num_steps: int
    progress: float = Field(description="Of the stage, 0 to 1.")
    seconds_left: float | None
    attempt: int
    dataset_id: str | None = Field(description="null for a run that answers prompts.")
    policy_id: str | None = Field(description="Of a run that answers prompts: the registered model, or what its run began from.")
    reward_id: str | None
    answers_id: str | None = Field(description="The answers that it makes or judges.")
    scoring_id: str | None = Field(description="The scoring whose scores it makes or uses, once known.")
    sweep_id: str | None = Field(description="The sweep that it belongs to.")
    variant: int | None = Field(description="Which of the sweep's variants it is, from 0.")
    worker_id: str | None
    priority: int = Field(description="Higher ones begin first; 0 unless given.")
    held_at: datetime | None = Field(description="When it was paused; it doesn't begin before it is released.")
    wanted_worker: str | None = Field(description="The worker it is to run on.")
    avoided_worker: str | None = Field(description="The worker it is to stay off.")
    release_requested_at: datetime | None = Field(description="When a running run was asked to save and go back to the queue.")
    cancel_requested_at: datetime | None
    last_seq: int = Field(description="The seq of the newest event.")
    summary: dict[str, Any] | None = Field(description="The final metrics.")
    error: dict[str, Any] | None = Field(description="Why it failed: reason, remedy, log_tail.")
    tags: list[str]
    notes: str
    reward_gain: float | None = Field(description="The newest: of the test set once it is there, else of the validation prompts.")
    win_rate: float | None = Field(description="As the reward gain.")
    kl: float | None = Field(description="As the reward gain; nats per answer.")
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class AttemptView(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    number: int
    worker_id: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str = Field(description='How it ended; "lost" when its worker vanished; empty while it goes on.')
    reason: str


class KeptView(BaseModel):
    """Which model a run has left."""

    step: int = Field(description="Whose model it is.")
    last_step: int = Field(description="The last that was trained.")
    num_steps: int = Field(description="That were to be trained.")
    text: str = Field(description="Both with their reasons, in sentences.")
    stopped: str = Field(description="Why training ended before its last step; empty where it didn't.")


class RunDetail(RunView):
    """A run with all that it was launched with."""

    recipe: dict[str, Any] = Field(
        description="The resolved recipe: launch it again and the same happens; empty for a run that answers prompts."
    )
    provenance: dict[str, Any] = Field(description="Digest of the data, revisions of models, packages and code.")
    attempts: list[AttemptView]
    position: int | None = Field(description="Its place in the queue, from 1; null when it isn't queued, or is paused.")
    kept: KeptView | None = Field(
        description="Told when keep.model is best or a rule has ended training early; else the model is the last step's."
    )
    follows_up: bool = Field(description="Whether `follow-up` launches the recipe that this run was fine-tuned for.")
    waiting_for: str = Field(description="What a queued run waits for, as a sentence; empty when it is merely not its turn.")


# What a run is before any worker has seen it. A key's answer is given again as it was the first time, so that the client
# whose first answer got lost can't tell the difference.
AT_LAUNCH: dict[str, Any] = {
    "state": RunState.QUEUED, "stage": "", "step": 0, "num_steps": 0, "progress": 0.0, "seconds_left": None, "attempt": 0,
    "worker_id": None, "cancel_requested_at": None, "last_seq": 1, "summary": None, "error": None, "started_at": None,
    "finished_at": None, "held_at": None, "wanted_worker": None, "avoided_worker": None, "release_requested_at": None,
    "tags": [], "notes": "", "reward_gain": None, "win_rate": None, "kl": None,
}  # fmt: skip


def show(run: Run) -> RunView:
    return RunView.model_validate(run).model_copy(update={"state": run.told_state})


def show_at_launch(run: Run) -> RunView:
    """Return the run as it was accepted."""
    return show(run).model_copy(update={**AT_LAUNCH, "queued_at": run.created_at})


def show_detail(session: Session, run: Run) -> RunDetail:
    views = [AttemptView.model_validate(attempt) for attempt in store.list_attempts(session, run.id)]
    return RunDetail(
        **show(run).model_dump(),
        recipe=run.recipe,
        provenance=run.provenance,
        attempts=views,
        position=queue.find_position(session, run),
        kept=KeptView(**kept.payload) if (kept := journal.latest(session, run.id, "kept")) else None,
        follows_up=run.next_recipe is not None and run.state == RunState.SUCCEEDED,
        waiting_for=workers.describe_wait(session, run, list_workers(session), now(session)),
    )


EXAMPLES = {
    "preference": {
        "summary": "Rewards from the preference labels",
        "value": {
            "name": "first try",
            "dataset": "data_01kb4y7v3m2q8d5n6c9t0r1x2z",
            "policy": {"model": "model_01kb4y7v3m2q8d5n6c9t0r1x2z", "adaptation": "lora"},
            "weights": {"preset": "length_normalised", "lambda": 0.3},
            "training": {"batch_size": 8, "epochs": 1},
        },
    },
    "reward_model": {
        "summary": "Rewards from a reward model",
        "value": {
            "dataset": "data_01kb4y7v3m2q8d5n6c9t0r1x2z",
            "policy": {"model": "model_01kb4y7v3m2q8d5n6c9t0r1x2z"},
            "reward": {"source": "model", "model": "model_01kb4y7v3m2q8d5n6c9t0r1x30"},
            "weights": {"preset": "paper", "lambda": 0.1},
        },
    },
}


@router.post("", status_code=202, operation_id="launch_run", summary="Launch a run")
async def launch_run(
    recipe: Annotated[Recipe, Body(openapi_examples=EXAMPLES)],
    request: Request,
    database: CurrentDatabase,
    actor: CurrentActor,
    response: Response,
    idempotency_key: IdempotencyKey = None,
    priority: Priority = 0,
    private: Private = False,
) -> RunView:
    """Queues a run of this recipe. Every fault of the recipe is named by its dotted field. Data set and models may be those of
    other members."""
    line_service.check_priority(actor, priority)
    view = await write_apart(request, launch, database, actor, recipe, idempotency_key, priority, private)
    response.headers["location"] = f"/api/v1/runs/{view.id}"
    return view


def launch(database: Database, actor: Actor, recipe: Recipe, key: str | None, priority: int, private: bool) -> RunView:
    """From the transaction's begin to its commit in one thread: where launches crowd, the next one waits for nothing else."""
    with database.writing() as session:
        run = service.launch(session, actor.id, recipe, idempotency_key=key, priority=priority, private=private)
        line_service.note_launch(session, actor, run)
        set_committed_value(run, "owner", actor.name)  # a new row's is not known, and would be asked for
        return show_at_launch(run)


def accept(run: Run, response: Response) -> RunView:
    response.headers["location"] = f"/api/v1/runs/{run.id}"
    return show_at_launch(run)


class RunListQuery(BaseModel):
    """What is asked of the list."""

    state: RunState | None = None
    kind: RunKind = RunKind.TRAINING
    mine: bool = Field(False, description="Only your own; otherwise all that you may see.")
    search: str = Field("", max_length=200, description="Words that name, notes, a tag or the id hold, each of them.")
    tag: str = Field("", max_length=40, description="Only runs with this tag.")
    sort: RunSort = Field(RunSort.CREATED, description="Sorted by a figure, runs that have none are left out.")
    order: SortOrder | None = Field(None, description="Unless given: newest, first by name, highest gain, least KL first.")
    after: str | None = Field(
        None, max_length=80, description="`next` of the page before.", examples=["run_01kb4y7v3m2q8d5n6c9t0r1x2z"]
    )
    limit: int = Field(50, ge=1, le=200, description="Rows of a page.")


@router.get("", operation_id="list_runs", summary="List runs")
def list_runs(session: ReadSession, user: CurrentUser, asked: Annotated[RunListQuery, Query()]) -> Page[RunView]:
    """Newest first unless sorted otherwise: all of one kind, or of these what is asked for."""
    query = RunQuery(**asked.model_dump(exclude={"after", "limit"}))
    rows = find_runs(session, user.id, query, after=asked.after, limit=asked.limit + 1)
    return to_page(rows, asked.limit, show, lambda row: row.id)


@router.get("/{run_id}", operation_id="get_run", summary="Get a run")
def get_run(session: ReadSession, user: CurrentUser, run_id: str) -> RunDetail:
    """One run with its recipe, its provenance and its attempts."""
    run = store.get_run(session, user.id, run_id)
    return show_detail(session, run)


@router.delete("/{run_id}", status_code=204, operation_id="delete_run", summary="Delete a run")
def delete_run(session: WriteSession, files: CurrentFiles, user: CurrentUser, run_id: str) -> None:
    """Removes an ended run with its events and files. 409 while it goes on."""
    service.delete(session, files, user.id, run_id)


@router.post("/{run_id}/cancel", status_code=202, operation_id="cancel_run", summary="Cancel a run")
def cancel_run(session: WriteSession, user: CurrentUser, run_id: str) -> RunView:
    """A queued run never starts; a running one stops within a step. 409 after its end."""
    return show(service.request_cancel(session, user.id, run_id))


@router.post("/{run_id}/resume", status_code=202, operation_id="resume_run", summary="Resume a failed or cancelled run")
def resume_run(session: WriteSession, user: CurrentUser, run_id: str) -> RunView:
    """Queues it again, from its newest good checkpoint."""
    return show(service.resume(session, user.id, run_id))


@router.post("/{run_id}/clone", status_code=202, operation_id="clone_run", summary="Launch a run's recipe again")
def clone_run(
    session: WriteSession, user: CurrentUser, run_id: str, response: Response, idempotency_key: IdempotencyKey = None
) -> RunView:
    """A new run of yours of the same recipe."""
    return accept(service.clone(session, user.id, run_id, idempotency_key=idempotency_key), response)


@router.post("/{run_id}/tune", status_code=202, operation_id="tune_first", summary="Fine-tune on a run's data first")
def tune_first(
    session: WriteSession, user: CurrentUser, run_id: str, response: Response, idempotency_key: IdempotencyKey = None
) -> RunView:
    """The remedy of the finding foreign_data: plain fine-tuning on all responses of the run's data, for its `follow-up`. Asked
    again it is your same run, unless with a new Idempotency-Key. 409 for a method without a reference.
    """
    return accept(service.tune_first(session, user.id, run_id, idempotency_key=idempotency_key), response)


@router.post("/{run_id}/follow-up", status_code=202, operation_id="follow_run_up", summary="Go on from a run's model")
async def follow_run_up(
    request: Request, database: CurrentDatabase, files: CurrentFiles, settings: CurrentSettings, user: CurrentUser,
    run_id: str, response: Response, idempotency_key: IdempotencyKey = None,
) -> RunView:  # fmt: skip
    """Launches the recipe that the run was fine-tuned for, with its model as policy and reference, which is added to the models
    once. Asked again it is your same run, unless with a new Idempotency-Key. 409 without a recipe, or before the run's success.
    """

    def follow() -> RunView:
        model = take_within(database, files, settings, user.id, run_id)
        with database.writing() as session:
            return accept(service.follow_up(session, user.id, run_id, model.id, idempotency_key=idempotency_key), response)

    return await run_errand(request, follow)
