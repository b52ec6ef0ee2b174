"""A preview over HTTP: the question from the query, and its answer, waited for without a thread and without a session."""

import asyncio
import difflib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import BaseModel, Field
from starlette.datastructures import QueryParams

from app.domain.errors import Conflict, InvalidInput, NotFound, StudioError, Unavailable
from app.domain.preview.weights import PreviewRequest, PreviewResult
from app.domain.problems import parse
from app.domain.recipe import Preset
from app.services import previews
from app.services.previews import GONE
from app.store import previews as store
from app.store import workers
from app.store.database import Database
from app.store.tables import Preview
from app.web.dependencies import read_apart, write_apart

WAIT_SECONDS = 20.0
PAGE_WAIT_SECONDS = 2.5  # as long as one would wait for a page; then the page's part asks again
POLL_SECONDS, MOST_PAUSE_SECONDS = 0.05, 0.5
OVERRIDE = "weights."
NAMES = {"presets": "preset", "batch_sizes": "batch_size"}  # of the request's fields, in a query
PASSING = (Unavailable("").code, StudioError("").code)
NO_WORKER = "No worker is running, and a worker computes the preview: start one (varstudio up does), then ask again."
STILL = "The preview is still being computed: ask again in a moment, the answer is kept."


@dataclass(frozen=True)
class PreviewProgress:
    """How far a preview is."""

    preview_id: str
    state: str
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    is_reading: bool = False


class PreviewQuery(BaseModel):
    """What a query may ask; `preset`, `lambda` and `batch_size` may stand several times."""

    preset: list[Preset] | None = Field(None, description="Any; the default preset when left out.")
    lambda_: list[float] | None = Field(None, alias="lambda", description="Up to 40 temperatures λ > 0.")
    batch_size: list[int] | None = Field(None, description="Up to 10; the scored one when left out.")
    target_ess: float | None = Field(None, description="Share of the batch that a λ is suggested for.")
    label_flip_share: float | None = Field(None, description="Share of the labels that are swapped first.")
    reward_std: float | None = Field(None, description="Noise on the rewards, in their standard deviations.")
    noise_seed: int | None = Field(None, description="Chooses what is swapped, and the noise.")
    length_control: bool | None = Field(
        None, description="Take out of the rewards what length explains, as reward.length_control."
    )
    per_prompt: bool | None = Field(None, description="Rewards in deviations of each prompt's own.")


def read_request(values: Mapping[str, Any], query: QueryParams) -> PreviewRequest:
    """Return the request of a query's `values` by their names there; `weights.X` in the query overrides a choice of every preset.

    Raises InvalidInput naming the query's own parameters.
    """
    fields = {name: field for field, name in NAMES.items()}
    asked = {fields.get(name, name): value for name, value in values.items() if value is not None}
    asked["overrides"] = {
        key.removeprefix(OVERRIDE): value.strip() for key, value in query.items() if key.startswith(OVERRIDE) and value.strip()
    }
    try:
        return parse(PreviewRequest, asked, InvalidInput)
    except InvalidInput as error:
        raise in_query_words(error) from None


def refuse_unknown(query: QueryParams) -> None:
    """Raises InvalidInput for a parameter that a preview's query doesn't have, naming the one that is nearest to it."""
    known = [field.alias or name for name, field in PreviewQuery.model_fields.items()]
    for name in query:
        if name in known or name.startswith(OVERRIDE):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}, and {OVERRIDE}NAME."
        raise InvalidInput.at(name, f"A preview has no parameter {name!r}: {meant}")


def in_query_words(error: InvalidInput) -> InvalidInput:
    """Return the same fault, with the names that a query has: `lambda`, where the request has `lambda.2`."""
    if not error.problems:
        return error
    problems = [{**problem, "field": name_in_query(str(problem["field"]))} for problem in error.problems]
    field = str(error.problems[0]["field"])
    detail = problems[0]["field"] + error.detail.removeprefix(field) if error.detail.startswith(field) else error.detail
    return InvalidInput(detail, problems=problems)


