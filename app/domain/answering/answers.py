"""Answers: one model's answers to one prompt set, so many per prompt, drawn in a way that is part of what they are."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from app.domain.answering.judge import Judge
from app.domain.dataset import Frozen
from app.domain.errors import InvalidInput
from app.domain.problems import fault
from app.domain.texts import Line

MOST_TOKENS = 50_000_000  # of all answers
MOST_JUDGES = 16

Identifier = Annotated[Line, Field(min_length=1, max_length=80)]


class RegisteredModel(Frozen):
    """A policy of the models' list."""

    source: Literal["model"] = "model"
    model: Identifier = Field(description="The policy's id.")


class RunModel(Frozen):
    """What a run has trained: at its end, or at a checkpoint that is kept."""

    source: Literal["run"] = "run"
    run: Identifier = Field(description="The run's id.")
    step: int | None = Field(
        None, ge=0, description="A step whose checkpoint is kept; empty: the end of a run that has succeeded."
    )


class EndpointModel(Frozen):
    """A model behind an OpenAI-compatible address."""

    source: Literal["endpoint"] = "endpoint"
    endpoint: Identifier = Field(description="The endpoint's id.")


class UploadedModel(Frozen):
    """A model that is not here: its answers were uploaded."""

    source: Literal["upload"] = "upload"
    name: Line = Field(min_length=1, max_length=200)


LocalModel = Annotated[RegisteredModel | RunModel, Field(discriminator="source")]  # whose weights are here
AnsweringModel = Annotated[RegisteredModel | RunModel | EndpointModel, Field(discriminator="source")]  # what a worker can ask
ModelChoice = Annotated[RegisteredModel | RunModel | EndpointModel | UploadedModel, Field(discriminator="source")]


class SamplingSettings(Frozen):
    """How answers are drawn. The random numbers of an answer are a function of seed, prompt and draw alone."""

    max_new_tokens: int = Field(256, ge=1, le=32_768, description="Longest answer, in tokens.")
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = Field(1.0, description="0: greedy decoding.")
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        1.0, description="Nucleus sampling: only the likeliest tokens that together have this probability; 1: all of them."
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Starts the random numbers, which all models share.")
    prompt_format: Literal["auto", "chat", "plain"] = Field(
        "auto", description="auto: the tokenizer's chat template if it has one, otherwise plain Human/Assistant turns."
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Number type in which the model computes.")


class AnswersRequest(Frozen):
    """What is asked of which model."""

    name: Line = Field("", max_length=120, description="A name for people; empty: made from model and prompt set.")
    prompt_set: Identifier = Field(description="The prompt set's id.")
    model: AnsweringModel = Field(description="A registered policy, what a run has trained, or an endpoint.")
    num_draws: int = Field(1, ge=1, le=64, alias="n", description="Answers to each prompt.")
    sampling: SamplingSettings = SamplingSettings()
    judges: Annotated[list[Judge], Field(max_length=MOST_JUDGES)] = Field(
        [], description="Who judges them; more can be asked later."
    )

    @model_validator(mode="after")
    def draws_differ(self) -> Self:
        if self.num_draws > 1 and self.sampling.temperature == 0:
            raise fault(
                "n", f"Greedy decoding gives the same answer {self.num_draws} times: raise the temperature, or ask for one."
            )
        return self


class AnswersFacts(Frozen):
    """What finished answers are. `model_sha256`: of weights and configuration, null where they are not here."""

    num_prompts: int
    num_answers: int
    num_finished: int  # that ended by themselves; the others reached the longest answer
    num_tokens: int | None  # null: uploaded answers, whose tokens are not known
    num_missing: int = 0  # prompts without an answer
    seconds: float = 0.0
    model_sha256: str | None = None


def refuse_excess(num_prompts: int, num_draws: int, max_new_tokens: int) -> None:
    """Raise InvalidInput for more tokens than answers may have."""
    wanted = num_prompts * num_draws * max_new_tokens
    if wanted > MOST_TOKENS:
        raise InvalidInput.at(
            "n",
            f"{num_draws} answers to {num_prompts} prompts of up to {max_new_tokens} tokens may come to {wanted:,} tokens, "
            f"and at most {MOST_TOKENS:,} are made at once: ask for fewer or shorter answers, or take a smaller prompt set.",
        )


def fingerprint(prompts_sha256: str, model: Sequence[object], num_draws: int, sampling: SamplingSettings) -> str:
    """Return the identity of answers before they are made. `model`: what tells its contents from all others'."""
    text = json.dumps([prompts_sha256, list(model), num_draws, sampling.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_choice(stored: Mapping[str, Any]) -> RegisteredModel | RunModel | EndpointModel | UploadedModel:
    """Return a model's choice as it is kept."""
    found: RegisteredModel | RunModel | EndpointModel | UploadedModel = CHOICES.validate_python(stored)
    return found


CHOICES: TypeAdapter[Any] = TypeAdapter(ModelChoice)
