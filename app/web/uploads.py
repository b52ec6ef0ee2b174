"""Uploads: a multipart body parsed while it arrives, its file written to disk and hashed as it comes, never held in memory."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from pydantic import BaseModel, Field
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.concurrency import run_in_threadpool

from app.domain.dataset import ColumnMapping
from app.domain.errors import DatasetInvalid, InvalidInput, TooLarge, TooManyRequests
from app.domain.problems import parse
from app.services import datasets
from app.services.datasets import process_within
from app.store.database import Database
from app.store.files.files import Files, Upload
from app.web.bodies import declared_bytes
from app.web.dependencies import UPLOADS_AT_ONCE, get_gates, write_apart

FILE_FIELD = "file"
MAX_FIELDS = 20
MAX_FIELD_BYTES = 2**18
WRITE_BYTES = 2**20
MAX_FILENAME = 255


@dataclass
class Form:
    """The parts of a multipart body as they come: small fields are kept, the file's bytes wait in `pending` to be written."""

    max_file_bytes: int
    fields: dict[str, bytes] = field(default_factory=dict)
    filename: str | None = None
    pending: bytearray = field(default_factory=bytearray)
    num_file_bytes: int = 0
    ended: bool = False
    header: dict[bytes, bytes] = field(default_factory=dict)
    header_name: bytes = b""
    header_value: bytes = b""
    part: str = ""
    in_file: bool = False

    def callbacks(self) -> dict[str, object]:
        names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "end")
        return {f"on_{name}": getattr(self, f"on_{name}") for name in names}

    def on_part_begin(self) -> None:
        self.header, self.header_name, self.header_value = {}, b"", b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self.header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self.header_value += data[start:end]

    def on_header_end(self) -> None:
        self.header[self.header_name.lower()] = self.header_value
        self.header_name, self.header_value = b"", b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self.header.get(b"content-disposition", b""))
        self.part = as_text(options.get(b"name", b""), "name")
        self.in_file = b"filename" in options
        if self.in_file:
            self.begin_file(as_text(options[b"filename"], FILE_FIELD))
        elif self.part in self.fields or len(self.fields) >= MAX_FIELDS:
            raise InvalidInput.at(
                self.part, f'The field "{self.part[:80]}" comes twice, or there are more than {MAX_FIELDS} fields.'
            )
        else:
            self.fields[self.part] = b""

    def begin_file(self, filename: str) -> None:
        if self.part != FILE_FIELD or self.filename is not None:
            raise InvalidInput.at(FILE_FIELD, f'Send one file, in the field "{FILE_FIELD}".')
        # browsers of old sent whole paths; only the last part is a name
        self.filename = filename.replace("\\", "/").rsplit("/", 1)[-1][-MAX_FILENAME:]

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self.in_file:
            self.num_file_bytes += end - start
            if self.num_file_bytes > self.max_file_bytes:
                raise TooLarge(f"The file is larger than the {self.max_file_bytes:,} bytes allowed (STUDIO_MAX_UPLOAD_BYTES).")
            self.pending += data[start:end]
        else:
            if len(self.fields[self.part]) + end - start > MAX_FIELD_BYTES:
                raise TooLarge(f'The field "{self.part[:80]}" is larger than the {MAX_FIELD_BYTES:,} bytes allowed.')
            self.fields[self.part] += data[start:end]

    def on_end(self) -> None:
        self.ended = True

    def text(self, name: str) -> str:
        """Return a field as text; "" when it wasn't sent.

        Raises: InvalidInput.
        """
        return as_text(self.fields.get(name, b""), name)


def as_text(value: bytes, name: str) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput.at(name, f'The field "{name}" is not UTF-8 text.') from None
    if "\0" in text:
        raise InvalidInput.at(name, f'The field "{name}" holds a NUL character.')
    return text


@contextmanager
def open_form(request: Request, files: Files, max_file_bytes: int) -> Iterator["Reception"]:
    """Provide a place for the request's file and fields; what isn't committed by the end of the block is discarded."""
    with files.open_upload() as upload:
        yield Reception(request, upload, Form(max_file_bytes))


