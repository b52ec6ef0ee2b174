"""What an endpoint has said, kept by what it was asked, each in a file of its own from the moment it came.

So a run that was killed asks for nothing twice, and no verdict is paid for twice.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.domain.answering.endpoint import EndpointSource
from app.domain.errors import InvalidInput, StudioError, Unavailable
from app.system.outgoing.chat import ChatClient, ChatServer, Completion, EndpointFailed, Question
from app.system.outgoing.pace import Clock, Retries
from worker.running.keys import read_keys
from worker.stages.job import JobContext

RETRIES = Retries()
RESUME = " What it has said is kept: resume the run to go on from there."


class Replies:
    """An endpoint's replies in a folder, and the way to those that are not there."""

    def __init__(self, attempt: JobContext, folder: Path, source: EndpointSource) -> None:
        self._attempt, self._folder, self._source = attempt, folder, source
        self._is_over = False
        self._client = ChatClient(
            describe_server(source), check=attempt.stop.check, clock=Clock(self._refuse_more), retries=RETRIES
        )
        self.num_answered, self._refusal = 0, ""

    def _refuse_more(self) -> None:
        """Raise when nothing more is to be asked; what is on its way then may still come, and is kept."""
        self._attempt.stop.check()
        if self._is_over:
            raise EndpointFailed("The run has ended.")

    def path_of(self, question: Question) -> Path:
        asked = json.dumps([self._source.address, self._source.model, asdict(question)], sort_keys=True, default=list)
        digest = hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()
        return self._folder / digest[:2] / f"{digest}.json"

    def find(self, question: Question) -> Completion | None:
        path = self.path_of(question)
        return Completion(**json.loads(path.read_bytes())) if path.is_file() else None

    def drop(self, question: Question) -> None:
        """Forget a reply that is kept elsewhere by now."""
        self.path_of(question).unlink(missing_ok=True)

    def ask(self, question: Question) -> Completion | None:
        """Return the reply, asked for where it isn't there; None where this question is refused. Raises EndpointFailed."""
        said = self.find(question)
        if said is None:
            self._refuse_more()
            try:
                said = self._client.ask(question)
            except EndpointFailed as error:
                if not error.is_of_question:
                    raise
                self._refusal = str(error)
                return None
            self._attempt.write_file(self.path_of(question), json.dumps(asdict(said)).encode())
        self.num_answered += 1
        return said

    def refuse_mute(self) -> None:
        """Raise InvalidInput for an endpoint that has refused all questions so far: then it is not the questions."""
        if self._refusal and not self.num_answered:
            raise InvalidInput(self._refusal)

    def run_all(self, jobs: Mapping[Any, Callable[[], Any]]) -> Iterator[tuple[Any, Any]]:
        """Yield what each job returns, as it comes, as many at once as the endpoint allows; one that fails ends all others.

        Raises Stopped; Unavailable and InvalidInput for an endpoint that gives no answer.
        """
        with ThreadPoolExecutor(self._source.at_once) as pool:
            waiting: dict[Future[Any], Any] = {pool.submit(job): key for key, job in jobs.items()}
            try:
                while waiting:
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield waiting.pop(future), future.result()
            except EndpointFailed as error:
                raise explain(error) from error
            finally:
                self._is_over = bool(waiting)  # those that wait between two tries give up
                pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        self._client.close()


def describe_server(source: EndpointSource) -> ChatServer:
    """Return the server with its key. Raises InvalidInput when that was not handed over."""
    key = read_keys().get(source.id, "") if source.has_key else ""
    if source.has_key and not key:
        raise InvalidInput(f"The key of the endpoint {source.name} was not handed to the runner: resume the run.")
    return ChatServer(
        source.name, source.address, source.model, key, at_once=source.at_once, tokens_per_minute=source.tokens_per_minute,
        allowed_hosts=source.allowed_hosts,
    )  # fmt: skip


def explain(error: EndpointFailed) -> StudioError:
    """Return the error that ends the run."""
    return Unavailable(str(error) + RESUME) if error.is_passing else InvalidInput(str(error) + RESUME)
