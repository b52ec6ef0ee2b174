"""What can be done with chats: ask, stop, delete; on the worker's side begin, renew, tell, give back. Nothing here commits.

The row is the queue entry. A claim gives a fencing token, which comes with every later write; a stale one changes nothing.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.domain.answering.answers import LocalModel, RunModel
from app.domain.answering.chat import Begun, ChatEvent, ChatJob, ChatModel, ChatRequest, Ended, GivenBack
from app.domain.answering.prompt_set import Prompt, PromptMessage, PromptOrigin, number
from app.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, StudioError, TooManyRequests
from app.services.answering import prompt_sets
from app.services.answering.choices import choose
from app.services.answering.specs import find_local
from app.services.readings import locate
from app.store import models, workers
from app.store.answering import chats as store
from app.store.answering import prompt_sets as prompt_set_store
from app.store.answering.lines import read_prompts
from app.store.database import now
from app.store.files.files import Files
from app.store.tables import Chat, Model, PromptSet, Run
from app.system.identifiers import new_id

WARM_UP = "chat"  # the hint's word when no chat waits yet; the ids of chats begin with it too
KEPT = "From the playground"  # a prompt set's name
MOST_WAITING = 10  # of one user
STARTED = "start one (varstudio up does), and it answers."
RESUMED = "it is answered when one is resumed."


@dataclass(frozen=True)
class ChatClaim:
    """A chat in the hands of a worker; `token` must come with every write."""

    chat_id: str
    token: int


def ask(session: Session, owner_id: str, request: ChatRequest) -> Chat:
    """Queue a chat for the workers.

    Raises NotFound and InvalidInput, naming the model that can't answer; TooManyRequests when too many of the user's wait.
    """
    names = [name_choice(session, owner_id, choice, f"models.{place}") for place, choice in enumerate(request.models)]
    if request.reward is not None and models.get_model(session, owner_id, request.reward).kind != "reward":
        raise InvalidInput.at("reward", "This model is a policy: rewards come from a reward model.")
    if store.count_unanswered(session, owner_id) >= MOST_WAITING:
        raise TooManyRequests(f"{MOST_WAITING} of your chats wait already: let some be answered first.", retry_after_seconds=10)
    chat = Chat(
        id=new_id("chat"), owner_id=owner_id, request=request.model_dump(mode="json"), names=names, state=store.WAITING,
        created_at=now(session),
    )  # fmt: skip
    session.add(chat)
    session.flush()
    session.info["hints"].send_after_commit(session, chat.id)
    return chat


def name_choice(session: Session, owner_id: str, choice: LocalModel, field: str = "models") -> str:
    """Return what people call the model. Raises InvalidInput where it is none that answers."""
    try:
        return choose(session, owner_id, choice).name
    except InvalidInput as invalid:
        raise InvalidInput.at(field, invalid.detail) from None


def expect(session: Session) -> None:
    """Somebody is about to chat: hint a worker to have its chatting process warm."""
    session.info["hints"].send(WARM_UP)


def request_stop(session: Session, owner_id: str, chat_id: str) -> Chat:
    """Stop the answers within a token; what there is of them stays. One that has ended stays as it is. Raises NotFound."""
    chat = store.get_chat(session, owner_id, chat_id)
    ended = Ended(state="stopped")
    values = {"state": store.STOPPED, "finished_at": now(session)}
    if not store.append(session, chat.id, [ended], Chat.state == store.WAITING, **values):
        asked = update(Chat).where(Chat.id == chat.id, Chat.state == store.ANSWERING).values(stop_requested_at=now(session))
        session.execute(asked.execution_options(synchronize_session=False))
    return store.get_chat(session, owner_id, chat_id, anew=True)


def delete(session: Session, owner_id: str, chat_id: str) -> None:
    """Remove a chat; one that is being answered is stopped first. Raises NotFound."""
    session.delete(store.get_chat(session, owner_id, chat_id))


def keep_prompt(session: Session, files: Files, owner_id: str, chat_id: str, prompt_set_id: str | None) -> PromptSet:
    """Return a prompt set with the chat's conversation: a new one, or one of those that there are with this prompt besides.

    The latter takes the old one's place where that is the user's and nothing speaks of it. Raises NotFound.
    """
    asked = ChatRequest.model_validate(store.get_chat(session, owner_id, chat_id).request)
    said = [PromptMessage(role=message.role, content=message.content) for message in asked.messages]
    old = prompt_set_store.get_prompt_set(session, owner_id, prompt_set_id) if prompt_set_id else None
    kept = [Prompt.model_validate(line) for line in read_prompts(files, old)] if old is not None else []
    prompts, num_dropped = number([*((one.messages, one.reference, one.tags) for one in kept), (said, None, ())])
    if old is not None and len(prompts) == len(kept):
        return old
    with suppress(Conflict, Forbidden):
        if old is not None:
            prompt_sets.delete(session, files, owner_id, old.id)
    origin = PromptOrigin.model_validate(old.source) if old is not None else PromptOrigin(kind="text")
    gathered = prompt_sets.Gathered(old.name if old is not None else KEPT, prompts, num_dropped, origin)
    return prompt_sets.keep(session, files, owner_id, gathered)


def forget_old(session: Session, days: float) -> int:
    """Remove chats that ended more than so many days ago (0: none is too old); returns how many."""
    return store.delete_old(session, now(session) - timedelta(days=days)) if days else 0


def begin(session: Session, worker_id: str, lease_seconds: float) -> ChatClaim | None:
    """Claim the chat that is next; None when none waits, or the worker is paused."""
    at = now(session)
    statement = (
        update(Chat)
        .where(Chat.id == store.first_in_line(at, worker_id).scalar_subquery(), store.is_claimable(at))
        .values(state=store.ANSWERING, worker_id=worker_id, lease_expires_at=at + timedelta(seconds=lease_seconds))
        .values(token=Chat.token + 1)
        .returning(Chat.id, Chat.token)
    )
    row = session.execute(statement.execution_options(synchronize_session=False)).one_or_none()
    if row is None:
        return None
    claim = ChatClaim(row.id, row.token)
    tell(session, claim, [Begun(worker=worker_id)])
    return claim


def build_job(session: Session, files: Files, claim: ChatClaim, device: str) -> ChatJob:
    """Return what the chatting process is told. Raises NotFound, InvalidInput and Conflict for what is gone meanwhile."""
    chat = session.get(Chat, claim.chat_id)
    if chat is None:
        raise NotFound(f"There is no chat {claim.chat_id!r} any more.")
    request = ChatRequest.model_validate(chat.request)
    return ChatJob.model_validate({
        "request": request,
        "models": tuple(
            _locate(session, files, chat.owner_id, choice, name) for choice, name in zip(request.models, chat.names, strict=True)
        ),
        "reward": _locate_reward(session, files, chat.owner_id, request.reward),
        "hub_dir": str(files.hub_dir),
        "device": device,
    })  # fmt: skip


def _locate(session: Session, files: Files, owner_id: str, choice: LocalModel, name: str) -> ChatModel:
    known = session.get(Run, choice.run) if isinstance(choice, RunModel) else session.get(Model, choice.model)
    if known is None:
        raise Conflict(f"“{name}” was deleted meanwhile: choose another model.")
    name_choice(session, owner_id, choice)
    source, checkpoint = find_local(session, files, choice)
    return ChatModel(name=name, source=source, checkpoint=checkpoint)


def _locate_reward(session: Session, files: Files, owner_id: str, model_id: str | None) -> ChatModel | None:
    if model_id is None:
        return None
    try:
        model = models.get_model(session, owner_id, model_id)
    except NotFound:
        raise Conflict("The reward model was deleted meanwhile: choose another, or none.") from None
    return ChatModel(name=model.name, source=locate(files, model, None))


def renew(session: Session, claim: ChatClaim, lease_seconds: float) -> bool:
    """Hold a chat for another lease; False when it is in other hands or gone."""
    until = now(session) + timedelta(seconds=lease_seconds)
    statement = update(Chat).where(store.is_held(claim.chat_id, claim.token)).values(lease_expires_at=until).returning(Chat.id)
    return session.execute(statement.execution_options(synchronize_session=False)).scalar_one_or_none() is not None


def tell(session: Session, claim: ChatClaim, events: Sequence[ChatEvent]) -> bool:
    """Keep what the chatting process says, the last word included; False when the chat is in other hands or gone."""
    values: dict[str, object] = {}
    for event in events:
        if isinstance(event, Ended):
            values = {"state": event.state, "finished_at": now(session), "lease_expires_at": None}
    return store.append(session, claim.chat_id, events, store.is_held(claim.chat_id, claim.token), **values)


def fail(session: Session, claim: ChatClaim, error: StudioError) -> bool:
    """End a chat that can't be answered; False when it is in other hands or gone."""
    return tell(session, claim, [Ended(state="failed", detail=error.detail)])


