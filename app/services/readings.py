"""What can be done with readings: ask how a model reads a text or a data set. They wait and are kept among the previews.

Nothing here commits. The digest of a request holds the state of the files too, so an answer is of what is there now.
"""

import json
from datetime import date
from pathlib import Path

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from app.domain.dataset import DatasetState, Message
from app.domain.errors import Conflict
from app.domain.jobs import ModelSource
from app.domain.preview.readings import (
    AnyReading,
    AnyRequest,
    ConversationRequest,
    ExampleRequest,
    LengthsRequest,
    ReadingJob,
    parse_reading,
)
from app.services.provenance import package_versions
from app.store import previews as store
from app.store.database import now
from app.store.datasets import examples_path, get_dataset
from app.store.files.files import Files
from app.store.models import get_model
from app.store.tables import Dataset, Model, Preview
from app.system.identifiers import new_id

KEEP_ANSWERS = 60  # of one model
SMALL_FILES = ("*.json", "*.jinja", "*/*.jinja", "*.model", "*.txt")  # what decides how a model reads
EXAMPLE = (
    Message(role="system", content="You answer in one sentence."),
    Message(role="user", content="Why is the sky blue?"),
    Message(role="assistant", content="Because air scatters blue light more than red."),
)
REQUESTS: TypeAdapter[AnyRequest] = TypeAdapter(AnyRequest)


def ask(session: Session, files: Files, user_id: str, request: AnyRequest) -> Preview:
    """Return the preview that holds this reading: the kept answer, or a place in the workers' queue.

    Raises NotFound for a model or a data set that isn't there, Conflict for a data set that isn't ready, TooManyRequests when
    too many that the user asked for wait.
    """
    request, digest = _settle(session, files, user_id, request)
    dataset_id = None if isinstance(request, ConversationRequest) else request.dataset_id
    return store.queue(session, Preview(
        id=new_id("preview"), model_id=request.model_id, dataset_id=dataset_id, asker_id=user_id, digest=digest,
        job=request.model_dump(mode="json"), state=store.WAITING, created_at=now(session),
    ), KEEP_ANSWERS)  # fmt: skip


def find_answer(session: Session, files: Files, user_id: str, request: AnyRequest) -> AnyReading | None:
    """Return the kept reading, without asking for one. Raises as `ask`."""
    request, digest = _settle(session, files, user_id, request)
    preview = store.find(session, request.model_id, digest)
    return read_answer(preview) if preview is not None and preview.state == store.DONE else None


def read_answer(preview: Preview) -> AnyReading:
    """Return the reading that an answered preview holds."""
    return parse_reading(REQUESTS.validate_python(preview.job), preview.result)


def build_job(session: Session, files: Files, preview: Preview) -> ReadingJob:
    """Return the job with the paths of this machine."""
    request = REQUESTS.validate_python(preview.job)
    model = session.get_one(Model, request.model_id)
    reward = session.get(Model, request.reward_id) if isinstance(request, ExampleRequest) and request.reward_id else None
    return ReadingJob(
        request=request,
        kind="reward" if model.kind == "reward" else "policy",
        model=locate(files, model, request.revision),
        reward=locate(files, reward, request.reward_revision) if isinstance(request, ExampleRequest) and reward else None,
        hub_dir=str(files.hub_dir),
        dataset_path=str(examples_path(files, preview.dataset_id)) if preview.dataset_id else "",
    )


def locate(files: Files, model: Model, revision: str | None) -> ModelSource:
    """Return where a model's files are on this machine: of a run's, those that the studio keeps, which may have to be fetched."""
    if model.source == "hub":
        return ModelSource(source="hub", path=model.path, revision=revision or model.revision)
    return ModelSource(source="folder", path=str(_folder_of(files, model)))


def _folder_of(files: Files, model: Model) -> Path:
    kept, named = files.model_dir(model.id), files.place_of(model.path)
    return kept if model.source == "run" and (kept.is_dir() or not named.is_dir()) else named


def _settle(session: Session, files: Files, user_id: str, request: AnyRequest) -> tuple[AnyRequest, str]:
    """Return the request with its day, and its digest with the states of all files it is about."""
    states = [_state_of_model(files, get_model(session, user_id, request.model_id))]
    if not isinstance(request, LengthsRequest) and request.day is None:  # of lengths, one day's is as good as another's
        request = request.model_copy(update={"day": date.today()})
    if not isinstance(request, ConversationRequest):
        states.append(_state_of_dataset(get_dataset(session, user_id, request.dataset_id)))
    if isinstance(request, ExampleRequest) and request.reward_id:
        states.append(_state_of_model(files, get_model(session, user_id, request.reward_id)))
    return request, request.digest(*states, json.dumps(package_versions()))


def _state_of_model(files: Files, model: Model) -> str:
    """Return what tells whether the model's small files are still the same ones."""
    if model.source == "hub":
        return json.dumps([model.path, model.revision])
    folder = _folder_of(files, model)
    found = sorted({path for pattern in SMALL_FILES for path in folder.glob(pattern)}) if folder.is_dir() else []
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in found if path.is_file()]
    return json.dumps([model.facts.get("sha256"), *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)])


def _state_of_dataset(dataset: Dataset) -> str:
    """Raises Conflict."""
    if dataset.state != DatasetState.READY:
        raise Conflict(f"The data set “{dataset.name}” isn't ready, so its texts can't be read yet.")
    return json.dumps([dataset.sha256, dataset.mapping, dataset.num_examples, dataset.audit], sort_keys=True)
