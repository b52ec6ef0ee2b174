"""The playground: a conversation, the models that answer it side by side while one watches, and what was asked before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from sqlalchemy.orm import Session
from starlette.datastructures import FormData

from app.domain.answering.answers import SamplingSettings
from app.domain.answering.chat import MOST_MODELS, ChatEvent, ChatRequest, Ended, Loading, ModelsAnswer, gather, write_short
from app.domain.errors import InvalidInput, StudioError
from app.domain.problems import parse
from app.domain.recipe import Method
from app.domain.run import RunKind, RunState
from app.services.answering import chats as service
from app.store import models, runs
from app.store.answering import chats as store
from app.store.answering.prompt_sets import list_prompt_sets
from app.store.checkpoints import list_kept
from app.store.tables import Chat, PromptSet, Run
from app.web.dependencies import CurrentDatabase, CurrentFiles, CurrentUser, ReadSession, WriteSession, write_apart
from app.web.rendering.choices import Choice, checkpoint_choices, model_choices, run_choices
from app.web.rendering.environment import Context, go_to, render
from app.web.rendering.form_words import tell_error
from app.web.stream import STREAM_HEADERS, follow_chat, position

router = APIRouter()

PAGE_SIZE = 12
NUM_LISTED, NUM_SETS = 200, 30
NUM_RUNS = 30  # whose checkpoints are listed
DIALS = (
    ("temperature", "Temperature", "decimal", "0 takes the likeliest token each time; 1 is the model as it is."),
    ("top_p", "Top p", "decimal", "Only the likeliest tokens that together have this probability."),
    ("max_new_tokens", "Longest answer", "numeric", "In tokens."),
    ("seed", "Seed", "numeric", "The same words with the same seed get the same answers; all models share its random numbers."),
)


@dataclass(frozen=True, kw_only=True)
class AskForm:
    """What the form holds."""

    models: list[str]
    system: str
    turns: list[str]  # of the user and the assistant in turn
    prompt: str
    reward: str
    dials: Mapping[str, str]

    def to_request(self) -> ChatRequest:
        """Raises InvalidInput."""
        roles = ("user", "assistant")
        turns = [{"role": roles[place % 2], "content": text} for place, text in enumerate([*self.turns, self.prompt])]
        system = [{"role": "system", "content": self.system}] if self.system.strip() else []
        chosen = list(dict.fromkeys(model for model in self.models if model))
        if not chosen:
            raise InvalidInput.at("models", "Choose a model that answers.")
        sampling = {name: value for name, value in self.dials.items() if value.strip()}
        asked = {"models": chosen, "messages": [*system, *turns], "sampling": sampling, "reward": self.reward or None}
        return parse(ChatRequest, asked, InvalidInput)


EMPTY = AskForm(
    models=[], system="", turns=[], prompt="", reward="",
    dials={name: f"{getattr(SamplingSettings(), name):g}" for name, *_ in DIALS},
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ShownChat:
    """A chat with its answers as far as they are."""

    chat: Chat
    asked: ChatRequest
    answers: list[tuple[str, ModelsAnswer]]
    doing: str  # what it waits for, or what is happening before the first words, as a sentence
    error: str
    is_over: bool
    prompt_sets: list[PromptSet]  # that the prompt may be added to


@dataclass(frozen=True, kw_only=True)
class AnswersPart(Context):
    """Asked for again at each turn of events."""

    template = "playground/_answers.html"

    shown: ShownChat


@dataclass(frozen=True, kw_only=True)
class PlaygroundPage(Context):
    template = "playground/playground.html"

    values: AskForm
    num_places: int
    policies: list[Choice]
    trained: list[Choice]
    kept: list[Choice]  # checkpoints of runs
    rewards: list[Choice]
    others: list[Choice]  # chosen, and in neither list
    dials: tuple[tuple[str, str, str, str], ...]
    detail: str
    shown: ShownChat | None
    chats: list[Chat]
    after: str
    next_after: str


@router.get("/playground")
def show_playground(
    request: Request, session: ReadSession, user: CurrentUser, after: Annotated[str, Query(max_length=60)] = "",
    models: Annotated[str, Query(max_length=300)] = "", chat: Annotated[str, Query(max_length=60)] = "",
    answer: Annotated[int, Query(ge=0, lt=MOST_MODELS)] = 0,
) -> HTMLResponse:  # fmt: skip
    """The form: with `models`, of these; with `chat` and `answer`, to go on from that answer."""
    service.expect(session)
    chosen = [one.strip() for one in models.split(",") if one.strip()][:MOST_MODELS]
    values = AskForm(**{**vars(EMPTY), "models": chosen})
    if chat:
        values = go_on(session, store.get_chat(session, user.id, chat), answer)
    return page(request, session, user.id, values, after=after)


def go_on(session: Session, chat: Chat, answer: int) -> AskForm:
    """Return the form with one of a chat's answers as its last turn."""
    values = fill(chat)
    answers = gather(len(chat.names), store.read_events(store.read_entries(session, chat.id)))
    if answer >= len(answers) or not answers[answer].text:
        return values
    return AskForm(**{**vars(values), "turns": [*values.turns, values.prompt, answers[answer].text], "prompt": ""})


