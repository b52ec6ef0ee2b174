import hashlib
import os
from pathlib import Path

import pytest

from app.system.files import filling, hash_file, link_or_copy, name_beside, private_files, remove_tree, remove_unfinished, writing


class Refused(Exception):
    pass


def refuse() -> None:
    raise Refused


def fail_over(path: Path) -> None:
    path.write_text("half", encoding="utf-8")
    raise Refused


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_a_file_appears_whole_when_its_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "spec.json"
    with writing(path) as temporary:
        temporary.write_bytes(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    assert names(path.parent) == ["spec.json"]


def test_what_fails_while_it_is_written_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(b"old")
    with pytest.raises(Refused), writing(path) as temporary:
        fail_over(temporary)
    with pytest.raises(Refused), writing(path, may_appear=refuse) as temporary:
        temporary.write_bytes(b"whole, but too late")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["spec.json"]


def test_a_folder_is_filled_beside_its_place_and_gone_unless_it_was_renamed(tmp_path: Path) -> None:
    place = tmp_path / "models" / "model_1"
    with filling(place) as temporary:
        (temporary / "config.json").write_text("{}")
        temporary.rename(place)
    with pytest.raises(Refused), filling(place) as temporary:
        fail_over(temporary / "config.json")
    assert names(place.parent) == ["config.json", "model_1"]
    assert (place / "config.json").read_text() == "{}"


def test_leftovers_of_killed_writers_go_and_nothing_else(tmp_path: Path) -> None:
    whole = tmp_path / "attempts" / "1" / "spec.json"
    whole.parent.mkdir(parents=True)
    whole.write_text("{}")
    name_beside(whole).write_text("{")
    (name_beside(tmp_path / "model") / "deep").mkdir(parents=True)
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["1", "attempts", "spec.json"]


def test_a_file_gets_a_second_name_or_is_copied_where_it_can_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"content")
    link_or_copy(source, tmp_path / "b")
    assert (tmp_path / "b").samefile(source)

    def refuse_links(*_: object) -> None:
        raise OSError("this file system has no links")

    monkeypatch.setattr(Path, "hardlink_to", refuse_links)
    link_or_copy(str(source), str(tmp_path / "c"))
    assert (tmp_path / "c").read_bytes() == b"content"
    assert not (tmp_path / "c").samefile(source)


def test_a_tree_that_is_not_there_is_removed_already(tmp_path: Path) -> None:
    remove_tree(tmp_path / "nothing")


def test_a_file_is_hashed_in_pieces_and_the_check_may_end_it(tmp_path: Path) -> None:
    content = bytes(range(256)) * 8192
    (tmp_path / "big").write_bytes(content)
    asked: list[None] = []
    assert hash_file(tmp_path / "big", lambda: asked.append(None)) == hashlib.sha256(content).hexdigest()
    assert len(asked) == 2
    with pytest.raises(Refused):
        hash_file(tmp_path / "big", refuse)


def test_what_a_user_withholds_from_others_stays_withheld_and_the_umask_comes_back(tmp_path):
    known = os.umask(0o137)
    try:
        with private_files():
            (tmp_path / "file").touch()
            (tmp_path / "folder").mkdir()
        assert os.umask(0o137) == 0o137
    finally:
        os.umask(known)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "folder").stat().st_mode & 0o077 == 0
