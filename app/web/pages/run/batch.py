"""One batch of a run: its responses with the parts of their weights."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.domain.errors import InvalidInput, NotFound, Unavailable
from app.domain.run import RunState
from app.store import journal
from app.store import runs as store
from app.store.datasets import read_examples
from app.store.files.files import Files
from app.store.tables import Run
from app.system.numbers import count
from app.web.dependencies import CurrentFiles, CurrentUser, ReadSession
from app.web.rendering.environment import Context, render

router = APIRouter()

MOST_TEXTS = 64  # examples whose texts are read for one batch


@dataclass(frozen=True)
class TextOfResponse:
    """A response, and the last message of its prompt."""

    prompt: str
    response: str


@dataclass(frozen=True, kw_only=True)
class WeightsPart(Context):
    template = "runs/_weights.html"

    dataset_id: str
    step: int
    batch: int
    rows: list[dict[str, Any]]
    largest: float
    texts: dict[tuple[int, int], TextOfResponse]  # by example and response; empty where the examples can't be read


@router.get("/runs/{run_id}/weights")
def show_weights(
    request: Request, session: ReadSession, user: CurrentUser, files: CurrentFiles, run_id: str, step: str = ""
) -> HTMLResponse:
    """The responses of one step's batch with the parts of their weights."""
    run = store.get_run(session, user.id, run_id)
    number = int(step) if step.isascii() and step.isdecimal() and len(step) < 10 else 0
    if number < 1:
        raise InvalidInput.at("step", f"Type a step, a whole number {steps_of(run)}.")
    logged = journal.find_step(session, run_id, number)
    if logged is None:
        raise NotFound(no_such_step(run, number))
    batch = int(logged.payload["batch"])
    rows = store.read_weights(files, run_id, batch)
    largest = max((row["weight"] for row in rows), default=0.0)
    dataset_id = run.dataset_id or ""
    texts = read_texts(files, dataset_id, [row["example_id"] for row in rows])
    context = WeightsPart(dataset_id=dataset_id, step=number, batch=batch, rows=rows, largest=largest, texts=texts)
    return render(request, context)


def read_texts(files: Files, dataset_id: str, example_ids: Iterable[int]) -> dict[tuple[int, int], TextOfResponse]:
    """Return the responses of the first examples of a batch, with the end of their prompts."""
    texts = {}
    try:
        for example_id in list(dict.fromkeys(example_ids))[:MOST_TEXTS]:
            for example in read_examples(files, dataset_id, after=example_id - 1, limit=1):
                prompt = example.prompt[-1].content if example.prompt else ""
                for number, response in enumerate(example.responses):
                    texts[example.example_id, number] = TextOfResponse(prompt, response.content)
    except (NotFound, Unavailable):  # the weights are there without the texts
        return {}
    return texts


def steps_of(run: Run) -> str:
    return f"from 1 to {count(run.step)}" if run.step else "from 1 on"


def no_such_step(run: Run, step: int) -> str:
    """Return why a step has no batch to show."""
    if not RunState(run.state).final:
        return f"Step {count(step)} isn't logged yet" + (f"; choose a step {steps_of(run)}." if run.step else ".")
    if run.step == 0:
        return "This run ended before its first step, so there is no batch to show."
    return f"This run has no step {count(step)}; choose one {steps_of(run)}."