def fill(chat: Chat) -> AskForm:
    """Return the form as it was when the chat was asked."""
    asked = ChatRequest.model_validate(chat.request)
    system = "".join(message.content for message in asked.messages if message.role == "system")
    turns = [message.content for message in asked.messages if message.role != "system"]
    sampling = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in asked.sampling}
    return AskForm(
        models=[write_short(model) for model in asked.models], system=system, turns=turns[:-1], prompt=turns[-1],
        reward=asked.reward or "", dials={name: sampling[name] for name in EMPTY.dials},
    )  # fmt: skip


@router.post("/playground")
async def ask(request: Request, database: CurrentDatabase, user: CurrentUser) -> Response:
    """The chat's page; or the form again, with what is wrong."""
    async with request.form(max_fields=200, max_files=0) as form:
        values = read_form(form)

    def queue() -> Response:
        try:
            with database.writing() as session:
                chat_id = service.ask(session, user.id, values.to_request()).id
        except StudioError as error:
            with database.reading() as session:
                return page(request, session, user.id, values, error=error)
        return RedirectResponse(f"/playground/{chat_id}", status_code=303)

    return await write_apart(request, queue)


def read_form(form: FormData) -> AskForm:
    def text(name: str) -> str:
        return str(form.get(name, "")).replace("\r\n", "\n")

    turns = [str(turn).replace("\r\n", "\n") for turn in form.getlist("turn")]
    chosen = [str(model)[:120] for model in form.getlist("model")][:MOST_MODELS]
    return AskForm(
        models=chosen, system=text("system"), turns=turns, prompt=text("prompt"), reward=text("reward"),
        dials={name: text(name)[:40] for name in EMPTY.dials},
    )  # fmt: skip


@router.get("/playground/{chat_id}")
def show_chat(request: Request, session: ReadSession, user: CurrentUser, chat_id: str) -> HTMLResponse:
    chat = store.get_chat(session, user.id, chat_id)
    return page(request, session, user.id, fill(chat), chat=chat)


@router.get("/playground/{chat_id}/answers")
def show_answers(request: Request, session: ReadSession, user: CurrentUser, chat_id: str) -> HTMLResponse:
    return render(request, AnswersPart(shown=describe(session, store.get_chat(session, user.id, chat_id))))


def find_position(
    request: Request, session: ReadSession, user: CurrentUser, chat_id: str, after: Annotated[int, Query(ge=0, le=2**60)] = 0
) -> int:
    """Return where this reader goes on. Raises NotFound before the stream begins."""
    return position(request, store.get_chat(session, user.id, chat_id).last_seq, after)


@router.get("/playground/{chat_id}/live", response_class=StreamingResponse)
async def follow(
    request: Request, chat_id: str, after: Annotated[int, Depends(find_position, scope="function")]
) -> StreamingResponse:
    return StreamingResponse(follow_chat(request, chat_id, after), media_type="text/event-stream", headers=STREAM_HEADERS)


@router.post("/playground/{chat_id}/stop")
def stop(request: Request, session: WriteSession, user: CurrentUser, chat_id: str) -> Response:
    service.request_stop(session, user.id, chat_id)
    if request.headers.get("hx-request"):  # the stream tells what comes of it
        return Response(status_code=204)
    return RedirectResponse(f"/playground/{chat_id}", status_code=303)


