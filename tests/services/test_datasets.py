"""Uploading, processing, mapping and deleting data sets, with a real database and real child processes."""

import json

import pytest

from app.domain.dataset import ColumnMapping, DatasetState
from app.domain.errors import Conflict, DatasetInvalid, Forbidden, NotFound, Unavailable
from app.ingest.pool import IngestPool
from app.services import datasets as service
from app.store import datasets
from app.store.database import now
from app.store.tables import Dataset, Model, Run
from tests.waiting import wait_until

ROW = {"prompt": "Hi", "chosen": "a", "rejected": "b"}
RATED = [{"prompt": f"p{n}", "response": "r", "helpfulness": n, "verbosity": 1} for n in range(5)]
RIGHT = ColumnMapping(shape="rated", columns={"prompt": "prompt", "response": "response", "rating": "helpfulness"})
WRONG = ColumnMapping(shape="rated", columns={"prompt": "prompt", "response": "answer", "rating": "helpfulness"})


@pytest.fixture
def pool(settings):
    pool = IngestPool(settings)
    yield pool
    pool.close()


@pytest.fixture
def put(database, files, user):
    """Upload rows (or raw bytes) in a transaction of their own; the data set's id."""

    def put(content, mapping=None, name="", filename="pairs.jsonl"):
        raw = content if isinstance(content, bytes) else "".join(json.dumps(row) + "\n" for row in content).encode()
        with database.writing() as session, files.open_upload() as upload:
            upload.write(raw)
            made = service.upload(session, files, owner_id=user.id, name=name, filename=filename, upload=upload, mapping=mapping)
            return made.id

    return put


@pytest.fixture
def get(database, user):
    def get(dataset_id):
        with database.reading() as session:
            return datasets.get_dataset(session, user.id, dataset_id)

    return get


def test_a_good_file_becomes_ready_with_its_audit(database, files, pool, put, get):
    dataset_id = put([ROW] * 3, filename="../../my pairs.jsonl")
    assert get(dataset_id).state == DatasetState.PROCESSING
    service.process_within(database, files, pool, "user_ada", dataset_id)
    dataset = get(dataset_id)
    assert (dataset.state, dataset.name, dataset.num_examples) == (DatasetState.READY, "my pairs.jsonl", 3)
    assert dataset.mapping["shape"] == "pair"
    assert dataset.audit["num_rows"] == 3
    assert dataset.error is None


def test_an_unreadable_file_leaves_nothing(database, files, pool, put, get):
    dataset_id = put(b"Dear Sir or Madam")
    with pytest.raises(DatasetInvalid, match="neither JSON lines"):
        service.process_within(database, files, pool, "user_ada", dataset_id)
    with pytest.raises(NotFound):
        get(dataset_id)
    assert not files.dataset_dir(dataset_id).exists()
    assert list(files.uploads_dir.iterdir()) == []


def test_an_empty_file_is_refused_at_once(put):
    with pytest.raises(DatasetInvalid) as caught:
        put(b"")
    assert caught.value.problems[0]["field"] == "file"


def test_an_upload_with_a_wrong_mapping_leaves_nothing(database, files, pool, put, get):
    dataset_id = put(RATED, mapping=WRONG)
    with pytest.raises(DatasetInvalid) as caught:
        service.process_within(database, files, pool, "user_ada", dataset_id)
    assert caught.value.problems[0]["field"] == "mapping.columns.response"
    with pytest.raises(NotFound):
        get(dataset_id)


def test_an_unknown_shape_waits_for_its_mapping(database, files, pool, put, get, user):
    dataset_id = put(RATED)
    service.process_within(database, files, pool, "user_ada", dataset_id)
    dataset = get(dataset_id)
    assert dataset.state == DatasetState.NEEDS_MAPPING
    assert [column["name"] for column in dataset.error["extra"]["columns"]] == list(RATED[0])
    assert datasets.preview(files, dataset_id) == dataset.error["extra"]

    with database.writing() as session:
        service.remap(session, files, user.id, dataset_id, WRONG)
    with pytest.raises(DatasetInvalid, match='There is no column "answer"'):
        service.process_within(database, files, pool, "user_ada", dataset_id)
    assert get(dataset_id).state == DatasetState.NEEDS_MAPPING
    assert get(dataset_id).error["extra"]["columns"]
    assert get(dataset_id).error["problems"][0]["field"] == "mapping.columns.response"
    assert get(dataset_id).mapping == WRONG.model_dump(mode="json")  # for the form to show again

    with database.writing() as session:
        service.remap(session, files, user.id, dataset_id, RIGHT)
    service.process_within(database, files, pool, "user_ada", dataset_id)
    assert (get(dataset_id).state, get(dataset_id).num_examples) == (DatasetState.READY, 5)
    assert get(dataset_id).error is None


