"""Scorings: the list, and the page of one with what is in it, the reward check and the λ preview."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session
from starlette.datastructures import QueryParams

from app.domain.errors import InvalidInput, StudioError, Unavailable
from app.domain.preview.weights import PreviewRequest, PreviewResult
from app.domain.recipe import PRESETS
from app.domain.scoring import RewardCheck, ScorePart, ScoringFacts, has_all_pairs
from app.domain.weighting import DEFAULT_PRESET
from app.services import previews
from app.services import scorings as service
from app.store import scorings as store
from app.store.scorings import ScoringRow
from app.store.sharing import find_visible
from app.store.tables import Run
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentUser, ReadSession, WriteSession, read_apart
from app.web.pages.run.status import progress_text, time_text
from app.web.preview_requests import OVERRIDE, answer, read_request
from app.web.recipes import as_number
from app.web.rendering.environment import Context, go_to, render, render_apart
from app.web.rendering.preview_tables import Tables, tables_of
from app.web.rendering.reward_verdict import RewardVerdict, verdict_of
from app.web.rendering.wording import option_text

router = APIRouter()

PAGE_SIZE = 30
STARTING_VALUES = {
    "preset": str(DEFAULT_PRESET), "lambda": "0.03, 0.1, 0.3, 1, 3", "batch_size": "", "target_ess": "0.5",
    "label_flip_share": "0", "reward_std": "0", "noise_seed": "0",
}  # fmt: skip


@dataclass(frozen=True)
class ShownScoring:
    """A scoring with its state and, once it is ready, its facts."""

    row: ScoringRow
    standing: service.ScoringState
    facts: ScoringFacts | None

    @property
    def parts(self) -> list[tuple[str, ScorePart]]:
        if self.facts is None:
            return []
        parts = [("Log-probabilities", self.facts.logprob)]
        return parts + ([("Rewards", self.facts.reward)] if self.facts.reward else [])

    @property
    def size_bytes(self) -> int | None:
        return sum(part.size_bytes for _, part in self.parts) if self.facts else None

    @property
    def has_all_pairs(self) -> bool:
        return self.facts is not None and has_all_pairs(self.facts)

    @property
    def is_moving(self) -> bool:
        """Whether a run is at it, also one that scores the pairs that were left out."""
        return self.standing.is_under_way or (self.row.run is not None and self.row.run.finished_at is None)


@dataclass(frozen=True, kw_only=True)
class ScoringsPage(Context):
    template = "scorings/list.html"

    scorings: list[ShownScoring]
    mine: bool
    next_after: str


@dataclass(frozen=True, kw_only=True)
class ProgressPart(Context):
    template = "scorings/_progress.html"

    shown: ShownScoring
    run: Run | None
    sees_run: bool  # which may be private, as its scores are not
    progress: str
    time: str


@dataclass(frozen=True, kw_only=True)
class ScoringPage(ProgressPart):
    template = "scorings/scoring.html"

    users: list[Run]
    check: RewardCheck | None
    verdict: RewardVerdict | None
    presets: dict[str, str]
    values: dict[str, list[str]]
    tables: Tables | None
    error: StudioError | None
    panel: None = None  # the tables stand by themselves, not in the panel of the launch form


@dataclass(frozen=True, kw_only=True)
class PreviewPart(Context):
    template = "scorings/_preview.html"

    tables: Tables
    panel: None = None


@dataclass(frozen=True, kw_only=True)
class WaitingPart(Context):
    template = "scorings/_waiting.html"

    address: str
    detail: str


def show(row: ScoringRow) -> ShownScoring:
    facts = ScoringFacts.model_validate(row.scoring.facts) if row.scoring.facts else None
    return ShownScoring(row, service.standing_of(row.scoring, row.run), facts)


@router.get("/scorings")
def list_scorings(
    request: Request,
    session: ReadSession,
    user: CurrentUser,
    mine: bool = False,
    after: Annotated[str, Query(max_length=60)] = "",
) -> HTMLResponse:
    found = store.list_scorings(session, user.id, mine=mine, after=after or None, limit=PAGE_SIZE + 1)
    shown = [show(row) for row in store.describe_scorings(session, found[:PAGE_SIZE])]
    next_after = found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else ""
    return render(request, ScoringsPage(scorings=shown, mine=mine, next_after=next_after))


@router.get("/scorings/{scoring_id}")
def show_scoring(request: Request, session: ReadSession, user: CurrentUser, scoring_id: str) -> HTMLResponse:
    """The page; its first preview is fetched by it, or shown by `/preview` where there are no scripts."""
    page = scoring_page(session, user.id, scoring_id, {})
    if page.shown.facts is not None:
        previews.expect(session)
    return render(request, page)


@router.get("/scorings/{scoring_id}/progress")
def show_progress(request: Request, session: ReadSession, user: CurrentUser, scoring_id: str) -> Response:
    """The moving part of a scoring in the making; once it is made or given up, the whole page is fetched again."""
    part = progress_part(session, user.id, scoring_id)
    if not part.shown.is_moving:
        return Response(status_code=200, headers={"hx-refresh": "true"})
    return render(request, part)


@router.get("/scorings/{scoring_id}/preview")
async def preview_scoring(request: Request, database: CurrentDatabase, user: CurrentUser, scoring_id: str) -> Response:
    """The preview that the page's form asks for: a part of the page for htmx, else the whole page."""
    query = request.query_params
    error: StudioError | None = None
    tables = None
    try:
        asked = read_form(query)
        result = await answer(request, user.id, scoring_id, asked)
        tables = await read_apart(request, draw, database, user.id, scoring_id, result, asked)
    except (InvalidInput, Unavailable) as problem:
        error = problem
    if request.headers.get("hx-request"):
        return await show_part(request, tables, error)

    def whole() -> HTMLResponse:
        with database.reading() as session:
            page = scoring_page(session, user.id, scoring_id, values_of(query), tables=tables, error=error)
        return render(request, page, status=error.status if error else 200)

    return await read_apart(request, whole)


