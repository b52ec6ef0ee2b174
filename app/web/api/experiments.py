"""REST: experiments. Sweeps that ask one question of the method, and judge themselves when their runs have ended."""

from typing import Annotated

from fastapi import APIRouter, Body, Response
from pydantic import BaseModel, Field

from app.domain.experiments.catalogue import EXPERIMENTS, Experiment, ask, get_experiment
from app.domain.experiments.plans import ExperimentRequest
from app.services import sweeps as service
from app.web.api.runs import IdempotencyKey
from app.web.api.sharing import Private
from app.web.api.sweeps import RECIPE, SweepView, show
from app.web.dependencies import CurrentUser, WriteSession

router = APIRouter(prefix="/experiments", tags=["sweeps"])


class ExperimentView(BaseModel):
    """An experiment of the catalogue."""

    name: str = Field(description="By which it is launched.", examples=["temperature"])
    title: str = Field(description="Its title for people.")
    question: str = Field(description="What it asks.")
    expected: str = Field(description="What should come out, and where that is known from.")
    num_settings: int = Field(description="Runs that it makes for each seed.")


@router.get("", operation_id="list_experiments", summary="List experiments")
def list_experiments(_: CurrentUser) -> list[ExperimentView]:
    """All there are; each is one request away from its runs."""
    return [view(one) for one in EXPERIMENTS.values()]


def view(one: Experiment) -> ExperimentView:
    return ExperimentView(
        name=one.name, title=one.title, question=one.question, expected=one.expected, num_settings=one.num_settings
    )


EXAMPLES = {"temperature": {"summary": "100 steps, three seeds", "value": {"recipe": RECIPE, "steps": 100, "seeds": 3}}}


@router.post("/{experiment}", status_code=202, operation_id="launch_experiment", summary="Launch an experiment")
def launch_experiment(
    experiment: str, request: Annotated[ExperimentRequest, Body(openapi_examples=EXAMPLES)], session: WriteSession,
    user: CurrentUser, response: Response, idempotency_key: IdempotencyKey = None, private: Private = False,
) -> SweepView:  # fmt: skip
    """Queues all its runs as a sweep, whose `experiment` says what came out when they have ended."""
    asked = ask(get_experiment(experiment), request)
    sweep = service.launch(session, user.id, asked, idempotency_key=idempotency_key, private=private)
    response.headers["location"] = f"/api/v1/sweeps/{sweep.id}"
    return show(session, user.id, sweep)
