"""A chat: a conversation that one to three models answer side by side while somebody watches, and what is told meanwhile."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, TypeAdapter, model_validator

from app.domain.answering.answers import Identifier, LocalModel, RegisteredModel, RunModel, SamplingSettings
from app.domain.answering.job import CheckpointSource
from app.domain.answering.prompt_set import MOST_CHARACTERS
from app.domain.dataset import Frozen
from app.domain.jobs import ModelSource
from app.domain.problems import fault
from app.domain.texts import Keepable

MOST_MODELS = 3
MOST_MESSAGES = 100
MOST_NEW_TOKENS = 4096
RUN_AT_STEP = re.compile(r"(run_\w+)(?:@(\d{1,9}))?")


def read_short(value: Any) -> Any:
    """Return a short form as what it stands for: `model_…` a registered policy, `run_…` a run's model, `run_…@120` at a step."""
    if not isinstance(value, str):
        return value
    found = RUN_AT_STEP.fullmatch(value.strip())
    if found is None:
        return {"source": "model", "model": value.strip()}
    return {"source": "run", "run": found[1], "step": int(found[2]) if found[2] else None}


def write_short(model: RegisteredModel | RunModel) -> str:
    """Return the short form of a choice."""
    if isinstance(model, RegisteredModel):
        return model.model
    return model.run if model.step is None else f"{model.run}@{model.step}"


class Utterance(Frozen):
    role: Literal["system", "user", "assistant"]
    content: Annotated[Keepable, Field(max_length=MOST_CHARACTERS)]


class ChatRequest(Frozen):
    """What is said, which models answer, and how. The same request with the same seed gives the same answers."""

    models: Annotated[
        list[Annotated[LocalModel, BeforeValidator(read_short)]],
        Field(
            min_length=1,
            max_length=MOST_MODELS,
            description="One to three models: `model_…`, `run_…`, `run_…@STEP`, or objects as answers have them.",
        ),
    ]
    messages: Annotated[
        list[Utterance],
        Field(min_length=1, max_length=MOST_MESSAGES, description="Perhaps a system turn, earlier turns, and the user's last."),
    ]
    sampling: SamplingSettings = SamplingSettings()
    reward: Identifier | None = Field(None, description="A reward model, which scores each answer when it is done.")

    @model_validator(mode="after")
    def can_be_answered(self) -> Self:
        turns = [message.role for message in self.messages if message.role != "system"]
        if "system" in [message.role for message in self.messages[1:]]:
            raise fault("messages", "The system turn comes first, before all others.")
        if any(role != ("user", "assistant")[place % 2] for place, role in enumerate(turns)):
            raise fault("messages", "User and assistant speak in turns, and the user begins.")
        if not turns or turns[-1] != "user" or not self.messages[-1].content.strip():
            raise fault("messages", "The last message is the user's, which the models are to answer: write one.")
        if (size := sum(len(message.content) for message in self.messages)) > MOST_CHARACTERS:
            raise fault("messages", f"These are {size:,} characters, and at most {MOST_CHARACTERS:,} are taken: shorten them.")
        if self.sampling.max_new_tokens > MOST_NEW_TOKENS:
            raise fault("sampling.max_new_tokens", f"An answer has at most {MOST_NEW_TOKENS} tokens here.")
        return self

    @property
    def has_several_turns(self) -> bool:
        return any(message.role == "assistant" for message in self.messages)


class ChatModel(Frozen):
    """Where a model is that answers or judges; `checkpoint`: what a run that began from it had trained by one step."""

    name: str
    source: ModelSource
    checkpoint: CheckpointSource | None = None


class ChatJob(Frozen):
    """What the chatting process is told of one chat, with the paths of its machine."""

    request: ChatRequest
    models: tuple[ChatModel, ...]
    reward: ChatModel | None
    hub_dir: str
    device: Literal["cpu", "cuda"]


class Begun(Frozen):
    """A worker has it: what was there of the answers is gone."""

    kind: Literal["begun"] = "begun"
    worker: str


class Loading(Frozen):
    """A model is not in memory yet."""

    kind: Literal["loading"] = "loading"
    name: str


class Spoken(Frozen):
    """A piece of a model's answer; `is_whole`: it stands for all that was told of it before."""

    kind: Literal["spoken"] = "spoken"
    model: int
    text: str
    is_whole: bool = False


class Answered(Frozen):
    """A model's whole answer. `end`: why it is over; seconds are from the chat's begin on the worker."""

    kind: Literal["answered"] = "answered"
    model: int
    text: str
    end: Literal["finished", "length", "context", "stopped"]
    num_tokens: int
    num_prompt_tokens: int
    first_seconds: float | None  # until the first token
    seconds: float  # that its tokens took


class Declined(Frozen):
    """A model gives no answer, and why."""

    kind: Literal["declined"] = "declined"
    model: int
    detail: str


class Rewarded(Frozen):
    """What the reward model says of an answer; `detail`: why it says nothing."""

    kind: Literal["rewarded"] = "rewarded"
    model: int
    reward: float | None
    detail: str = ""


class GivenBack(Frozen):
    """The worker had to let go of it; it begins again, with the same words, once one has room."""

    kind: Literal["given_back"] = "given_back"
    detail: str


class Ended(Frozen):
    kind: Literal["ended"] = "ended"
    state: Literal["done", "stopped", "failed"]
    detail: str = ""


ChatEvent = Annotated[Begun | Loading | Spoken | Answered | Declined | Rewarded | GivenBack | Ended, Field(discriminator="kind")]
_EVENT: TypeAdapter[ChatEvent] = TypeAdapter(ChatEvent)


def parse_event(data: Any) -> ChatEvent:
    """Return an event of a chat; raises ValidationError."""
    return _EVENT.validate_python(data)


class ModelsAnswer(Frozen):
    """How far one model is: its text so far, and how it ended."""

    text: str = ""
    answered: Answered | None = None
    declined: str = ""
    rewarded: Rewarded | None = None


def gather(num_models: int, events: list[ChatEvent]) -> list[ModelsAnswer]:
    """Return how far each model is by what was told."""
    answers = [ModelsAnswer() for _ in range(num_models)]
    for event in events:
        if isinstance(event, Begun):
            answers = [ModelsAnswer() for _ in range(num_models)]
        if not isinstance(event, Spoken | Answered | Declined | Rewarded) or not 0 <= event.model < num_models:
            continue
        known = answers[event.model]
        if isinstance(event, Spoken):
            changed: dict[str, Any] = {"text": event.text if event.is_whole else known.text + event.text}
        elif isinstance(event, Answered):
            changed = {"text": event.text, "answered": event}
        else:
            changed = {"declined": event.detail} if isinstance(event, Declined) else {"rewarded": event}
        answers[event.model] = known.model_copy(update=changed)
    return answers
