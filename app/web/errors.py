"""Errors as answers: application/problem+json (RFC 9457) under /api, a page elsewhere, the login page where one must sign in."""

import json
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException

from app.domain.errors import Conflict, Forbidden, InvalidInput, StudioError, TooManyRequests, Unauthenticated, Unavailable
from app.domain.problems import MOST_FAULTS, problems_of, summary
from app.web.rendering.environment import error_page

MACHINE_PATHS = ("/api/", "/healthz", "/readyz", "/metrics", "/openapi.json")


class Fault(BaseModel):
    """One thing that is wrong, and where."""

    field: str = Field("", description="Dotted path of the field; empty: the whole.", examples=["weights.lambda"])
    message: str = Field(description="What is wrong and what to do.")
    line: int | None = Field(None, description="Line of the file, where one is known.")
    variant: str | None = Field(None, description="Of a sweep: the variant at fault, where not all are.")


class Problem(BaseModel):
    """An error, as RFC 9457 shapes it."""

    type: str = Field(examples=["urn:varstudio:recipe-invalid"])
    title: str
    status: int
    detail: str = Field(description="A sentence: what is wrong, where, what to do.")
    instance: str = Field(description="The path that was asked for.")
    code: str = Field(examples=["recipe-invalid"])
    problems: list[Fault] = []
    extra: dict[str, Any] = Field({}, description="What helps to repair it, such as the columns found in a file.")


class ProblemResponse(JSONResponse):
    media_type = "application/problem+json"


def install(app: FastAPI) -> None:
    """Let every error that a route or a dependency raises be answered here."""
    app.add_exception_handler(StudioError, handle)
    app.add_exception_handler(RequestValidationError, handle)
    app.add_exception_handler(HTTPException, handle)
    app.add_exception_handler(DataError, handle)


async def handle(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and isinstance(error.__cause__, ValueError | RecursionError):
        return answer(request, from_body(await request.body(), error.__cause__))
    return answer(request, to_studio_error(error), headers=getattr(error, "headers", None))


def to_studio_error(error: Exception) -> StudioError:
    """Return what a framework's error means in the studio's words."""
    if isinstance(error, StudioError):
        return error
    if isinstance(error.__cause__, StudioError):  # raised while the body was read
        return error.__cause__
    if isinstance(error, RequestValidationError):
        return from_validation(error)
    if isinstance(error, DataError):
        return InvalidInput("A text holds a character, or a number a size, that the database can't keep.")
    if isinstance(error, HTTPException):
        return from_status(error)
    return StudioError("An unexpected error occurred.")


def from_validation(error: RequestValidationError) -> InvalidInput:
    """Return the fields' faults, without the "body." before them."""
    errors = error.errors()
    first = errors[0]
    if first["type"] == "json_invalid":
        return InvalidInput(f"The body isn't JSON: {first.get('ctx', {}).get('error', 'it ends too early')}.")
    if first["loc"] == ("body",) and first["type"] == "missing":
        return InvalidInput("The body is missing: send a JSON object.")
    problems = problems_of(error, skip=1)
    return InvalidInput(summary(problems, len(errors)), problems=problems)


def from_body(body: bytes, error: ValueError | RecursionError) -> InvalidInput:
    """Return what is wrong with a body of JSON that Python can't read, though it may well be JSON."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput("The body isn't JSON: it holds bytes that are no UTF-8 text.")
    if isinstance(error, RecursionError):
        return InvalidInput("The body isn't JSON that can be read: its lists and objects stand too deep in each other.")
    most = sys.get_int_max_str_digits()
    message = f"Must be a smaller number: it has more than {most:,} digits."
    problems = [{"field": path, "message": message} for path in find_long_numbers(body, most)[:MOST_FAULTS]]
    return InvalidInput(summary(problems), problems=problems)


def find_long_numbers(body: bytes, most: int) -> list[str]:
    """Return the dotted paths of the whole numbers in JSON that have more digits than Python turns into a number."""
    long = object()
    found, waiting = [], [("", json.loads(body, parse_int=lambda text: long if len(text.lstrip("-")) > most else 0))]
    while waiting:  # no recursion: they may stand as deep as Python reads
        path, value = waiting.pop()
        if value is long:
            found.append(path.removeprefix("."))
        parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting += reversed([(f"{path}.{name}", part) for name, part in parts])
    return found


STATUS_SENTENCES = {
    404: "There is nothing at this address.",
    405: "This address doesn't take this method.",
    400: "The request couldn't be read.",
}


def from_status(error: HTTPException) -> StudioError:
    """Starlette's own refusals (404, 405, …) in the one shape."""
    studio_error = StudioError(STATUS_SENTENCES.get(error.status_code, str(error.detail)))
    studio_error.status = error.status_code
    studio_error.title = HTTPStatus(error.status_code).phrase.capitalize()
    return studio_error


def code_of(error: StudioError) -> str:
    return error.code if type(error) is not StudioError else error.title.lower().replace(" ", "-")


def is_for_machines(request: Request) -> bool:
    return str(request.scope["path"]).startswith(MACHINE_PATHS)


def answer(request: Request, error: StudioError, headers: dict[str, str] | None = None) -> Response:
    """Return the response for an error: a problem, a page, or the way to the login page."""
    headers = {**(headers or {}), **headers_of(error)}
    if is_for_machines(request):
        return problem_response(request, error, headers)
    if isinstance(error, Unauthenticated):
        return to_login(request)
    response = error_page(request, error)
    response.headers.update(headers)
    return response


def headers_of(error: StudioError) -> dict[str, str]:
    if isinstance(error, Unauthenticated):
        return {"www-authenticate": 'Bearer realm="VAR Studio"'}
    if isinstance(error, Unavailable | TooManyRequests):
        return {"retry-after": str(error.retry_after_seconds)}
    return {}


def problem_response(request: Request, error: StudioError, headers: dict[str, str]) -> ProblemResponse:
    problem = Problem(
        type=f"urn:varstudio:{code_of(error)}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        instance=request.scope["path"],
        code=code_of(error),
        problems=[Fault(**problem) for problem in error.problems],
        extra=error.extra,
    )
    return ProblemResponse(problem.model_dump(mode="json", exclude_none=True), status_code=error.status, headers=headers)


def to_login(request: Request) -> Response:
    """To the login page and back afterwards; htmx follows its own header, not a redirect."""
    back = request.scope["path"] if request.method == "GET" else "/"
    target = f"/login?next={quote(back, safe='/')}"
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"hx-redirect": target})
    return RedirectResponse(target, status_code=303)


def carry_out(request: Request, session: Session, action: Callable[[], object]) -> tuple[str, int]:
    """Carry out a change; return the sentence and the status of its refusal, for htmx to show in place, or "" and 200.

    Raises Conflict, Forbidden or InvalidInput where no htmx asks: the browser then gets the page of the error.
    """
    try:
        action()
        session.flush()
    except (Conflict, Forbidden, InvalidInput) as refusal:
        if not request.headers.get("hx-request"):
            raise
        session.rollback()
        return refusal.detail, refusal.status
    return "", 200
