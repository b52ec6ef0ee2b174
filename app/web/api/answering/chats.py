"""REST: chats. A conversation that one to three models answer side by side, streamed while they do."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from app.domain.answering.chat import Answered, ChatRequest, Ended, Utterance, gather, write_short
from app.services.answering import chats as service
from app.store.answering import chats as store
from app.store.database import Database
from app.store.tables import Chat
from app.web.api.paging import After, AfterSeq, Limit, Page, to_page
from app.web.dependencies import CurrentDatabase, CurrentUser, ReadSession, WriteSession, write_apart
from app.web.stream import STREAM_HEADERS, follow_chat, position

router = APIRouter(prefix="/chats", tags=["chats"])


class ChatView(BaseModel):
    """A chat as lists show it."""

    id: str = Field(examples=["chat_01kb4y7v3m2q8d5n6c9t0r1x2z"])
    state: Literal["waiting", "answering", "done", "stopped", "failed"]
    models: list[str] = Field(description="As they are asked for: `model_…`, `run_…`, `run_…@STEP`.")
    names: list[str] = Field(description="What people call the models.")
    messages: list[Utterance]
    last_seq: int = Field(description="The seq of the newest event.")
    created_at: datetime
    finished_at: datetime | None


class ChatAnswer(BaseModel):
    """One model's answer, as far as it is."""

    name: str
    text: str
    answered: Answered | None = Field(description="How it ended, with tokens and seconds; null before.")
    declined: str = Field(description="Why there is no answer, as a sentence; empty when there is.")
    reward: float | None


class ChatDetail(ChatView):
    request: ChatRequest
    waiting_for: str = Field(description="What it waits for, as a sentence; empty when it is answered or over.")
    error: str = Field(description="Why it failed, as a sentence; empty when it didn't.")
    answers: list[ChatAnswer]


PROMPT = {"role": "user", "content": "My printer is broken."}
EXAMPLES: dict[str, Any] = {
    "one": {
        "summary": "One model, one prompt",
        "value": {"models": ["model_01kb4y7v3m2q8d5n6c9t0r1x2z"], "messages": [PROMPT]},
    },
    "two": {
        "summary": "A run's model beside the one it began from, with a reward",
        "value": {
            "models": ["model_01kb4y7v3m2q8d5n6c9t0r1x2z", "run_01kb4y7v3m2q8d5n6c9t0r1x2z"],
            "messages": [{"role": "system", "content": "Be brief."}, PROMPT],
            "sampling": {"max_new_tokens": 64, "temperature": 0.7, "seed": 3},
            "reward": "model_01kb4y7v3m2q8d5n6c9t0r1x30",
        },
    },
}  # fmt: skip
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/event-stream": {}},
        "description": "id = seq, event = kind: begun, loading, spoken, answered, declined, rewarded, given_back, ended; "
        "`waiting` tells what it waits for; `end` comes last. The header `location` names the chat.",
    }
}  # fmt: skip


def show(chat: Chat) -> ChatView:
    return ChatView(**to_fields(chat))


def to_fields(chat: Chat) -> dict[str, Any]:
    request = ChatRequest.model_validate(chat.request)
    names = ("id", "state", "names", "last_seq", "created_at", "finished_at")
    shown = {name: getattr(chat, name) for name in names}
    return {**shown, "models": [write_short(model) for model in request.models], "messages": request.messages}


def show_detail(session: Session, chat: Chat) -> ChatDetail:
    events = store.read_events(store.read_entries(session, chat.id))
    answers = [
        ChatAnswer(name=name, reward=one.rewarded.reward if one.rewarded else None, **one.model_dump(exclude={"rewarded"}))
        for name, one in zip(chat.names, gather(len(chat.names), events), strict=True)
    ]
    error = next((event.detail for event in events if isinstance(event, Ended)), "")
    request = ChatRequest.model_validate(chat.request)
    waiting_for = service.describe_wait(session, chat)
    return ChatDetail(**to_fields(chat), request=request, waiting_for=waiting_for, error=error, answers=answers)


@router.post(
    "", operation_id="chat", summary="Let models answer a conversation", response_class=StreamingResponse, responses=STREAM
)
async def chat(
    body: Annotated[ChatRequest, Body(openapi_examples=EXAMPLES)], request: Request, database: CurrentDatabase,
    user: CurrentUser,
) -> StreamingResponse:  # fmt: skip
    """Queues the conversation for the workers and streams the answers while they are made. Whoever stops reading may come back:
    the chat goes on, and `GET /chats/{id}/stream` goes on with it."""
    chat_id = await write_apart(request, ask, database, user.id, body)
    headers = {**STREAM_HEADERS, "location": f"/api/v1/chats/{chat_id}"}
    return StreamingResponse(follow_chat(request, chat_id, 0), media_type="text/event-stream", headers=headers)


def ask(database: Database, owner_id: str, asked: ChatRequest) -> str:
    with database.writing() as session:
        return service.ask(session, owner_id, asked).id


@router.get("", operation_id="list_chats", summary="List your chats")
def list_chats(session: ReadSession, user: CurrentUser, after: After = None, limit: Limit = 50) -> Page[ChatView]:
    """Newest first; nobody else sees them. They are removed after some days (STUDIO_CHATS_DAYS)."""
    rows = store.list_chats(session, user.id, after=after, limit=limit + 1)
    return to_page(rows, limit, show, lambda row: row.id)


@router.get("/{chat_id}", operation_id="get_chat", summary="Get a chat")
def get_chat(session: ReadSession, user: CurrentUser, chat_id: str) -> ChatDetail:
    """One chat with its answers, as far as they are."""
    return show_detail(session, store.get_chat(session, user.id, chat_id))


def find_position(request: Request, session: ReadSession, user: CurrentUser, chat_id: str, after: AfterSeq = 0) -> int:
    """Return where this reader goes on. Raises NotFound before the stream begins."""
    return position(request, store.get_chat(session, user.id, chat_id).last_seq, after)


@router.get(
    "/{chat_id}/stream", operation_id="stream_chat", summary="Follow a chat", response_class=StreamingResponse, responses=STREAM
)
async def stream_chat(
    request: Request, chat_id: str, after: Annotated[int, Depends(find_position, scope="function")]
) -> StreamingResponse:
    """The events after `after`, or after the Last-Event-ID, then each new one until the chat is over."""
    return StreamingResponse(follow_chat(request, chat_id, after), media_type="text/event-stream", headers=STREAM_HEADERS)


@router.post("/{chat_id}/stop", status_code=202, operation_id="stop_chat", summary="Stop a chat")
def stop_chat(session: WriteSession, user: CurrentUser, chat_id: str) -> ChatView:
    """The models stop within a token; what they have said stays."""
    return show(service.request_stop(session, user.id, chat_id))


@router.delete("/{chat_id}", status_code=204, operation_id="delete_chat", summary="Delete a chat")
def delete_chat(session: WriteSession, user: CurrentUser, chat_id: str) -> None:
    """Removes it with its answers; one that is being answered is stopped."""
    service.delete(session, user.id, chat_id)