@dataclass
class Reception:
    """A multipart request on its way to disk."""

    request: Request
    upload: Upload
    form: Form

    async def read(self) -> None:
        """Read the whole body; memory stays at about one write's size.

        Raises: InvalidInput for a broken body or one without a file; TooLarge; ClientDisconnect when the sender leaves.
        """
        boundary = boundary_of(self.request)
        try:
            parser = MultipartParser(boundary, self.form.callbacks())  # type: ignore[arg-type]
            async for chunk in pieces(self.request):
                parser.write(chunk)
                if len(self.form.pending) >= WRITE_BYTES:
                    await self.write_pending()
        except FormParserError as error:
            raise InvalidInput(f"The multipart body is broken: {error}") from error
        await self.write_pending()
        if not self.form.ended:
            raise InvalidInput("The multipart body ends before its last boundary: send it again.")
        if self.form.filename is None:
            raise InvalidInput.at(FILE_FIELD, f'There is no file: send it in the field "{FILE_FIELD}".')

    async def write_pending(self) -> None:
        data, self.form.pending = bytes(self.form.pending), bytearray()
        if data:
            await run_in_threadpool(self.upload.write, data)


async def pieces(request: Request) -> AsyncIterator[bytes]:
    """Yield the body in pieces of at most WRITE_BYTES, whatever the server hands over."""
    async for chunk in request.stream():
        for start in range(0, len(chunk), WRITE_BYTES):
            yield chunk[start : start + WRITE_BYTES]


def boundary_of(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise InvalidInput("Send the file as multipart/form-data with a boundary.")
    return boundary


class UploadFields(BaseModel):
    """What may come beside the file."""

    name: Annotated[str, Field(max_length=120)] = ""
    private: bool = False
    mapping: ColumnMapping | None = None


WAITS = CapacityLimiter(math.inf)  # threads of their own, as many as users have places; those of other requests stay free
PLACE_SECONDS = 60.0


@asynccontextmanager
async def taking_place(request: Request, owner_id: str) -> AsyncIterator[None]:
    """Hold one of the user's places for uploads and readings. Raises TooManyRequests when none becomes free for a minute."""
    places = get_gates(request).uploads_of(owner_id)
    try:
        async with asyncio.timeout(PLACE_SECONDS):
            await places.acquire()
    except TimeoutError:
        raise TooManyRequests(
            f"{UPLOADS_AT_ONCE} of your uploads are under way: wait for one of them.", retry_after_seconds=30
        ) from None
    try:
        yield
    finally:
        places.release()


async def wait_for_reading(request: Request, owner_id: str, dataset_id: str) -> None:
    """Have a data set's file read, in its owner's place, and wait a little for it. Raises as `process_within`."""
    state = request.app.state
    await to_thread.run_sync(process_within, state.database, state.files, state.ingest, owner_id, dataset_id, limiter=WAITS)


async def take_dataset(request: Request, owner_id: str) -> str:
    """Make a data set of a multipart request: `file`, `name`, and `mapping` as JSON, in any order. Returns its id.

    Waits a little for the file to be read; the data set may be ready, need a mapping, or still be processing then.
    Raises: DatasetInvalid when the file can't be used, TooLarge, InvalidInput for a broken body; nothing is kept then.
    """
    async with taking_place(request, owner_id):
        return await receive_dataset(request, owner_id)


async def receive_dataset(request: Request, owner_id: str) -> str:
    state = request.app.state
    room = partial(state.database.disk.require_room, "The upload")
    await run_in_threadpool(room, declared_bytes(request))
    with open_form(request, state.files, state.settings.max_upload_bytes) as reception:
        await reception.read()
        dataset_id = await write_apart(request, keep_dataset, state.database, state.files, owner_id, reception)
        state.metrics.uploaded.inc(reception.form.num_file_bytes)
    await wait_for_reading(request, owner_id, dataset_id)
    return dataset_id


def keep_dataset(database: Database, files: Files, owner_id: str, reception: Reception) -> str:
    """Return the row and the file of a finished upload, in one transaction."""
    form = reception.form
    given = {"name": form.text("name"), "private": form.text("private") or False, "mapping": as_json(form.text("mapping"))}
    fields = parse(UploadFields, given, DatasetInvalid)
    filename, mapping = form.filename or "", fields.mapping
    with database.writing() as session:
        dataset = datasets.upload(
            session, files, owner_id=owner_id, name=fields.name, filename=filename, upload=reception.upload, mapping=mapping,
            private=fields.private,
        )  # fmt: skip
        return dataset.id


def as_json(text: str) -> Any:
    """Return the `mapping` field; empty: none."""
    try:
        return json.loads(text) if text.strip() else None
    except (ValueError, RecursionError):
        raise DatasetInvalid.at("mapping", "The mapping isn't JSON: send an object with shape, columns and options.") from None