def name_in_query(field: str) -> str:
    name, _, rest = field.partition(".")
    return f"{OVERRIDE}{rest}" if name == "overrides" else field if name == "weights" else NAMES.get(name, name)


async def answer(request: Request, owner_id: str, scoring_id: str, asked: PreviewRequest) -> PreviewResult:
    """Return the answer to a request, kept or computed now. Raises as `compute`."""
    known = await read_apart(request, find, request.app.state.database, owner_id, scoring_id, asked)
    return known or await compute(request, owner_id, scoring_id, asked)


async def compute(
    request: Request, owner_id: str, scoring_id: str, asked: PreviewRequest, *, wait_seconds: float | None = None
) -> PreviewResult:
    """Return the answer to a request of which none is kept, waited for.

    Raises InvalidInput when it can't be computed; Conflict while the scoring isn't ready; Unavailable when the time is over.
    """
    database: Database = request.app.state.database
    progress = await write_apart(request, ask, database, owner_id, scoring_id, asked)
    return PreviewResult.model_validate(await wait_for(request, progress, wait_seconds))


async def wait_for(request: Request, progress: PreviewProgress, wait_seconds: float | None = None) -> dict[str, Any]:
    """Return the answer that a worker gives to what was asked. Raises as `compute`."""
    database: Database = request.app.state.database
    began = time.monotonic()
    deadline = began + (WAIT_SECONDS if wait_seconds is None else wait_seconds)
    while progress.result is None:
        if progress.state == store.FAILED:
            raise explain(progress.error or {}, is_reading=progress.is_reading)
        if time.monotonic() > deadline or await request.is_disconnected():
            is_served = await read_apart(request, has_worker, database)
            raise Unavailable(STILL if is_served else NO_WORKER, retry_after_seconds=2)
        await asyncio.sleep(pause_after(time.monotonic() - began))
        progress = await read_apart(request, look, database, progress.preview_id)
    return progress.result


def pause_after(seconds: float) -> float:
    """Return how long to wait for the next look: a tenth of what one has waited, so that many who wait long look seldom."""
    return min(MOST_PAUSE_SECONDS, max(POLL_SECONDS, seconds / 10))


def find(database: Database, owner_id: str, scoring_id: str, asked: PreviewRequest) -> PreviewResult | None:
    with database.reading() as session:
        return previews.find_answer(session, owner_id, scoring_id, asked)


def ask(database: Database, owner_id: str, scoring_id: str, asked: PreviewRequest) -> PreviewProgress:
    with database.writing() as session:
        return describe(previews.ask(session, owner_id, scoring_id, asked))


def look(database: Database, preview_id: str) -> PreviewProgress:
    """Raises NotFound when what it is of was deleted meanwhile."""
    with database.reading() as session:
        preview = session.get(Preview, preview_id)
        if preview is None:
            raise NotFound("What was to be previewed was deleted meanwhile.")
        return describe(preview)


def describe(preview: Preview) -> PreviewProgress:
    result = preview.result if preview.state == store.DONE else None
    return PreviewProgress(preview.id, preview.state, result, preview.error, is_reading=preview.model_id is not None)


def has_worker(database: Database) -> bool:
    with database.reading() as session:
        return workers.has_worker(session)


def explain(error: dict[str, Any], *, is_reading: bool = False) -> StudioError:
    """Return why there is no answer, as an error: of the request, of scores that are gone, or of a moment that may pass."""
    detail = str(error.get("detail") or "The preview could not be computed.")
    if error.get("code") in PASSING:
        return Unavailable(detail, retry_after_seconds=2)
    if error.get("code") == GONE:
        return Conflict(detail if is_reading else f"{detail} Ask for the scoring again.")
    invalid = InvalidInput(detail, problems=error.get("problems") or [])
    return invalid if is_reading else in_query_words(invalid)
