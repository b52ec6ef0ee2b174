"""From a page's context to HTML: the Jinja environment, its filters, and the pages for errors.

Every page has a frozen dataclass as its context; the template sees its fields, `request`, `user` and nothing else.
Texts of data sets and models are escaped always; how their white space looks is the style sheet's business.
"""

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from app.domain.errors import StudioError
from app.store.files.disk import Storage
from app.system.installation import find_folder
from app.web.rendering import format, wording
from app.web.static import static_url

TEMPLATES = find_folder("templates")


@dataclass(frozen=True, kw_only=True)
class Context:
    """What every page's context derives from; a page adds its own fields."""


@dataclass(frozen=True, kw_only=True)
class ErrorPage(Context):
    title: str
    detail: str
    status: int
    problems: list[dict[str, Any]]


@cache
def environment() -> Environment:
    """The one Jinja environment of the process."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals.update(static_url=static_url, now=lambda: datetime.now(UTC), full_storage=full_storage)
    made.filters.update(format.FILTERS)
    made.filters.update(method_name=wording.method_name, settings_in_brief=wording.settings_in_brief)
    return made


def render(request: Request, template: str, context: Context, *, status: int = 200) -> HTMLResponse:
    """A page, or with a `_fragment` template a part of one."""
    html = fragment(template, **variables(context), request=request, user=getattr(request.state, "user", None))
    return HTMLResponse(html, status_code=status, headers={"vary": "hx-request"})


def fragment(template: str, **values: Any) -> str:
    """The HTML of one template with these variables."""
    return environment().get_template(template).render(**values)


def variables(context: Context) -> dict[str, Any]:
    return {field.name: getattr(context, field.name) for field in fields(context)}


def full_storage(request: Request) -> Storage | None:
    """The state of the storage for the page's banner; None while there is room, or no limit is set."""
    disk = request.app.state.database.disk
    storage: Storage | None = disk.look() if disk.is_limited else None
    return storage if storage is not None and storage.is_full else None


def error_page(request: Request, error: StudioError) -> HTMLResponse:
    """The page for an error; asked by htmx, only the notice that goes into the page."""
    template = "errors/_notice.html" if request.headers.get("hx-request") else "errors/error.html"
    context = ErrorPage(title=error.title, detail=error.detail, status=error.status, problems=error.problems)
    return render(request, template, context, status=error.status)