def give_back(session: Session, claim: ChatClaim, detail: str) -> bool:
    """Let a chat begin again later, here or elsewhere; one that is to stop ends. False when it is in other hands or gone."""
    chat = session.get(Chat, claim.chat_id)
    if chat is not None and chat.stop_requested_at is not None:
        return tell(session, claim, [Ended(state="stopped", detail="")])
    held = store.is_held(claim.chat_id, claim.token)
    values = {"state": store.WAITING, "worker_id": None, "lease_expires_at": None}
    return store.append(session, claim.chat_id, [GivenBack(detail=detail)], held, **values)


def describe_wait(session: Session, chat: Chat) -> str:
    """Return what a chat waits for, as a sentence; empty when it is answered or over."""
    if chat.state != store.WAITING:
        return ""
    rows = [row for row in workers.describe_workers(session) if row.standing != "gone"]
    working = [row for row in rows if row.standing == "alive"]
    if not working:
        return f"Every worker is paused: {RESUMED}" if rows else f"No worker is running: {STARTED}"
    if any(row.num_used < row.worker.slots for row in working):
        num_before = store.count_unanswered(session, before=chat)
        others = "Another chat is" if num_before == 1 else f"{num_before} other chats are"
        return f"{others} before this one: users are answered in turn." if num_before else "A worker takes it in a moment."
    running = [entry.run for row in working for entry in row.running]
    mine = next((run.name for run in running if run.owner_id == chat.owner_id), "")
    which = f"run “{mine}”" if mine else "the run of another user" if len(running) == 1 else "runs of other users"
    return f"The device is busy with {which}: the answer begins when there is room, or on another worker."
