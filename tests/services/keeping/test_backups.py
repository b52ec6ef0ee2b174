"""A backup is the whole studio: every row and file comes back, on either database, and nothing that is damaged is let in."""

import hashlib
import io
import json
import os
import shutil
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, insert, text

from app.domain.backup import BackupManifest
from app.domain.errors import Conflict, InvalidInput, StudioError
from app.domain.scoring import fingerprint
from app.services.keeping import backups, restores
from app.settings import Settings
from app.store import migrations, portable
from app.store.database import Database, now
from app.store.files.archive import ArchiveWriter, verify
from app.store.files.files import Files
from app.store.scorings import contents_of
from app.store.tables import Answers, JournalEntry, Model, PromptSet, Run, Scoring
from tests.conftest import Library, create_postgres_database, make_library
from tests.filled import fill, read_all

KEPT = {
    "datasets/data_pairs/source": b"the upload",
    "datasets/data_pairs/examples.parquet": bytes(range(256)) * 5000,
    "models/model_policy/model.safetensors": b"weights",
    "demonstration/policy/config.json": b"{}",
    "scorings/index-aaaa/index.json": b"{}",
    "prompt_sets/prompts_one/prompts.jsonl": b"{}",
    "answers/answers_one/scores/length/part-0.jsonl": b"{}",
}
LEFT_OUT = {
    "hub/models--x/blob": b"can be fetched again",
    "uploads/abc.part": b"half",
    "scorings/index-bbbb.partial/index.json": b"half",
    "datasets/data_pairs/.examples.tmp": b"half",
    "datasets/data_gone/source": b"no row knows it",
    "cli-token": b"a secret",
}


@pytest.fixture
def make_backup(either_database: Database, files: Files, tmp_path: Path) -> Callable[[], Path]:
    def make() -> Path:
        target = tmp_path / "studio.tar"
        backups.back_up(either_database, files, target)
        return target

    return make


