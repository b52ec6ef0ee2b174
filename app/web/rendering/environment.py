"""From a page's context to HTML: the Jinja environment, its filters, and the pages for errors.

Every page has a frozen dataclass as its context; the template sees its fields, `request`, `user` and nothing else.
Texts of data sets and models are escaped always; how their white space looks is the style sheet's business.
"""

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache
from typing import Any, ClassVar

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.concurrency import run_in_threadpool

from app.domain.answering.judge import VerdictFacts
from app.domain.answering.verdicts import write_bias
from app.domain.comparing.verdict import write_verdict
from app.domain.errors import StudioError
from app.domain.statistics.final import write_final, write_size
from app.store.files.disk import Storage
from app.system.installation import find_folder
from app.web.rendering import format, wording
from app.web.rendering.compared import share_won
from app.web.rendering.difference import pieces_of
from app.web.rendering.form_words import change_in_words, clone_address, in_form_words, tell, tell_detail
from app.web.rendering.trend import trend
from app.web.static import static_url

TEMPLATES = find_folder("templates")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every page's context derives from; a page adds its template and its own fields, all of which the template reads.

    `part`: a fragment that its template includes, for when only that moves.
    """

    template: ClassVar[str]
    part: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class ErrorNotice(Context):
    template = "errors/_notice.html"

    title: str
    detail: str
    problems: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ErrorPage(ErrorNotice):
    template = "errors/error.html"

    status: int
    used_by: list[dict[str, str]]  # what stands in the way of a deletion


@dataclass(frozen=True, kw_only=True)
class InUseNotice(Context):
    """For the page where the button is: what must be deleted first, each a link."""

    template = "errors/_in_use.html"

    detail: str
    used_by: list[dict[str, str]]


def verdict_words(kept: dict[str, Any]) -> str:
    return write_bias(VerdictFacts.model_validate(kept))


@cache
def environment() -> Environment:
    """Return the one Jinja environment of the process."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(static_url=static_url, now=lambda: datetime.now(UTC), full_storage=full_storage, may_edit=may_edit)
    made.filters.update(format.FILTERS)
    made.filters.update(final_figures=write_final, final_size=write_size, differences=pieces_of, trend=trend)
    made.filters.update(method_name=wording.method_name, settings_in_brief=wording.settings_in_brief, act_title=wording.act_title)
    made.filters.update(share_won=share_won, verdict=write_verdict, verdict_words=verdict_words)
    made.filters.update(in_form_words=in_form_words, clone_address=clone_address, change_in_words=change_in_words)
    made.filters.update(tell=tell, tell_detail=tell_detail)
    return made


def render(request: Request, context: Context, *, status: int = 200) -> HTMLResponse:
    """Render a page, or a part of one where its template is a `_fragment`."""
    return to_response(request, context.template, context, status)


async def render_apart(request: Request, context: Context) -> HTMLResponse:
    """Render in a thread what an asynchronous route answers: others' requests go on meanwhile."""
    return await run_in_threadpool(render, request, context)


def render_part(request: Request, context: Context, *, status: int = 200) -> HTMLResponse:
    """Render only the part of a page that moves."""
    return to_response(request, context.part, context, status)


def to_response(request: Request, template: str, context: Context, status: int) -> HTMLResponse:
    html = fragment(template, **variables(context), request=request, user=getattr(request.state, "user", None))
    return HTMLResponse(html, status_code=status, headers={"vary": "hx-request"})


def fragment(template: str, **values: Any) -> str:
    """Return the HTML of one template with these variables."""
    return environment().get_template(template).render(**values)


def variables(context: Context) -> dict[str, Any]:
    return {field.name: getattr(context, field.name) for field in fields(context)}


def may_edit(user: Any, thing: Any) -> bool:
    """Return whether the page's user may change a thing, as app.store.sharing says; what may not be done has no button."""
    return bool(user.is_admin or thing.owner_id == user.id)


def full_storage(request: Request) -> Storage | None:
    """Return the state of the storage for the page's banner; None while there is room, or no limit is set."""
    disk = request.app.state.database.disk
    storage: Storage | None = disk.look() if disk.is_limited else None
    return storage if storage is not None and storage.is_full else None


def error_page(request: Request, error: StudioError) -> HTMLResponse:
    """Return the page for an error; asked by htmx, only the notice that goes into the page."""
    notice = ErrorNotice(title=error.title, detail=error.detail, problems=error.problems)
    used_by = error.extra.get("used_by", [])
    if "hx-request" not in request.headers:
        return render(request, ErrorPage(**variables(notice), status=error.status, used_by=used_by), status=error.status)
    return render(request, InUseNotice(detail=error.detail, used_by=used_by) if used_by else notice, status=error.status)


def go_to(request: Request, target: str) -> Response:
    """Lead to `target` after a change; htmx follows its own header, not a redirect."""
    if request.headers.get("hx-request"):
        return Response(status_code=204, headers={"hx-redirect": target})
    return RedirectResponse(target, status_code=303)
