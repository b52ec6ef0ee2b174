"""Chat completions of an OpenAI-compatible server: one answer a request, tried again where that may help.

The key is sent to the server and stands nowhere else: not in a representation, an error, or an answer that says it back.
"""

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.system.files import never
from app.system.outgoing.connections import AddressRefused
from app.system.outgoing.exchange import ExchangeFailed, ExchangeLimits, Exchanger, Reply
from app.system.outgoing.pace import Clock, Pace, Retries, read_retry_after

SHOWN_CHARACTERS = 300  # of what a server says of a refusal
CHARACTERS_PER_TOKEN = 3.0
PASSING = frozenset({408, 409, 425, 429})
HIDDEN = "[key]"
LEAST_SECRET = 8  # characters; local servers take words like EMPTY for a key, which texts may hold


@dataclass(frozen=True)
class ChatServer:
    """Which model is asked, where, and how much at once."""

    name: str  # what people call it
    address: str  # as in https://api.example.org/v1
    model: str
    key: str = field(default="", repr=False)
    at_once: int = 4
    tokens_per_minute: int | None = None
    allowed_hosts: Sequence[str] = ()


@dataclass(frozen=True)
class Question:
    """A conversation to go on with, and how."""

    messages: Sequence[Mapping[str, str]]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Completion:
    text: str
    is_finished: bool  # it ended by itself
    num_tokens: int | None  # where the server tells


class EndpointFailed(Exception):
    """No answer, as a sentence that names the endpoint. `is_of_question`: others may be answered; `is_passing`: later too."""

    def __init__(self, message: str, *, is_passing: bool = False, is_of_question: bool = False) -> None:
        super().__init__(message)
        self.is_passing, self.is_of_question = is_passing, is_of_question


@dataclass(frozen=True)
class Refusal:
    """Why a try brought no answer; `wait_seconds` is what the server asks for."""

    sentence: str
    is_passing: bool
    is_of_question: bool = False
    wait_seconds: float | None = None


