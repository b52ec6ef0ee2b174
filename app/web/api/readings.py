"""REST: a data set in a model's tokens: how long its texts are, and one of its examples token by token."""

from datetime import date
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from app.domain.preview.readings import (
    ExampleReading,
    ExampleRequest,
    LeftOut,
    LengthCounts,
    LengthsReading,
    LengthsRequest,
    PromptFormatName,
)
from app.store.models import get_model
from app.web.dependencies import CurrentDatabase, CurrentUser, read_apart
from app.web.reading_requests import read

router = APIRouter(prefix="/datasets", tags=["datasets"])

Limit = Annotated[int, Field(ge=1, le=1_000_000)]


class LengthsQuery(BaseModel):
    """Whose tokens, and where texts would be cut."""

    model: str = Field(max_length=80, description="Id of a policy or of a reward model.")
    revision: str | None = Field(None, max_length=120, description="Revision on the hub.")
    prompt_format: PromptFormatName = "auto"
    template_date: date | None = Field(None, description="What the chat template takes for today.")
    max_prompt: Limit = 512
    max_response: Limit = 512
    max_examples: int | None = Field(None, ge=2, description="Only the first examples, as in a recipe.")


class ExampleQuery(BaseModel):
    """Which example, and as which models read it."""

    model: str = Field(max_length=80, description="Id of the policy.")
    revision: str | None = Field(None, max_length=120)
    reward: str | None = Field(None, max_length=80, description="Id of a reward model that scores it.")
    example: int = Field(0, ge=0, description="Number of the example, from 0.")
    prompt_format: PromptFormatName = "auto"
    template_date: date | None = None
    max_prompt: Limit = 512
    max_response: Limit = 512


class TextLengths(BaseModel):
    """Lengths in tokens."""

    limit: int | None = Field(description="Where they are cut: the limit that was asked for, within the context window.")
    share_cut: float = Field(description="Share that is longer than the limit.")
    median: int
    p90: int
    p99: int
    longest: int
    suggested: int | None = Field(description="A limit in round numbers that leaves 99 of 100 whole, within the window.")


class LengthsView(BaseModel):
    """Of a reward model, `responses` are whole conversations, which are cut at its context window."""

    num_examples: int
    num_sampled: int = Field(description="How many examples were read, spread evenly: at most 2000.")
    window: int | None = Field(description="The model's context window.")
    prompts: TextLengths | None
    responses: TextLengths
    refused: list[LeftOut] = Field(description="What the chat template refuses, with the first lines or rows.")
    omitted: list[LeftOut] = Field(description="What the chat template leaves out.")


def show_lengths(reading: LengthsReading, max_prompt: int, max_response: int) -> LengthsView:
    limits, suggested = reading.fit(max_prompt, max_response), reading.suggest()
    is_whole = reading.prompts.total == 0
    return LengthsView(
        num_examples=reading.num_examples,
        num_sampled=reading.num_sampled,
        window=reading.window,
        prompts=None if is_whole else show_texts(reading.prompts, limits[0], suggested[0]),
        responses=show_texts(reading.responses, *((reading.window, None) if is_whole else (limits[1], suggested[1]))),
        refused=list(reading.refused),
        omitted=list(reading.omitted),
    )


def show_texts(counts: LengthCounts, limit: int | None, suggested: int | None) -> TextLengths:
    return TextLengths(
        limit=limit,
        share_cut=0.0 if limit is None else counts.share_over(limit),
        median=counts.quantile(0.5),
        p90=counts.quantile(0.9),
        p99=counts.quantile(0.99),
        longest=counts.quantile(1),
        suggested=suggested,
    )


@router.get("/{dataset_id}/lengths", operation_id="measure_lengths", summary="Measure a data set's texts in a model's tokens")
async def measure_lengths(
    request: Request, database: CurrentDatabase, user: CurrentUser, dataset_id: str, query: Annotated[LengthsQuery, Query()]
) -> LengthsView:
    """How long prompts and responses are, which share would be cut at the given limits, limits that would leave 99 of 100 whole,
    and the examples that the chat template refuses or of which it leaves something out. Read from a sample; the counts are kept
    as long as data set and tokenizer stay as they are. 503 with Retry-After when no worker answers in time."""
    is_reward = await read_apart(request, is_reward_model, database, user.id, query.model)
    asked = LengthsRequest(
        model_id=query.model, revision=query.revision, prompt_format="auto" if is_reward else query.prompt_format,
        day=query.template_date, dataset_id=dataset_id, max_examples=query.max_examples, whole=is_reward,
    )  # fmt: skip
    reading = await read(request, user.id, asked)
    assert isinstance(reading, LengthsReading)
    return show_lengths(reading, query.max_prompt, query.max_response)


@router.get("/{dataset_id}/reading", operation_id="read_example", summary="Show an example token by token")
async def read_example(
    request: Request, user: CurrentUser, dataset_id: str, query: Annotated[ExampleQuery, Query()]
) -> ExampleReading:
    """One example as the policy learns it at these limits, and as the reward model reads what is learned: the tokens of prompt,
    opening, answer and end, with their ids. 503 with Retry-After when no worker answers in time."""
    asked = ExampleRequest(
        model_id=query.model, revision=query.revision, prompt_format=query.prompt_format, day=query.template_date,
        dataset_id=dataset_id, example=query.example, max_prompt=query.max_prompt, max_response=query.max_response,
        reward_id=query.reward,
    )  # fmt: skip
    reading = await read(request, user.id, asked)
    assert isinstance(reading, ExampleReading)
    return reading


def is_reward_model(database: CurrentDatabase, owner_id: str, model_id: str) -> bool:
    """Raises NotFound."""
    with database.reading() as session:
        return get_model(session, owner_id, model_id).kind == "reward"
