"""Behind the launch form's lengths and its example: both take the whole form, as the preview does.

Asked by htmx they answer with their part alone, otherwise with the form's page, filled as it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from app.domain.errors import InvalidInput, StudioError, Unavailable
from app.domain.preview.readings import ExampleReading, LengthsReading
from app.store.database import Database
from app.store.files.files import Files
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentUser, read_apart
from app.web.pages.launch.form import form_page, read_form
from app.web.pages.launch.lengths import LIMITS, LaunchLengths, add_lengths, look_at_lengths, read_example_request
from app.web.preview_requests import PAGE_WAIT_SECONDS
from app.web.reading_requests import read
from app.web.rendering.environment import Context, render_apart
from app.web.rendering.form_words import tell_error

router = APIRouter()


@dataclass(frozen=True, kw_only=True)
class LengthsPart(Context):
    """The lengths; the shares that would be cut stand beside the fields and are swapped there."""

    template = "launch/_lengths.html"

    lengths: LaunchLengths
    is_live: bool


@dataclass(frozen=True, kw_only=True)
class ExamplePart(Context):
    """One example token by token; `sentence`: why there is none; `is_asked`: a worker reads it."""

    template = "launch/_example.html"

    example: ExampleReading | None
    sentence: str
    is_asked: bool


@router.post("/runs/new/lengths")
async def measure_launch(request: Request, database: CurrentDatabase, files: CurrentFiles, user: CurrentUser) -> Response:
    """How long the chosen data set's texts are, and what would be cut at the lengths of the form."""
    values = dict(await read_form(request))
    for path in LIMITS:
        if taken := values.pop(f"take.{path}", ""):
            values[path] = taken
    lengths = await read_apart(request, find, database, files, user.id, values)
    if lengths.asked is not None:
        lengths = await complete(request, user.id, lengths, values)
    if not request.headers.get("hx-request"):
        return await read_apart(request, show_page, request, database, user.id, values, lengths=lengths)
    return await render_apart(request, LengthsPart(lengths=lengths, is_live=True))


async def complete(request: Request, owner_id: str, lengths: LaunchLengths, values: Mapping[str, str]) -> LaunchLengths:
    """Return the lengths with what a worker says while one waits."""
    try:
        if lengths.reading is None and lengths.asked is not None:
            reading = await read(request, owner_id, lengths.asked, wait_seconds=PAGE_WAIT_SECONDS)
            assert isinstance(reading, LengthsReading)
            lengths = add_lengths(lengths, reading, values)
    except Unavailable as late:
        return replace(lengths, sentence=late.detail)
    except StudioError as refusal:
        lengths = replace(lengths, state="refused", sentence=tell_error(refusal))
    if lengths.reward is None and lengths.asked_of_reward is not None:
        try:
            reward = await read(request, owner_id, lengths.asked_of_reward, wait_seconds=PAGE_WAIT_SECONDS)
            assert isinstance(reward, LengthsReading)
            lengths = replace(lengths, reward=reward)
        except Unavailable as late:
            lengths = replace(lengths, state="asked", sentence=late.detail)
        except StudioError as refusal:
            lengths = replace(lengths, reward_sentence=tell_error(refusal))
    return lengths


@router.post("/runs/new/example")
async def show_launch_example(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """One example of the chosen data set as the policy learns it and as the reward model reads it."""
    values = await read_form(request)
    example, sentence, is_asked = None, "", False
    try:
        reading = await read(request, user.id, read_example_request(values), wait_seconds=PAGE_WAIT_SECONDS)
        assert isinstance(reading, ExampleReading)
        example = reading
    except Unavailable as late:
        sentence, is_asked = late.detail, True
    except (InvalidInput, StudioError) as refusal:
        sentence = tell_error(refusal)
    part = ExamplePart(example=example, sentence=sentence, is_asked=is_asked)
    if not request.headers.get("hx-request"):
        return await read_apart(request, show_page, request, database, user.id, values, example=part)
    return await render_apart(request, part)


def find(database: Database, files: Files, owner_id: str, values: Mapping[str, str]) -> LaunchLengths:
    with database.reading() as session:
        return look_at_lengths(session, files, owner_id, values)


def show_page(
    request: Request, database: Database, owner_id: str, values: Mapping[str, str], *,
    lengths: LaunchLengths | None = None, example: ExamplePart | None = None,
) -> HTMLResponse:  # fmt: skip
    with database.reading() as session:
        shown = (example.example, example.sentence) if example else (None, "")
        return form_page(request, session, owner_id, values, lengths=lengths, example=shown)
