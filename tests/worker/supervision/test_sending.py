"""What a running attempt makes reaches the object store as it is at last, whatever changes while it is sent."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from app.domain.events import SpoolLine
from app.store.files.object_folders import find_tree
from app.store.files.objects import ObjectStore
from app.store.files.shared_files import SharedFiles
from tests.waiting import wait_until
from worker.supervision import sending
from worker.supervision.sending import Delivery

ANSWERS_ID, RUN_ID = "answers_1", "run_1"


@pytest.fixture
def files(tmp_path):
    return SharedFiles(tmp_path / "host", ObjectStore(f"file://{tmp_path / 'store'}", ""))


@pytest.fixture
def delivery(files):
    files.attempt_dir(RUN_ID, 1).mkdir(parents=True)
    claim = SimpleNamespace(run_id=RUN_ID, attempt=1, keeps_checkpoints=1, answers_id=ANSWERS_ID)
    delivery = Delivery(files, claim)  # type: ignore[arg-type]
    yield delivery
    delivery.close()


def line(kind: str, **payload: Any) -> SpoolLine:
    return SpoolLine(n=1, at="2026-01-01T00:00:00Z", kind=kind, payload=payload)


def test_scores_that_are_written_while_the_answers_are_sent_reach_the_store(files, delivery, monkeypatch):
    folder = files.answers_dir(ANSWERS_ID)
    folder.mkdir(parents=True)
    (folder / "part-000000.jsonl").write_text("answers")
    put_folder, rounds = sending.put_folder, []

    def put_while_the_judge_writes(*given):
        tree = put_folder(*given)
        rounds.append(sorted(tree.files))
        if len(rounds) == 1:
            (folder / "scores.jsonl").write_text("scores")
            delivery.note([line("judgement")])
        return tree

    monkeypatch.setattr(sending, "put_folder", put_while_the_judge_writes)
    delivery.note([line("answers")])
    wait_until(delivery.finish, "the end of the delivery")
    assert rounds == [["part-000000.jsonl"], ["part-000000.jsonl", "scores.jsonl"]]
    assert delivery.failure == ""


def test_a_checkpoint_that_comes_as_the_one_before_has_been_sent_is_sent_too(files, monkeypatch):
    folder, sent = files.checkpoints_dir(RUN_ID), []

    def make(step: int) -> None:
        (folder / f"step-{step:06d}").mkdir(parents=True)
        (folder / f"step-{step:06d}" / "tensors.safetensors").write_text("weights")
        delivery.note([line("checkpoint", name=f"step-{step:06d}", step=step, size_bytes=7)])

    class Meddled(threading.Condition):
        """Lets the second checkpoint come as soon as nobody holds the lock any more, after the first one was sent."""

        def __exit__(self, *of: Any) -> None:
            super().__exit__(*of)
            if len(sent) == 1 and not (folder / "step-000002").exists():
                make(2)

    def put(*given: Any, **options: Any) -> Any:
        tree = put_tree(*given, **options)
        sent.append(given[1].rsplit("/", 1)[-1])
        return tree

    put_tree = sending.put_tree
    monkeypatch.setattr(sending, "put_tree", put)
    monkeypatch.setattr(sending, "threading", SimpleNamespace(Condition=Meddled, Thread=threading.Thread))
    files.attempt_dir(RUN_ID, 1).mkdir(parents=True)
    claim = SimpleNamespace(run_id=RUN_ID, attempt=1, keeps_checkpoints=1, answers_id=None)
    delivery = Delivery(files, claim)  # type: ignore[arg-type]
    make(1)
    wait_until(lambda: (folder / "step-000002").exists(), "the second checkpoint", seconds=60)
    try:
        wait_until(lambda: len(sent) == 2, "what is sent of it", seconds=20)
    finally:
        delivery.close()
    assert sent == ["step-000001", "step-000002"]


def test_an_artifact_that_is_replaced_while_it_is_sent_is_sent_again_at_once(files, delivery, monkeypatch):
    folder = files.artifacts_dir(RUN_ID)
    folder.mkdir(parents=True)
    (folder / "report.json").write_text("old")
    put_tree, is_replaced = sending.put_tree, []

    def put_while_it_is_replaced(*given, **options):
        tree = put_tree(*given, **options)
        if not is_replaced:
            is_replaced.append(True)
            (folder / "report.json").unlink()
            (folder / "report.json").write_text("newer")
            delivery.note([line("artifact", name="report.json")])
        return tree

    def stored() -> int:
        tree = find_tree(files.store, f"{files.key_of(files.attempt_dir(RUN_ID, 1))}/artifacts")
        return tree.files["report.json"].size if tree else 0

    monkeypatch.setattr(sending, "put_tree", put_while_it_is_replaced)
    delivery.note([line("artifact", name="report.json")])
    wait_until(lambda: stored() == len("newer"), "the newer file in the store")


def test_what_could_not_be_sent_waits_again(files, delivery, monkeypatch):
    folder = files.answers_dir(ANSWERS_ID)
    folder.mkdir(parents=True)
    (folder / "part-000000.jsonl").write_text("answers")
    put_folder, tries = sending.put_folder, []

    def put_at_the_second_try(*given):
        tries.append(given)
        if len(tries) == 1:
            raise FileNotFoundError(2, "gone", "reply.json")
        return put_folder(*given)

    monkeypatch.setattr(sending, "put_folder", put_at_the_second_try)
    delivery.note([line("answers")])
    wait_until(delivery.finish, "the end of the delivery")
    assert len(tries) == 2
    assert find_tree(files.store, files.key_of(folder)) is not None