async def show_part(request: Request, tables: Tables | None, error: StudioError | None) -> HTMLResponse:
    if tables is not None:
        return await render_apart(request, PreviewPart(tables=tables))
    if isinstance(error, Unavailable):
        address = f"{request.url.path}?{request.url.query}"
        return await render_apart(request, WaitingPart(address=address, detail=error.detail))
    assert error is not None
    raise error


def read_form(query: QueryParams) -> PreviewRequest:
    """Return the form's values: lists are typed with commas, an empty input counts as none."""
    values: dict[str, Any] = {}
    for name in STARTING_VALUES:
        texts = [part.strip() for text in query.getlist(name) for part in text.split(",") if part.strip()]
        read = [text if name == "preset" else as_number(text) for text in texts]
        if read:
            values[name] = read if name in ("preset", "lambda", "batch_size") else read[0]
    return read_request(values, query)


def values_of(query: QueryParams) -> dict[str, list[str]]:
    return {name: query.getlist(name) for name in query if name in STARTING_VALUES or name.startswith(OVERRIDE)}


def draw(database: Any, owner_id: str, scoring_id: str, result: PreviewResult, asked: PreviewRequest) -> Tables:
    with database.reading() as session:
        scoring = store.get_scoring(session, owner_id, scoring_id)
        size = int(scoring.settings["training"]["batch_size"])
        return tables_of(result, scoring_id=scoring_id, dataset_id=scoring.dataset_id, batch_size=size, overrides=asked.overrides)


def progress_part(session: Session, owner_id: str, scoring_id: str) -> ProgressPart:
    shown = show(store.describe_scorings(session, [store.get_scoring(session, owner_id, scoring_id)])[0])
    run = shown.row.run
    sees_run = run is not None and find_visible(session, Run, owner_id, run.id) is not None
    progress, time = (progress_text(run), time_text(session, run)) if run else ("", "")
    return ProgressPart(shown=shown, run=run, sees_run=sees_run, progress=progress, time=time)


def scoring_page(
    session: Session, owner_id: str, scoring_id: str, values: Mapping[str, list[str]], *,
    tables: Tables | None = None, error: StudioError | None = None,
) -> ScoringPage:  # fmt: skip
    part = progress_part(session, owner_id, scoring_id)
    facts, source = part.shown.facts, part.shown.row.scoring.settings["reward"]["source"]
    return ScoringPage(
        shown=part.shown,
        run=part.run,
        sees_run=part.sees_run,
        progress=part.progress,
        time=part.time,
        users=store.list_users(session, owner_id, scoring_id),
        check=facts.check if facts else None,
        verdict=verdict_of(facts.check, source) if facts else None,
        presets={str(preset): option_text("weights.preset", preset) for preset in PRESETS},
        values={name: [text] for name, text in STARTING_VALUES.items()} | dict(values),
        tables=tables,
        error=error,
    )


@router.post("/scorings/{scoring_id}/request")
def request_again(session: WriteSession, user: CurrentUser, scoring_id: str) -> Response:
    """Score what is missing: after a failure, or the pairs that a training run had no need of."""
    known = store.get_scoring(session, user.id, scoring_id)
    maker = session.get(Run, known.run_id) if known.run_id else None
    scoring = service.request(session, user.id, service.recipe_of(known, maker))
    return RedirectResponse(f"/scorings/{scoring.id}", status_code=303)


@router.post("/scorings/{scoring_id}/delete")
def delete_scoring(
    request: Request,
    session: WriteSession,
    files: CurrentFiles,
    user: CurrentUser,
    scoring_id: str,
    anyway: Annotated[bool, Query()] = False,
) -> Response:
    """`anyway` comes from the form whose question says that runs stay."""
    service.delete(session, files, user.id, scoring_id, anyway=anyway)
    return go_to(request, "/scorings")