@router.post("/playground/{chat_id}/again")
def ask_again(request: Request, session: WriteSession, user: CurrentUser, chat_id: str) -> Response:
    """The same with the next seed."""
    asked = ChatRequest.model_validate(store.get_chat(session, user.id, chat_id).request)
    sampling = asked.sampling.model_copy(update={"seed": (asked.sampling.seed + 1) % 2**63})
    chat = service.ask(session, user.id, asked.model_copy(update={"sampling": sampling}))
    return go_to(request, f"/playground/{chat.id}")


@dataclass(frozen=True, kw_only=True)
class KeptNotice(Context):
    template = "playground/_kept.html"

    prompt_set: PromptSet


@router.post("/playground/{chat_id}/keep")
def keep_prompt(
    request: Request, session: WriteSession, files: CurrentFiles, user: CurrentUser, chat_id: str,
    prompt_set: Annotated[str, Form(max_length=80)] = "",
) -> Response:  # fmt: skip
    """The prompt becomes part of a prompt set, which all models can be asked."""
    kept = service.keep_prompt(session, files, user.id, chat_id, prompt_set or None)
    if request.headers.get("hx-request"):
        return render(request, KeptNotice(prompt_set=kept))
    return RedirectResponse(f"/playground/{chat_id}", status_code=303)


@router.post("/playground/{chat_id}/delete")
def delete_chat(request: Request, session: WriteSession, user: CurrentUser, chat_id: str) -> Response:
    service.delete(session, user.id, chat_id)
    return go_to(request, "/playground")


def describe(session: Session, chat: Chat) -> ShownChat:
    """Return the answers of a chat with what is happening to it."""
    events = store.read_events(store.read_entries(session, chat.id))
    answers = list(zip(chat.names, gather(len(chat.names), events), strict=True))
    error = next((event.detail for event in events if isinstance(event, Ended)), "")
    doing = service.describe_wait(session, chat) or tell_doing(chat, events)
    return ShownChat(
        chat=chat, asked=ChatRequest.model_validate(chat.request), answers=answers, doing=doing, error=error,
        is_over=chat.state in store.FINAL_STATES, prompt_sets=list_prompt_sets(session, chat.owner_id, limit=NUM_SETS),
    )  # fmt: skip


def tell_doing(chat: Chat, events: Sequence[ChatEvent]) -> str:
    if chat.state != store.ANSWERING:
        return ""
    last = events[-1] if events else None
    return f"Loading “{last.name}” into memory." if isinstance(last, Loading) else ""


def page(
    request: Request, session: Session, user_id: str, values: AskForm, *, chat: Chat | None = None, after: str = "",
    error: StudioError | None = None,
) -> HTMLResponse:  # fmt: skip
    found = store.list_chats(session, user_id, after=after or None, limit=PAGE_SIZE + 1)
    policies = model_choices(models.list_models(session, user_id, kind="policy", limit=NUM_LISTED))
    ended = runs.list_runs(session, user_id, state=RunState.SUCCEEDED, kind=RunKind.TRAINING, limit=NUM_LISTED)
    trained = run_choices([run for run in ended if gives_answers(run)])
    newest = [run for run in runs.list_runs(session, user_id, kind=RunKind.TRAINING, limit=NUM_RUNS) if gives_answers(run)]
    kept = checkpoint_choices(newest, list_kept(session, newest))
    known = {choice.id for choice in (*policies, *trained, *kept)}
    names: dict[str, Any] = dict(zip(values.models, chat.names if chat else (), strict=False))
    context = PlaygroundPage(
        values=values, num_places=MOST_MODELS, policies=policies, trained=trained, kept=kept,
        rewards=model_choices(models.list_models(session, user_id, kind="reward", limit=NUM_LISTED)),
        others=[Choice(one, str(names.get(one, one))) for one in values.models if one and one not in known],
        dials=DIALS, detail=tell_error(error) if error else "",
        shown=describe(session, chat) if chat is not None else None,
        chats=found[:PAGE_SIZE], after=after, next_after=found[PAGE_SIZE - 1].id if len(found) > PAGE_SIZE else "",
    )  # fmt: skip
    return render(request, context, status=error.status if error else 200)


def gives_answers(run: Run) -> bool:
    """Return whether what the run trains can be asked."""
    return run.recipe.get("method") != Method.REWARD_MODEL