def test_a_ready_data_set_can_be_mapped_another_way_and_survives_a_mistake(database, files, pool, put, get, user):
    dataset_id = put([ROW])
    service.process_within(database, files, pool, "user_ada", dataset_id)
    with database.writing() as session:
        service.remap(session, files, user.id, dataset_id, WRONG)
    with pytest.raises(DatasetInvalid):
        service.process_within(database, files, pool, "user_ada", dataset_id)
    assert get(dataset_id).state == DatasetState.NEEDS_MAPPING
    swapped = ColumnMapping(shape="pair", columns={"prompt": "prompt", "chosen": "rejected", "rejected": "chosen"})
    with database.writing() as session:
        service.remap(session, files, user.id, dataset_id, swapped)
    service.process_within(database, files, pool, "user_ada", dataset_id)
    assert datasets.read_examples(files, dataset_id)[0].responses[0].content == "b"


def test_a_long_file_goes_on_in_the_background(database, files, pool, put, get):
    dataset_id = put([ROW] * 20_000)
    service.process_within(database, files, pool, "user_ada", dataset_id, wait_seconds=0.01)
    assert get(dataset_id).state == DatasetState.PROCESSING
    pool._turns.threads.shutdown(wait=True)
    assert get(dataset_id).num_examples == 20_000


def test_a_data_set_that_is_deleted_while_it_is_read_is_read_no_further(database, files, pool, put, user):
    dataset_id = put([ROW] * 400_000)
    service.process_within(database, files, pool, "user_ada", dataset_id, wait_seconds=0.01)
    wait_until(lambda: pool._busy, "the child's work")
    (child,) = pool._busy
    with database.writing() as session:
        service.delete(session, files, user.id, dataset_id)
    wait_until(lambda: not child.alive, "the child's end")
    pool._turns.threads.shutdown(wait=True)
    assert not files.dataset_dir(dataset_id).exists()


def test_what_a_crash_left_is_processed_at_the_next_start(database, files, pool, put, get):
    dataset_id = put([ROW])
    orphan = files.dataset_dir("data_orphan")
    orphan.mkdir()
    service.sweep_folders(files.root / "datasets", {dataset_id})
    assert orphan.exists()  # it may belong to an upload under way
    assert service.resume_processing(database, files, pool) == 1
    pool._turns.threads.shutdown(wait=True)
    assert get(dataset_id).state == DatasetState.READY


@pytest.mark.parametrize("times", [1, 2])
def test_a_database_that_goes_away_while_a_file_is_read_only_delays_it(database, files, pool, put, get, monkeypatch, times):
    dataset_id, away = put([ROW]), {"reading": times, "writing": times}

    def sometimes_away(name, session):
        def open_session():
            if away[name]:
                away[name] -= 1
                raise Unavailable("The database can't be reached right now.", retry_after_seconds=0)
            return session()

        return open_session

    for name in away:
        monkeypatch.setattr(database, name, sometimes_away(name, getattr(database, name)))
    assert service.process(database, files, pool, dataset_id) is None
    assert get(dataset_id).state == DatasetState.READY
    assert away == {"reading": 0, "writing": 0}


def test_a_closing_web_leaves_a_waiting_file_to_its_next_start(database, files, pool, put, get, monkeypatch):
    dataset_id = put([ROW])

    def gone():
        pool.close()
        raise Unavailable("The database can't be reached right now.", retry_after_seconds=60)

    with monkeypatch.context() as patched:
        patched.setattr(database, "reading", gone)
        with pytest.raises(Unavailable):
            service.process(database, files, pool, dataset_id)
    assert get(dataset_id).state == DatasetState.PROCESSING


def test_examples_are_read_in_pages(database, files, pool, put):
    dataset_id = put([{**ROW, "prompt": f"p{n}", "n": n} for n in range(3000)])
    service.process_within(database, files, pool, "user_ada", dataset_id)
    page = datasets.read_examples(files, dataset_id, after=1020, limit=10)
    assert [example.example_id for example in page] == list(range(1021, 1031))
    assert page[0].prompt[0].content == "p1021"
    assert page[0].line == 1022
    assert page[0].meta == {"n": 1021}
    assert [response.preference for response in page[0].responses] == [1, -1]
    assert len(datasets.read_examples(files, dataset_id, after=2990)) == 9
    assert datasets.read_examples(files, dataset_id, after=2999) == []


def test_examples_of_a_data_set_that_is_not_ready_are_not_found(files, put):
    with pytest.raises(NotFound):
        datasets.read_examples(files, put(RATED))


def test_data_sets_are_listed_newest_first_page_by_page(database, put, user):
    ids = [put([ROW], name=f"set {n}") for n in range(5)]
    with database.reading() as session:
        first = datasets.list_datasets(session, user.id, limit=3)
        second = datasets.list_datasets(session, user.id, after=first[-1].id, limit=3)
        assert [dataset.id for dataset in (*first, *second)] == ids[::-1]
        assert datasets.list_datasets(session, user.id, state="ready") == []
        assert datasets.list_datasets(session, "user_bob", mine=True) == []
        assert len(datasets.list_datasets(session, "user_bob")) == 5


def test_another_users_data_set_is_not_deleted(database, files, put):
    dataset_id = put([ROW])
    with database.writing() as session, pytest.raises(Forbidden, match="only Ada or an admin"):
        service.delete(session, files, "user_bob", dataset_id)
    with database.writing() as session:
        session.get_one(Dataset, dataset_id).private = True
    with database.writing() as session, pytest.raises(NotFound):
        service.delete(session, files, "user_bob", dataset_id)


