"""A reading over HTTP: asked for, and waited for as a preview is; and the short conversation that a query gives."""

from fastapi import Request
from pydantic import BaseModel, Field

from app.domain.dataset import Message
from app.domain.errors import InvalidInput
from app.domain.preview.readings import AnyReading, AnyRequest, ConversationRequest, PromptFormatName, parse_reading
from app.domain.problems import parse
from app.services import readings
from app.store.database import Database
from app.store.files.files import Files
from app.web.dependencies import read_apart, write_apart
from app.web.preview_requests import PreviewProgress, describe, has_worker, wait_for

UNSERVED_SECONDS = 1.0  # that one waits when no worker is known to be there


class TalkQuery(BaseModel):
    """A conversation of one question and one answer; what is left out is an example's."""

    system: str = Field("", description="What stands in the system turn; empty: none, once another text is given.")
    prompt: str = Field("", description="What the user says.")
    response: str = Field("", description="What the assistant answers.")
    prompt_format: PromptFormatName = Field("auto", description="auto, chat or plain, as in tokens.prompt_format.")

    def request(self, model_id: str) -> ConversationRequest:
        """Raises InvalidInput for texts that are too long."""
        asked = {"model_id": model_id, "messages": self.messages, "prompt_format": self.prompt_format}
        return parse(ConversationRequest, asked, InvalidInput)

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation's messages."""
        _, prompt, response = readings.EXAMPLE
        if not (self.system or self.prompt or self.response):
            return readings.EXAMPLE
        own = [Message(role="system", content=self.system)] if self.system else []
        return (
            *own,
            prompt.model_copy(update={"content": self.prompt or prompt.content}),
            response.model_copy(update={"content": self.response or response.content}),
        )


async def read(request: Request, owner_id: str, asked: AnyRequest, wait_seconds: float | None = None) -> AnyReading:
    """Return a reading, kept or made now.

    Raises NotFound, Conflict; InvalidInput when it can't be made; Unavailable when the time is over.
    """
    state = request.app.state
    progress = await write_apart(request, ask, state.database, state.files, owner_id, asked)
    if progress.result is None and not await read_apart(request, has_worker, state.database):
        wait_seconds = UNSERVED_SECONDS
    return parse_reading(asked, await wait_for(request, progress, wait_seconds))


def ask(database: Database, files: Files, owner_id: str, asked: AnyRequest) -> PreviewProgress:
    with database.writing() as session:
        return describe(readings.ask(session, files, owner_id, asked))
