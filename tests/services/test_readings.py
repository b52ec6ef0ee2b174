"""Readings wait and are kept among the previews; what is there now decides whether a kept one is given again."""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from app.domain.errors import Conflict, InvalidInput, NotFound
from app.domain.preview.readings import (
    AnyRequest,
    ConversationRequest,
    ExampleRequest,
    LengthCounts,
    LengthsReading,
    LengthsRequest,
    ReadingJob,
)
from app.services import previews, readings
from app.store import previews as store
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import Dataset, Model, Preview
from tests.conftest import Library, make_library

READING = LengthsReading(
    num_examples=9, num_sampled=9, prompts=LengthCounts.of([1, 2]), responses=LengthCounts.of([3]), window=None,
    tokenizer_sha256="0" * 64,
)  # fmt: skip


def ask(database: Database, files: Files, request: AnyRequest) -> Preview:
    with database.writing() as session:
        return readings.ask(session, files, "user_ada", request)


def begin(database: Database, files: Files) -> previews.PreviewClaim:
    with database.writing() as session:
        claim = previews.begin(session, files, "one", 30.0)
    assert claim is not None
    return claim


def lengths(library: Library, **parts: object) -> LengthsRequest:
    return LengthsRequest.model_validate({"model_id": library.policy.id, "dataset_id": library.dataset.id, **parts})


def test_a_reading_waits_is_made_and_is_given_again(either_database: Database, files: Files) -> None:
    library = make_library(either_database)
    request = lengths(library)
    preview = ask(either_database, files, request)
    assert (preview.state, preview.scoring_id, preview.model_id) == ("waiting", None, library.policy.id)
    claim = begin(either_database, files)
    assert isinstance(claim.job, ReadingJob)
    assert claim.job.dataset_path == str(files.dataset_dir(library.dataset.id) / "examples.parquet")
    with either_database.writing() as session:
        assert readings.find_answer(session, files, "user_ada", request) is None
        assert previews.finish(session, claim.preview_id, "one", READING)
        assert readings.find_answer(session, files, "user_ada", request) == READING
    assert ask(either_database, files, request).id == preview.id


def test_one_that_failed_is_asked_again_and_deletes_nothing(database: Database, files: Files, library: Library) -> None:
    preview = ask(database, files, lengths(library))
    begin(database, files)
    with database.writing() as session:
        assert previews.fail(session, preview.id, "one", {"code": "not-found", "detail": "gone"})
    assert ask(database, files, lengths(library)).state == "waiting"


def test_what_was_refused_a_moment_ago_is_told_to_who_asks_every_few_seconds(
    database: Database, files: Files, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    preview = ask(database, files, lengths(library))
    begin(database, files)
    with database.writing() as session:
        assert previews.fail(session, preview.id, "one", {"code": InvalidInput("").code, "detail": "no end"})
    again = ask(database, files, lengths(library))
    assert (again.state, again.error) == ("failed", {"code": InvalidInput("").code, "detail": "no end"})
    monkeypatch.setattr(store, "REFUSED_FOR", timedelta(0))
    assert ask(database, files, lengths(library)).state == "waiting"


def test_a_job_tells_where_the_models_are(database: Database, files: Files, library: Library, tmp_path: Path) -> None:
    with database.writing() as session:
        policy, reward = session.get_one(Model, library.policy.id), session.get_one(Model, library.reward.id)
        policy.source, policy.path = "run", str(tmp_path / "elsewhere")
        reward.source, reward.path, reward.revision = "hub", "studio/judge", "main"
    request = ExampleRequest(model_id=library.policy.id, dataset_id=library.dataset.id, reward_id=library.reward.id)
    ask(database, files, request)
    job = begin(database, files).job
    assert isinstance(job, ReadingJob)
    assert job.kind == "policy"
    assert job.model.path == str(files.model_dir(library.policy.id))
    assert job.reward is not None
    assert (job.reward.source, job.reward.path, job.reward.revision) == ("hub", "studio/judge", "main")
    assert job.request.day is not None


@pytest.mark.parametrize("name", ["tokenizer_config.json", "chat_template.jinja", "generation_config.json"])
def test_a_tokenizer_that_was_changed_is_read_anew(
    database: Database, files: Files, library: Library, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("{}")
    with database.writing() as session:
        session.get_one(Model, library.policy.id).path = str(tmp_path)
        session.get_one(Model, library.policy.id).source = "folder"
    first = ask(database, files, lengths(library)).id
    assert ask(database, files, lengths(library)).id == first
    (tmp_path / name).write_text(json.dumps({"changed": True}))
    assert ask(database, files, lengths(library)).id != first


def test_a_data_set_that_was_mapped_anew_is_read_anew(database: Database, files: Files, library: Library) -> None:
    first = ask(database, files, lengths(library)).id
    with database.writing() as session:
        session.get_one(Dataset, library.dataset.id).mapping = {"shape": "pair", "columns": {"chosen": "bad"}}
    assert ask(database, files, lengths(library)).id != first


def test_nothing_is_read_of_what_is_not_ready_or_private_to_another(database: Database, files: Files, library: Library) -> None:
    with database.writing() as session:
        session.get_one(Model, library.policy.id).private = True
        with pytest.raises(NotFound, match="There is no model"):
            readings.ask(session, files, "user_eve", lengths(library))
        session.get_one(Dataset, library.dataset.id).state = "processing"
    with pytest.raises(Conflict, match="isn't ready"):
        ask(database, files, lengths(library))


def test_what_is_deleted_takes_its_readings_along(database: Database, files: Files, library: Library) -> None:
    talk = ask(database, files, ConversationRequest(model_id=library.reward.id, messages=readings.EXAMPLE)).id
    counted = ask(database, files, lengths(library)).id
    with database.writing() as session:
        session.delete(session.get_one(Dataset, library.dataset.id))
        session.delete(session.get_one(Model, library.reward.id))
    with database.reading() as session:
        assert [session.get(Preview, one) for one in (talk, counted)] == [None, None]


def test_old_readings_are_dropped(database: Database, files: Files, library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "KEEP_ANSWERS", 2)
    asked = []
    for most in (10, 20, 30, 40):
        asked.append(ask(database, files, lengths(library, max_examples=most)).id)
        begin(database, files)
        with database.writing() as session:
            previews.finish(session, asked[-1], "one", READING)
    with database.reading() as session:
        assert [session.get(Preview, one) is not None for one in asked] == [False, False, True, True]
        assert store.find(session, library.policy.id, "none") is None