def test_a_data_set_is_deleted_with_its_files(database, files, pool, put, get, user):
    dataset_id = put([ROW])
    service.process_within(database, files, pool, "user_ada", dataset_id)
    with database.writing() as session:
        service.delete(session, files, user.id, dataset_id)
        assert files.dataset_dir(dataset_id).exists()  # until the commit
    assert not files.dataset_dir(dataset_id).exists()
    with pytest.raises(NotFound):
        get(dataset_id)


def test_a_data_set_that_was_deleted_meanwhile_leaves_no_files(database, files, pool, put, user):
    dataset_id = put([ROW])
    with database.writing() as session:
        session.delete(session.get(Dataset, dataset_id))
    assert service.process(database, files, pool, dataset_id) is None
    service.process_within(database, files, pool, "user_ada", dataset_id)


def test_a_data_set_that_a_run_uses_stays_as_it_is_and_gets_a_new_state(database, files, pool, put, get, user):
    dataset_id = put([ROW])
    service.process_within(database, files, pool, "user_ada", dataset_id)
    with database.writing() as session:
        at = now(session)
        session.add(
            Model(id="model_a", owner_id=user.id, name="m", kind="policy", source="folder", path="/m", facts={}, created_at=at)
        )
        session.flush()
        session.add(Run(
            id="run_a", owner_id=user.id, name="r", state="queued", recipe={}, provenance={}, dataset_id=dataset_id,
            policy_id="model_a", created_at=at, queued_at=at,
        ))  # fmt: skip
    with database.writing() as session, pytest.raises(Conflict, match="The run “r” uses this data set"):
        service.delete(session, files, user.id, dataset_id)
    before = get(dataset_id).mapping
    with database.writing() as session:
        new_id = service.swap(session, files, user.id, dataset_id).id
    service.process_within(database, files, pool, "user_ada", new_id)
    old, new = get(dataset_id), get(new_id)
    assert (new.previous_id, new.name, new.state, new.sha256) == (dataset_id, f"{old.name} (2)", DatasetState.READY, old.sha256)
    assert (old.mapping, new.mapping["columns"]["chosen"]) == (before, before["columns"]["rejected"])
    texts = [datasets.read_examples(files, one)[0].responses[0].content for one in (dataset_id, new_id)]
    assert texts == [ROW["chosen"], ROW["rejected"]]
    with database.writing() as session:
        failing_id = service.remap(session, files, user.id, dataset_id, WRONG).id
    with pytest.raises(DatasetInvalid):
        service.process_within(database, files, pool, "user_ada", failing_id)
    with database.reading() as session:
        assert session.get(Dataset, failing_id) is None
    assert (get(dataset_id).mapping, get(dataset_id).state) == (before, DatasetState.READY)
    with database.writing() as session:
        service.delete(session, files, user.id, new_id)
    assert datasets.source_path(files, dataset_id).is_file()


def test_a_data_set_that_is_being_read_can_not_be_mapped(database, files, put, user):
    dataset_id = put([ROW])
    with database.writing() as session, pytest.raises(Conflict, match="still being read"):
        service.remap(session, files, user.id, dataset_id, RIGHT)


@pytest.mark.parametrize(
    ("name", "following"), [("pairs", "pairs (2)"), ("pairs (2)", "pairs (3)"), ("x" * 120, "x" * 110 + " (2)")]
)
def test_states_of_a_data_set_are_told_apart_by_name(name, following):
    assert service.next_name(name) == following


def test_a_data_set_without_two_sides_can_not_be_swapped(database, files, pool, put, user):
    dataset_id = put(RATED, mapping=RIGHT)
    service.process_within(database, files, pool, "user_ada", dataset_id)
    with database.writing() as session, pytest.raises(Conflict, match="no two sides to swap"):
        service.swap(session, files, user.id, dataset_id)


def test_names_are_made_safe(put, get):
    dataset_id = put([ROW], name=" \0a\nb\ud800 " + "x" * 300, filename="C:\\data\\.\x07")
    assert get(dataset_id).name.startswith("ab?")
    assert len(get(dataset_id).name) <= 120


def test_a_reader_that_is_stopped_leaves_the_data_set_to_the_next_start(database, files, pool, put, get, settings):
    dataset_id = put([ROW] * 40_000)
    service.process_within(database, files, pool, "user_ada", dataset_id, wait_seconds=0.3)
    leftover = files.dataset_dir(dataset_id) / ".examples.parquet.0.tmp"
    leftover.write_text("half")
    pool.close()
    pool._turns.threads.shutdown(wait=True)
    assert get(dataset_id).state == DatasetState.PROCESSING
    fresh = IngestPool(settings)
    service.resume_processing(database, files, fresh)
    fresh._turns.threads.shutdown(wait=True)
    fresh.close()
    assert get(dataset_id).num_examples == 40_000
    assert {path.name for path in files.dataset_dir(dataset_id).iterdir()} == {"source", "preview.json", "examples.parquet"}
