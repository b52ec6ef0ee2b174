"""The list of runs: searched, sorted, and what can be done to several of them at once."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.orm import Session

from app.domain.errors import Conflict, StudioError
from app.domain.recipe import Method
from app.domain.run import RunState
from app.services import names
from app.services import runs as service
from app.services.sharing import take
from app.store import runs
from app.store.overview.run_list import USUAL_ORDER, RunQuery, RunSort, SortOrder, find_runs, list_tags
from app.store.overview.standing import NewestFigures, read_figures
from app.store.runs import RunRow
from app.store.sharing import find_visible, get_visible
from app.store.tables import Run
from app.web.dependencies import CurrentFiles, CurrentUser, ReadSession, WriteSession
from app.web.rendering.environment import Context, render

router = APIRouter()

PAGE_SIZE = 30
MOST_CHOSEN = 100
OPPOSITE = {SortOrder.ASCENDING: SortOrder.DESCENDING, SortOrder.DESCENDING: SortOrder.ASCENDING}
SORTS = {
    RunSort.CREATED: "Newest",
    RunSort.NAME: "Name",
    RunSort.REWARD_GAIN: "Reward gain",
    RunSort.WIN_RATE: "Win rate",
    RunSort.KL: "KL",
}


@dataclass(frozen=True)
class AskedRuns:
    """What the page's address asks of the list, each part of it empty where it asks for nothing."""

    q: str = ""
    tag: str = ""
    state: str = ""
    mine: str = ""
    sort: str = ""
    order: str = ""
    after: str = ""

    @property
    def is_narrowed(self) -> bool:
        return bool(self.q or self.tag or self.state or self.mine)

    @property
    def query(self) -> RunQuery:
        state, order = RunState(self.state) if self.state else None, SortOrder(self.order) if self.order else None
        sort = RunSort(self.sort or RunSort.CREATED)
        return RunQuery(state=state, mine=bool(self.mine), search=self.q, tag=self.tag, sort=sort, order=order)

    @property
    def filter(self) -> str:
        """What every page of the list keeps, as a query."""
        return urlencode({name: value for name, value in asdict(self).items() if value and name != "after"})

    def address(self, path: str = "/runs", **changes: str) -> str:
        """Return the address of the first page that asks for this and the changes."""
        query = replace(self, **changes).filter
        return f"{path}?{query}" if query else path

    def sorted_by(self, sort: str) -> str:
        """Return the address of the list in this order; once more, in the opposite one."""
        is_same = self.query.sort == sort
        usual = USUAL_ORDER.get(RunSort(sort), SortOrder.DESCENDING)
        now = (self.query.order or usual) if is_same else OPPOSITE[usual]
        wanted = OPPOSITE[now]
        return self.address(sort="" if sort == RunSort.CREATED else sort, order="" if wanted is usual else wanted.value)


Text = Annotated[str, Query(max_length=200)]


def read_address(
    q: Text = "", tag: Text = "", state: Text = "", mine: Text = "", sort: Text = "", order: Text = "", after: Text = ""
) -> AskedRuns:
    """Return what is asked for; what no list knows is not."""
    return AskedRuns(
        q=q.strip(),
        tag=tag,
        state=state if state in list(RunState) else "",
        mine="true" if mine == "true" else "",
        sort=sort if sort in list(RunSort) else "",
        order=order if order in list(SortOrder) else "",
        after=after,
    )


@dataclass(frozen=True, kw_only=True)
class RunsPage(Context):
    template = "runs/list.html"

    rows: list[RunRow]
    figures: dict[str, NewestFigures]  # by run
    counts: dict[str, int]
    asked: AskedRuns
    states: list[str]
    sorts: dict[str, str]
    tags: list[tuple[str, int]]
    next_after: str
    active_ids: list[str]
    refusals: list[str]  # why a run could not be changed


@dataclass(frozen=True, kw_only=True)
class RunRows(Context):
    template = "runs/_rows.html"

    rows: list[RunRow]
    figures: dict[str, NewestFigures]
    active_ids: list[str]


def read_page(session: Session, owner_id: str, asked: AskedRuns, refusals: Sequence[str] = ()) -> RunsPage:
    found = find_runs(session, owner_id, asked.query, after=asked.after or None, limit=PAGE_SIZE + 1)
    rows = runs.describe_runs(session, owner_id, found[:PAGE_SIZE])
    return RunsPage(
        rows=rows,
        figures=read_figures(session, [row.run.id for row in rows]),
        counts=runs.count_runs(session, owner_id, mine=bool(asked.mine)),
        asked=asked,
        states=[str(one) for one in RunState],
        sorts={str(sort): title for sort, title in SORTS.items()},
        tags=list_tags(session, owner_id, mine=bool(asked.mine)),
        next_after=found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else "",
        active_ids=active(rows),
        refusals=list(refusals),
    )