def write_files(root: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def add_answers(database: Database) -> None:
    with database.writing() as session:
        at = now(session)
        owned = {"owner_id": "user_ada", "created_at": at}
        session.add(PromptSet(id="prompts_one", name="One", sha256="p" * 64, num_prompts=1, facts={}, source={}, **owned))
        session.flush()
        session.add(Answers(
            id="answers_one", name="One", prompt_set_id="prompts_one", fingerprint="a" * 64, num_draws=1, used_at=at, model={},
            model_name="One", sampling={}, **owned,
        ))  # fmt: skip


def elsewhere(tmp_path: Path, **changes: object) -> Settings:
    return Settings(_env_file=None, data_dir=tmp_path / "elsewhere" / "var", **changes)


def restored(settings: Settings, source: Path) -> Database:
    restores.restore(settings, source)
    return Database(settings)


def test_every_row_of_every_table_comes_back(either_database: Database, make_backup: Callable[[], Path], tmp_path: Path) -> None:
    fill(either_database)
    there = restored(elsewhere(tmp_path), make_backup())
    before, after = read_all(either_database), read_all(there)
    assert all(before.values())
    assert after == before
    assert there.is_current()
    there.close()


@pytest.mark.box
def test_a_backup_of_either_database_can_be_restored_into_postgresql(
    either_database: Database, make_backup: Callable[[], Path], postgres_url: str, tmp_path: Path
) -> None:
    fill(either_database)
    there = restored(elsewhere(tmp_path, database_url=create_postgres_database(postgres_url)), make_backup())
    assert read_all(there) == read_all(either_database)
    there.close()


@pytest.mark.box
def test_characters_that_only_sqlite_keeps_do_not_stop_a_move_to_postgresql(
    database: Database, files: Files, library: Library, postgres_url: str, tmp_path: Path
) -> None:
    with database.writing() as session:
        session.get_one(Model, "model_policy").facts = {"text": "a\0b\ud800c\U0001f600"}
    backups.back_up(database, files, tmp_path / "studio.tar")
    there = restored(elsewhere(tmp_path, database_url=create_postgres_database(postgres_url)), tmp_path / "studio.tar")
    with there.reading() as session:
        assert session.get_one(Model, "model_policy").facts == {"text": "a\ufffdb\ufffdc\U0001f600"}
    there.close()


def test_files_of_rows_come_back_and_others_stay_out(database: Database, files: Files, library: Library, tmp_path: Path) -> None:
    write_files(files.root, KEPT | LEFT_OUT)
    add_answers(database)
    manifest = backups.back_up(database, files, tmp_path / "studio.tar")
    assert set(manifest.files) == set(KEPT)
    assert manifest.missing == []
    there = elsewhere(tmp_path)
    restores.restore(there, tmp_path / "studio.tar")
    assert {name: (there.root / name).read_bytes() for name in KEPT} == KEPT
    assert not any((there.root / name).exists() for name in LEFT_OUT)
    assert not (there.root / restores.NOTE).exists()


def test_a_backup_is_its_makers_alone_whatever_the_umask(database: Database, files: Files, tmp_path: Path) -> None:
    known = os.umask(0o022)
    try:
        backups.back_up(database, files, tmp_path / "studio.tar")
    finally:
        os.umask(known)
    assert (tmp_path / "studio.tar").stat().st_mode & 0o777 == 0o600


def test_scorings_may_be_left_out(database: Database, files: Files, library: Library, tmp_path: Path) -> None:
    write_files(files.root, KEPT)
    add_answers(database)
    manifest = backups.back_up(database, files, tmp_path / "studio.tar", with_scorings=False)
    assert set(manifest.files) == {name for name in KEPT if not name.startswith("scorings")}


def make_run(database: Database, library: Library, state: str, step: int) -> str:
    run = {
        "id": f"run_{state}", "owner_id": library.user.id, "name": state, "state": state, "recipe": {}, "provenance": {},
        "dataset_id": library.dataset.id, "policy_id": library.policy.id, "attempt": 1, "spool_attempt": 1, "step": step,
        "created_at": library.user.created_at, "queued_at": library.user.created_at,
    }  # fmt: skip
    with database.writing() as session:
        session.execute(insert(Run), [run])
    return str(run["id"])


def write_checkpoint(files: Files, run_id: str, step: int, content: bytes = b"tensors") -> str:
    name = f"runs/{run_id}/checkpoints/step-{step:06d}"
    manifest = json.dumps({"format": 1, "step": step, "files": {"tensors.safetensors": {"size_bytes": len(content)}}})
    write_files(files.root, {f"{name}/tensors.safetensors": content, f"{name}/manifest.json": manifest.encode()})
    return name


def test_the_newest_checkpoint_that_the_record_knows_is_kept(
    database: Database, files: Files, library: Library, tmp_path: Path
) -> None:
    run_id = make_run(database, library, "running", step=12)
    spool = b'{"n": 1, "kind": "step", "payload": {"step": 19}}\n{"n": 2, "kind": "log", "payload": {}}\n{"n": 3, "ki'
    write_files(files.root, {f"runs/{run_id}/attempts/1/events.jsonl": spool, f"runs/{run_id}/attempts/2/spec.json": b"later"})
    write_files(files.root, {f"runs/{run_id}/attempts/1/process.json": b"{}"})
    names = [write_checkpoint(files, run_id, step) for step in (10, 15, 20)]
    (files.root / names[2] / "tensors.safetensors").unlink()
    manifest = backups.back_up(database, files, tmp_path / "studio.tar")
    spool_name = f"runs/{run_id}/attempts/1/events.jsonl"
    assert set(manifest.files) == {spool_name, f"{names[1]}/manifest.json", f"{names[1]}/tensors.safetensors"}
    there = elsewhere(tmp_path)
    restores.restore(there, tmp_path / "studio.tar")
    assert (there.root / spool_name).read_bytes() == spool[: spool.rindex(b"\n") + 1]


def test_a_checkpoint_that_lacks_a_file_gives_way_to_the_one_before(
    database: Database, files: Files, library: Library, tmp_path: Path
) -> None:
    run_id = make_run(database, library, "failed", step=20)
    names = [write_checkpoint(files, run_id, step) for step in (10, 20)]
    (files.root / names[1] / "tensors.safetensors").unlink()
    manifest = backups.back_up(database, files, tmp_path / "studio.tar")
    assert set(manifest.files) == {f"{names[0]}/manifest.json", f"{names[0]}/tensors.safetensors"}


def step_line(step: int) -> bytes:
    return json.dumps({"n": step, "kind": "step", "payload": {"step": step}}).encode() + b"\n"


def test_a_run_that_goes_on_meanwhile_has_all_steps_that_lead_to_its_checkpoint(
    database: Database, files: Files, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = make_run(database, library, "running", step=1)
    steps = iter(range(2, 1000))
    spool = files.attempt_dir(run_id, 1) / "events.jsonl"
    write_files(files.root, {str(spool.relative_to(files.root)): step_line(1)})
    add = ArchiveWriter.add

    def work(archive: ArchiveWriter, *arguments: Any) -> Any:
        added = add(archive, *arguments)
        step = next(steps)
        with spool.open("ab") as file:
            file.write(step_line(step))
        write_checkpoint(files, run_id, step)
        return added

    monkeypatch.setattr(ArchiveWriter, "add", work)
    backups.back_up(database, files, tmp_path / "studio.tar")
    there = elsewhere(tmp_path)
    restores.restore(there, tmp_path / "studio.tar")
    restored = Files(there.root)
    (kept,) = restored.checkpoints_dir(run_id).iterdir()
    lines = (restored.attempt_dir(run_id, 1) / "events.jsonl").read_bytes().splitlines()
    known = [json.loads(line)["payload"]["step"] for line in lines]
    assert int(kept.name[5:]) in known
    assert known == list(range(1, len(known) + 1))


def test_a_checkpoint_of_an_attempt_whose_spool_was_not_recorded_yet_is_left_out(
    database: Database, files: Files, library: Library, tmp_path: Path
) -> None:
    run_id = make_run(database, library, "running", step=12)  # its rows: of the first attempt
    with database.writing() as session:
        session.get_one(Run, run_id).attempt = 2  # claimed anew; what the first one left is still to be recorded
    write_files(files.root, {f"runs/{run_id}/attempts/{number}/events.jsonl": step_line(12 * number) for number in (1, 2)})
    names = [write_checkpoint(files, run_id, step) for step in (10, 20)]
    manifest = backups.back_up(database, files, tmp_path / "studio.tar")
    assert f"{names[0]}/manifest.json" in manifest.files
    assert f"{names[1]}/manifest.json" not in manifest.files


def test_a_run_that_succeeded_needs_no_checkpoint(database: Database, files: Files, library: Library, tmp_path: Path) -> None:
    run_id = make_run(database, library, "succeeded", step=20)
    write_checkpoint(files, run_id, 20)
    assert backups.back_up(database, files, tmp_path / "studio.tar").files == {}


class Vanishing:
    """A file that is shorter than it was said to be."""

    def read(self, size: int, /) -> bytes:
        return b""


def test_a_file_that_shrinks_while_it_is_copied_does_not_count_and_does_not_stop_the_backup(tmp_path: Path) -> None:
    manifest = BackupManifest.model_validate(
        {"studio": "1", "revision": "r", "database": "sqlite", "data_dir": "/", "created_at": "2026-01-01T00:00:00Z"}
    )
    with ArchiveWriter(tmp_path / "a.tar") as archive:
        assert archive.add("files/gone", Vanishing(), 100_000) is None
        member = archive.add("files/whole", io.BytesIO(b"abc"), 3)
        assert member is not None
        manifest.files["whole"] = member
        archive.finish(manifest)
    assert set(verify(tmp_path / "a.tar").files) == {"whole"}


def test_a_backup_never_writes_over_another_and_leaves_nothing_half_done(
    database: Database, files: Files, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "studio.tar"
    backups.back_up(database, files, target)
    with pytest.raises(Conflict, match="is there already"):
        backups.back_up(database, files, target)
    monkeypatch.setattr(ArchiveWriter, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        backups.back_up(database, files, tmp_path / "second.tar")
    assert [path.name for path in tmp_path.glob("*.tar*")] == ["studio.tar"]
    assert list(tmp_path.glob(".*")) == []


def interrupted(*_arguments: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("position", [0.3, 0.9])
def test_a_damaged_backup_is_named_and_nothing_is_restored(
    database: Database, files: Files, library: Library, tmp_path: Path, position: float
) -> None:
    write_files(files.root, KEPT)
    target = tmp_path / "studio.tar"
    backups.back_up(database, files, target)
    with tarfile.open(target) as tar:
        place = tar.getmember("files/datasets/data_pairs/examples.parquet").offset_data + int(1_280_000 * position)
    with target.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff\x00\xfe")
    there = elsewhere(tmp_path)
    with pytest.raises(InvalidInput, match=r"damaged: files/datasets/data_pairs/examples.parquet is not what was written"):
        restores.restore(there, target)
    assert not there.root.exists()


@pytest.mark.parametrize("share", [0.2, 0.6, 0.99])
def test_a_backup_that_is_cut_off_is_refused(
    database: Database, files: Files, library: Library, tmp_path: Path, share: float
) -> None:
    write_files(files.root, KEPT)
    target = tmp_path / "studio.tar"
    backups.back_up(database, files, target)
    os.truncate(target, int(target.stat().st_size * share))
    with pytest.raises(InvalidInput, match=r"Take another backup"):
        verify(target)


def test_what_is_no_backup_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no archive at all" * 1000)
    with pytest.raises(InvalidInput, match="can't be read as a backup"):
        verify(tmp_path / "a.tar")


def rewrite_manifest(source: Path, target: Path, **changes: object) -> None:
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for info in old:
            file = old.extractfile(info)
            assert file is not None
            data = file.read()
            if info.name == "manifest.json":
                data = json.dumps({**json.loads(data), **changes}).encode()
                info.size = len(data)
            new.addfile(info, io.BytesIO(data))


def test_a_backup_of_a_newer_studio_is_refused(database: Database, files: Files, library: Library, tmp_path: Path) -> None:
    backups.back_up(database, files, tmp_path / "studio.tar")
    rewrite_manifest(tmp_path / "studio.tar", tmp_path / "newer.tar", revision="ffff", studio="99.0")
    with pytest.raises(StudioError, match=r"newer VAR Studio \(99.0, migration ffff\)"):
        restores.restore(elsewhere(tmp_path), tmp_path / "newer.tar")


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "datasets/../../x", "datasets//x"])
def test_a_backup_can_not_write_outside_the_data_folder(
    database: Database, files: Files, library: Library, tmp_path: Path, name: str
) -> None:
    backups.back_up(database, files, tmp_path / "studio.tar")
    rewrite_manifest(tmp_path / "studio.tar", tmp_path / "evil.tar", files={name: {"size_bytes": 0, "sha256": ""}})
    with pytest.raises(InvalidInput, match="outside the data folder"):
        restores.restore(elsewhere(tmp_path), tmp_path / "evil.tar")


@pytest.mark.parametrize("name", ["studio.db", "cli-token", ".env", "runs/.hidden/x", "runs", "elsewhere/x"])
def test_a_backup_writes_no_file_but_those_that_rows_speak_of(
    database: Database, files: Files, library: Library, tmp_path: Path, name: str
) -> None:
    backups.back_up(database, files, tmp_path / "studio.tar")
    nothing = {"size_bytes": 0, "sha256": hashlib.sha256().hexdigest()}
    rewrite_manifest(tmp_path / "studio.tar", tmp_path / "evil.tar", files={name: nothing})
    with tarfile.open(tmp_path / "evil.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo(f"files/{name}"))
    with pytest.raises(InvalidInput, match="none that a backup holds"):
        restores.restore(elsewhere(tmp_path), tmp_path / "evil.tar")


def craft(
    source: Path, target: Path, table: str, change: Callable[[list[dict[str, Any]]], object], *, as_table: str = ""
) -> None:
    """Write a backup whose sums are right, with other rows in one table."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        sums: dict[str, Any] = {}
        for info in old:
            file = old.extractfile(info)
            assert file is not None
            data = file.read()
            if info.name == f"tables/{table}.jsonl":
                changed = change([json.loads(line) for line in data.splitlines()])
                data = changed if isinstance(changed, bytes) else b"".join(json.dumps(row).encode() + b"\n" for row in changed)
                sums = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "num_rows": 1}
                info.name = f"tables/{as_table or table}.jsonl"
            if info.name == "manifest.json":
                manifest = json.loads(data)
                del manifest["tables"][table]
                manifest["tables"][as_table or table] = sums
                data = json.dumps(manifest).encode()
            info.size = len(data)
            new.addfile(info, io.BytesIO(data))


def with_first(**changes: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [{**rows[0], **changes}, *rows[1:]]


CRAFTED: dict[str, tuple[str, Any, str]] = {
    "no JSON": ("models", lambda _: b"{no json\n", "Row 1 of the backup's table models can't be read"),
    "no row": ("models", lambda _: b"[1]\n", "can't be read"),
    "deep": ("models", lambda _: b"[" * 100_000 + b"\n", "can't be read"),
    "a strange column": ("models", with_first(evil=1), "a column 'evil', which the table has not"),
    "an id that leads out": ("datasets", with_first(id="../../x"), "an id that can be no folder's name"),
    "no id": ("datasets", lambda rows: [{k: v for k, v in rows[0].items() if k != "id"}], "an id that can be no folder's name"),
    "text for a time": ("users", with_first(created_at="yesterday"), "a value in created_at that the column can't hold"),
    "a list for a text": ("users", with_first(name=["x"]), "a value in name that the column can't hold"),
    "text for a number": ("datasets", with_first(size_bytes="9; DROP"), "a value in size_bytes that the column can't hold"),
    "a value too few": ("users", with_first(name=None), "can't be kept"),
    "the same twice": ("users", lambda rows: [*rows, rows[0]], "can't be kept"),
    "nobody's": ("models", with_first(owner_id="user_nobody"), "rows of models that point to rows that it has not|can't be kept"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_backup_with_rows_that_no_studio_wrote_is_refused_with_a_sentence_and_leaves_nothing(
    database: Database, files: Files, library: Library, tmp_path: Path, name: str
) -> None:
    table, change, sentence = CRAFTED[name]
    write_files(files.root, KEPT)
    backups.back_up(database, files, tmp_path / "studio.tar")
    craft(tmp_path / "studio.tar", tmp_path / "evil.tar", table, change)
    there = elsewhere(tmp_path)
    with pytest.raises(InvalidInput, match=sentence):
        restores.restore(there, tmp_path / "evil.tar")
    restored(there, tmp_path / "studio.tar").close()  # into the same folder: it is as empty as before


@pytest.mark.parametrize("name", ["alembic_version", "nothing", "sqlite_master", "../x"])
def test_a_backup_with_a_table_of_its_own_is_refused(
    database: Database, files: Files, library: Library, tmp_path: Path, name: str
) -> None:
    backups.back_up(database, files, tmp_path / "studio.tar")
    craft(tmp_path / "studio.tar", tmp_path / "evil.tar", "previews", lambda rows: rows, as_table=name)
    with pytest.raises(InvalidInput, match="which its version doesn't know"):
        restores.restore(elsewhere(tmp_path), tmp_path / "evil.tar")


def test_a_member_that_is_there_twice_is_refused(database: Database, files: Files, library: Library, tmp_path: Path) -> None:
    backups.back_up(database, files, tmp_path / "studio.tar")
    rewrite_manifest(tmp_path / "studio.tar", tmp_path / "evil.tar")
    with tarfile.open(tmp_path / "evil.tar", "a") as tar:
        tar.addfile(tar.getmember("tables/users.jsonl"), io.BytesIO(b"x" * tar.getmember("tables/users.jsonl").size))
    with pytest.raises(InvalidInput, match=r"tables/users.jsonl twice"):
        verify(tmp_path / "evil.tar")


def test_only_an_empty_studio_is_filled(
    either_database: Database, make_backup: Callable[[], Path], settings: Settings, tmp_path: Path
) -> None:
    make_library(either_database)
    source = make_backup()
    with pytest.raises(Conflict, match=r"database is not empty \(it has datasets, models, users\)"):
        restores.restore(either_database.settings, source)
    there = elsewhere(tmp_path)
    write_files(there.root, {"runs/run_1/artifacts/a": b""})
    with pytest.raises(Conflict, match=r"is not empty \(it has runs\)"):
        restores.restore(there, source)
    assert not (there.root / restores.NOTE).exists()


def older_backup(target: Path, settings: Settings) -> str:
    """As the first version would have written it: its tables, one user. Returns the revision."""
    first = min(migrations.list_revisions(), key=age)
    member_lines = b'{"id":"user_1","name":"Ada","role":"admin","created_at":"2025-01-01T00:00:00.000000+00:00"}\n'
    manifest = BackupManifest.model_validate(
        {"studio": "0.0.1", "revision": first, "database": "sqlite", "data_dir": "/old", "created_at": "2025-01-01T00:00:00Z"}
    )
    with ArchiveWriter(target) as archive:
        member = archive.add("tables/users.jsonl", io.BytesIO(member_lines), len(member_lines))
        assert member is not None
        manifest.tables["users"] = member
        archive.finish(manifest)
    return first


def age(revision: str) -> int:
    """How many steps come before this one."""
    script = ScriptDirectory.from_config(migrations.config())
    return len(list(script.iterate_revisions(revision, "base")))


def test_a_backup_of_an_older_studio_is_brought_to_this_version(either_database: Database, tmp_path: Path) -> None:
    older_backup(tmp_path / "older.tar", either_database.settings)
    there = elsewhere(tmp_path, database_url=either_database.settings.database_url)
    if not there.database_url:
        shutil.copytree(either_database.settings.root, there.root)  # migrated already, as a first start leaves it
    restores.restore(there, tmp_path / "older.tar")
    database = Database(there)
    assert database.is_current()
    with database.reading() as session:
        assert session.execute(text("SELECT name FROM users")).scalar_one() == "Ada"
    database.close()


def test_a_restore_that_was_killed_is_simply_run_again(
    either_database: Database, make_backup: Callable[[], Path], files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(either_database)
    write_files(files.root, {"scorings/index-aaaa/index.json": b"{}"})
    source, there = make_backup(), elsewhere(tmp_path)
    load = portable.load

    def load_some(connection: Connection, table: portable.Table, lines: object) -> int:
        if table.name == "journal":
            raise KeyboardInterrupt
        return load(connection, table, lines)  # type: ignore[arg-type]

    monkeypatch.setattr(portable, "load", load_some)
    with pytest.raises(KeyboardInterrupt):
        restores.restore(there, source)
    monkeypatch.setattr(portable, "load", load)
    again = restored(there, source)
    assert read_all(again) == read_all(either_database)
    again.close()
    (there.root / restores.NOTE).write_bytes(restores._note(verify(source)))  # killed after its commit
    restores.restore(there, source)
    assert not (there.root / restores.NOTE).exists()


def test_models_of_the_old_folder_and_their_scorings_are_found_in_the_new_one(
    database: Database, files: Files, library: Library, tmp_path: Path
) -> None:
    with database.writing() as session:
        model = session.get_one(Model, "model_policy")
        model.path = str(files.model_dir(model.id))
        at = library.user.created_at
        scoring = Scoring(
            id="scoring_1", owner_id=library.user.id, name="S", fingerprint="", settings={"a": 1}, dataset_id=library.dataset.id,
            policy_id=model.id, created_at=at, used_at=at,
        )  # fmt: skip
        scoring.fingerprint = fingerprint(scoring.settings, contents_of(session, scoring))
        session.add(scoring)
    backups.back_up(database, files, tmp_path / "studio.tar")
    there = restored(elsewhere(tmp_path), tmp_path / "studio.tar")
    with there.reading() as session:
        assert session.get_one(Model, "model_policy").path == "models/model_policy"
        assert session.get_one(Model, "model_reward").path == "small/reward"
        moved = session.get_one(Scoring, "scoring_1")
        assert moved.fingerprint == fingerprint({"a": 1}, contents_of(session, moved))
        assert moved.fingerprint != scoring.fingerprint
    there.close()


@pytest.mark.long
def test_memory_stays_flat_however_long_the_journal_is(either_database: Database, files: Files, tmp_path: Path) -> None:
    run_id = make_run(either_database, make_library(either_database), "running", step=1)
    payload = {"text": "x" * 1500}
    rows = [{"run_id": run_id, "seq": seq, "kind": "log", "payload": payload} for seq in range(1, 10_001)]
    with either_database.writing() as session:
        for row in rows:
            row["at"] = backups.now(session) if row["seq"] == 1 else rows[0]["at"]
        session.execute(insert(JournalEntry), rows)
    rows.clear()
    tracemalloc.start()
    try:
        manifest = backups.back_up(either_database, files, tmp_path / "studio.tar")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert manifest.tables["journal"].num_rows == 10_000
    assert manifest.tables["journal"].size_bytes > 15e6
    assert peak < 12e6