class ChatClient:
    """Asks one server, from as many threads at once as it allows. `check` raises when the work is to end."""

    def __init__(
        self, server: ChatServer, *, limits: ExchangeLimits | None = None, retries: Retries | None = None,
        check: Callable[[], None] = never, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self.server, self._retries = server, retries or Retries()
        self._clock = clock or Clock(check)
        self._pace = Pace(server.tokens_per_minute, self._clock)
        self._room = threading.BoundedSemaphore(server.at_once)
        self._limit_name = "max_tokens"
        self._exchanger = Exchanger(
            allowed_hosts=server.allowed_hosts, at_once=server.at_once, limits=limits or ExchangeLimits(), check=check,
            is_secure=server.address.lower().startswith("https:"), has_secret=bool(server.key),
        )  # fmt: skip

    def close(self) -> None:
        self._exchanger.close()

    def ask(self, question: Question) -> Completion:
        """Return the answer. Raises EndpointFailed, and what the check raises."""
        guess = _guess_tokens(question)
        num_tried = 0
        while True:
            num_tried += 1
            self._pace.take(guess)
            said = self._try(question)
            if isinstance(said, Completion):
                self._pace.give_back(guess - _prompt_tokens(question) - (said.num_tokens or question.max_tokens))
                return said
            if not said.is_passing:
                raise self._fail(said)
            if (said.wait_seconds or 0) > self._retries.most_asked_seconds:
                raise self._fail(said, f" It asks to wait {said.wait_seconds:.0f} s, which is too long.")
            if num_tried >= self._retries.num_tries:
                raise self._fail(said, f" It was tried {num_tried} times." if num_tried > 1 else "")
            self._clock.wait(max(said.wait_seconds or 0.0, self._retries.delay(num_tried)))

    def _fail(self, said: Refusal, more: str = "") -> EndpointFailed:
        message = self._hide(f"The endpoint {self.server.name} gave no answer. {said.sentence}{more}")
        return EndpointFailed(message, is_passing=said.is_passing, is_of_question=said.is_of_question)

    def _hide(self, text: str) -> str:
        return text.replace(self.server.key, HIDDEN) if len(self.server.key) >= LEAST_SECRET else text

    def _try(self, question: Question) -> Completion | Refusal:
        headers = {"content-type": "application/json"}
        if self.server.key:
            headers["authorization"] = f"Bearer {self.server.key}"
        body = json.dumps(self._body(question), ensure_ascii=False).encode("utf-8", "replace")
        try:
            with self._room:
                reply = self._exchanger.post(f"{self.server.address.rstrip('/')}/chat/completions", headers, body)
        except ExchangeFailed as error:
            return Refusal(str(error), is_passing=error.is_passing)
        except AddressRefused as error:
            return Refusal(str(error), is_passing=False)
        if reply.status in (400, 422) and self._limit_name == "max_tokens" and b"max_completion_tokens" in reply.body:
            self._limit_name = "max_completion_tokens"  # newer models take this name alone
            return self._try(question)
        return self._read(reply) if reply.status == 200 else self._explain(reply)

    def _body(self, question: Question) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.server.model, "messages": list(question.messages), "temperature": question.temperature,
            "top_p": question.top_p, self._limit_name: question.max_tokens, "stream": False,
        }  # fmt: skip
        return body if question.seed is None else {**body, "seed": question.seed}

    def _read(self, reply: Reply) -> Completion | Refusal:
        """Return what a good answer says; one that isn't as it should be may have been cut on the way, so it is asked again."""
        try:
            answer = json.loads(reply.body)
            choice = answer["choices"][0]
            text = choice["message"].get("content")
            num_tokens = (answer.get("usage") or {}).get("completion_tokens")
        except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
            return Refusal("What it sent is no chat completion: is its address that of an OpenAI-compatible server?", True)
        if text is not None and not isinstance(text, str):
            return Refusal("Its answer holds something else than text.", True)
        is_count = isinstance(num_tokens, int) and not isinstance(num_tokens, bool) and 0 <= num_tokens < 2**31
        kept = re.sub("[\0\ud800-\udfff]", "\ufffd", self._hide(text or ""))
        return Completion(kept, choice.get("finish_reason") != "length", num_tokens if is_count else None)

    def _explain(self, reply: Reply) -> Refusal:
        status = reply.status
        if 300 <= status < 400:
            return Refusal(f"It redirects to another address (status {status}), which is not followed: give that one.", False)
        if status in (401, 403):
            return Refusal(f"It refuses the key{'' if self.server.key else ', as there is none'} (status {status}).", False)
        if status == 404:
            return Refusal(f"It knows no model {self.server.model!r}, or has no chat completions at this address (404).", False)
        told = self._quote(reply)
        if status in PASSING or status >= 500:
            what = "It has too many requests" if status == 429 else "It has a fault of its own"
            wait = read_retry_after(reply.headers.get("retry-after"))
            return Refusal(f"{what} (status {status}){told}.", True, wait_seconds=wait)
        return Refusal(f"It refuses the request (status {status}){told}.", False, is_of_question=status in (400, 413, 422))

    def _quote(self, reply: Reply) -> str:
        """Return what the server says of it, shortened, the key left out."""
        try:
            told = json.loads(reply.body)
            inner = told.get("error", told.get("detail", told.get("message", "")))
            text = inner.get("message", "") if isinstance(inner, dict) else inner
        except (ValueError, RecursionError, AttributeError):
            return ""
        if not isinstance(text, str) or not text.strip():
            return ""
        short = self._hide(" ".join(re.sub("[\0-\x1f\x7f\ud800-\udfff]", " ", text).split()))[:SHOWN_CHARACTERS]
        return f": {short.rstrip('.')}"


def _prompt_tokens(question: Question) -> int:
    return int(sum(len(message["content"]) for message in question.messages) / CHARACTERS_PER_TOKEN) + 1


def _guess_tokens(question: Question) -> int:
    return _prompt_tokens(question) + question.max_tokens