AskedFor = Annotated[AskedRuns, Depends(read_address)]


@router.get("/runs")
def list_runs(request: Request, session: ReadSession, user: CurrentUser, asked: AskedFor) -> HTMLResponse:
    return render(request, read_page(session, user.id, asked))


@router.get("/runs/rows")
def refresh_rows(
    request: Request, session: ReadSession, user: CurrentUser, ids: Annotated[str, Query(max_length=4000)] = ""
) -> HTMLResponse:
    """The moving cells of these runs, for the list to take in."""
    wanted = [key for key in ids.split(",")[:PAGE_SIZE] if key]
    found = [run for key in wanted if (run := find_visible(session, Run, user.id, key)) is not None]
    rows = runs.describe_runs(session, user.id, found)
    figures = read_figures(session, [row.run.id for row in rows])
    return render(request, RunRows(rows=rows, figures=figures, active_ids=active(rows)))


def active(rows: list[RunRow]) -> list[str]:
    return [row.run.id for row in rows if not RunState(row.run.state).final]


Chosen = Annotated[list[str], Form(max_length=MOST_CHOSEN)]


@router.post("/runs/delete")
def delete_chosen(
    request: Request, session: WriteSession, user: CurrentUser, files: CurrentFiles, asked: AskedFor, chosen: Chosen
) -> Response:
    """The list without those of the chosen runs that can go, and a sentence for each that can't."""
    refusals = each(session, user.id, chosen, lambda run: service.delete(session, files, user.id, run.id))
    return answer(request, session, user.id, asked, refusals)


@router.post("/runs/tag")
def tag_chosen(
    request: Request, session: WriteSession, user: CurrentUser, asked: AskedFor, chosen: Chosen,
    words: Annotated[str, Form(max_length=400)] = "", untag: Annotated[bool, Form()] = False,
) -> Response:  # fmt: skip
    """The list, with these tags, words between commas, added to the chosen runs, or taken away."""
    given = {word.strip() for word in words.split(",")}
    refusals = each(session, user.id, chosen, lambda run: tag_anew(session, user.id, run, given, untag=untag))
    return answer(request, session, user.id, asked, refusals)


@router.post("/runs/compare")
def compare_chosen(request: Request, session: ReadSession, user: CurrentUser, asked: AskedFor, chosen: Chosen) -> Response:
    """To the form of a comparison with the chosen runs ticked, or a sentence for each that has no model to compare."""
    if refusals := each(session, user.id, chosen, require_model):
        return answer(request, session, user.id, asked, refusals)
    return RedirectResponse(f"/comparisons/new?{urlencode({'runs': ','.join(dict.fromkeys(chosen))})}", status_code=303)


def require_model(run: Run) -> None:
    """Raises Conflict for a run that has no policy to answer prompts."""
    if run.state != RunState.SUCCEEDED:
        raise Conflict("only a run that has succeeded has a model to compare.")
    if run.recipe.get("method") == Method.REWARD_MODEL:
        raise Conflict("it has trained a reward model, which answers no prompts.")


def tag_anew(session: Session, user_id: str, run: Run, given: set[str], *, untag: bool) -> None:
    """Raises Forbidden for another's run."""
    take(session, user_id, Run, run.id, "tagged")
    names.tag(run, set(run.tags) - given if untag else {*run.tags, *given})


def each(session: Session, owner_id: str, run_ids: Sequence[str], change: Callable[[Run], None]) -> list[str]:
    """Change each of these runs that can be changed; return a sentence for each that can't."""
    refusals = []
    for run_id in dict.fromkeys(run_ids):
        name = run_id
        try:
            run = get_visible(session, Run, owner_id, run_id)
            name = run.name
            change(run)
        except StudioError as error:
            refusals.append(f"{name}: {error.detail}")
    return refusals


def answer(request: Request, session: Session, owner_id: str, asked: AskedRuns, refusals: list[str]) -> Response:
    """To the list as it then is; with what was refused, where anything was."""
    if not refusals:
        return RedirectResponse(asked.address(), status_code=303)
    session.flush()
    return render(request, read_page(session, owner_id, asked, refusals), status=409)
