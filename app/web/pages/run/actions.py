"""What can be done to one run: cancel, resume, delete."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from app.services import names
from app.services import runs as service
from app.services.models import take_within
from app.services.sharing import take
from app.store.tables import Run
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentSettings, CurrentUser, WriteSession, run_errand

router = APIRouter()


@router.post("/runs/{run_id}/cancel")
def cancel_run(request: Request, session: WriteSession, user: CurrentUser, run_id: str) -> Response:
    service.request_cancel(session, user.id, run_id)
    return back_to(request, f"/runs/{run_id}", stay=True)


@router.post("/runs/{run_id}/resume")
def resume_run(request: Request, session: WriteSession, user: CurrentUser, run_id: str) -> Response:
    service.resume(session, user.id, run_id)
    return back_to(request, f"/runs/{run_id}")


@router.post("/runs/{run_id}/tune")
def tune_first(request: Request, session: WriteSession, user: CurrentUser, run_id: str) -> Response:
    """The page of the fine-tuning that comes before the run's recipe."""
    return back_to(request, f"/runs/{service.tune_first(session, user.id, run_id).id}")


@router.post("/runs/{run_id}/follow-up")
async def follow_up(
    request: Request, database: CurrentDatabase, files: CurrentFiles, settings: CurrentSettings, user: CurrentUser, run_id: str
) -> Response:
    """The page of the run that goes on from this run's model, by the recipe that it was fine-tuned for."""

    def follow() -> str:
        model = take_within(database, files, settings, user.id, run_id)
        with database.writing() as session:
            return service.follow_up(session, user.id, run_id, model.id).id

    return back_to(request, f"/runs/{await run_errand(request, follow)}")


@router.post("/runs/{run_id}/describe")
def describe_run(
    request: Request, session: WriteSession, user: CurrentUser, run_id: str,
    tags: Annotated[str, Form(max_length=600)] = "", notes: Annotated[str, Form(max_length=5000)] = "",
) -> Response:  # fmt: skip
    """Its page again, with these tags, words between commas, and notes."""
    run = take(session, user.id, Run, run_id, "described")
    names.tag(run, tags.split(","))
    names.note(run, notes)
    return back_to(request, f"/runs/{run_id}")


@router.post("/runs/{run_id}/delete")
def delete_run(request: Request, session: WriteSession, user: CurrentUser, files: CurrentFiles, run_id: str) -> Response:
    service.delete(session, files, user.id, run_id)
    return back_to(request, "/runs")


def back_to(request: Request, target: str, *, stay: bool = False) -> Response:
    """To `target` after a change; htmx is told by its own header, and with `stay` left alone: the stream shows the change."""
    if request.headers.get("hx-request"):
        return Response(status_code=204, headers={} if stay else {"hx-redirect": target})
    return RedirectResponse(target, status_code=303)
