"""The samples of one evaluation: beside the reference's answers, or the policy's own of another evaluation."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from app.store import journal
from app.store import runs as store
from app.web.dependencies import CurrentUser, ReadSession
from app.web.pages.run.stream import Shown, show
from app.web.rendering.environment import Context, render

router = APIRouter()

Step = Annotated[int, Query(ge=0, le=2**31 - 1)]
OtherStep = Annotated[int | None, Query(ge=0, le=2**31 - 1)]


@dataclass(frozen=True, kw_only=True)
class SamplesPart(Context):
    """`before`: the events of the other evaluation, by index."""

    template = "runs/_samples.html"

    sample_step: int
    samples: list[Shown]
    before: dict[int, Any] = field(default_factory=dict)


@router.get("/runs/{run_id}/samples")
def show_samples(
    request: Request, session: ReadSession, user: CurrentUser, run_id: str, step: Step, before: OtherStep = None
) -> HTMLResponse:
    store.get_run(session, user.id, run_id)
    shown = [show(entry) for entry in journal.list_samples(session, run_id, step)]
    others = [] if before is None else [show(entry).event for entry in journal.list_samples(session, run_id, before)]
    known = {event.model_dump()["index"]: event for event in others}
    return render(request, SamplesPart(sample_step=step, samples=shown, before=known))
