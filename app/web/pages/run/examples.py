"""The lineage of one example in a run: what it was scored as, and what it weighed, each time that it was trained on."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.domain.errors import InvalidInput, NotFound
from app.store import runs as store
from app.web.dependencies import CurrentFiles, CurrentUser, ReadSession
from app.web.pages.run.batch import TextOfResponse, read_texts
from app.web.rendering.environment import Context, render

router = APIRouter()


@dataclass(frozen=True)
class Passage:
    """One response in one batch of the plan; an example comes once an epoch, so `epoch` counts its batches."""

    epoch: int
    row: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class LineagePart(Context):
    template = "runs/_lineage.html"

    dataset_id: str
    number: int
    passages: list[Passage]
    largest: float
    texts: dict[tuple[int, int], TextOfResponse]


@router.get("/runs/{run_id}/example")
def show_lineage(
    request: Request, session: ReadSession, user: CurrentUser, files: CurrentFiles, run_id: str, number: str = ""
) -> HTMLResponse:
    """One example's rewards, log π_ref and weights, by epoch."""
    run = store.get_run(session, user.id, run_id)
    if not (number.isascii() and number.isdecimal() and len(number) < 16):
        raise InvalidInput.at("number", "Type the number of an example, a whole number from 0 on.")
    rows = store.read_lineage(files, run_id, int(number))
    if not rows:
        raise NotFound(f"This run has not trained on example {number}: it is held out, was left out, or the data set is smaller.")
    passages, dataset_id = count_epochs(rows), run.dataset_id or ""
    context = LineagePart(
        dataset_id=dataset_id,
        number=int(number),
        passages=passages,
        largest=max(row["weight"] for row in rows),
        texts=read_texts(files, dataset_id, [int(number)]),
    )
    return render(request, context)


def count_epochs(rows: list[dict[str, Any]]) -> list[Passage]:
    """Return the rows by response and epoch."""
    epochs = {batch: epoch for epoch, batch in enumerate(sorted({row["batch"] for row in rows}), 1)}
    passages = [Passage(epochs[row["batch"]], row) for row in rows]
    return sorted(passages, key=lambda passage: (passage.row["response"], passage.epoch))
