"""The commands of an operator, as typed: backup and restore of a studio, and sentences when something is wrong."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.test_cli import Shell, make_shell


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A terminal whose studio has a user."""
    shell = make_shell(tmp_path)
    shell.must("users", "add", "ada")
    return shell


def test_a_studio_is_kept_in_a_file_and_comes_back_from_it(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    told = shell.must("backup", "backups")
    (made,) = (tmp_path / "backups").iterdir()
    assert made.name in told
    assert "rows of" in told
    assert "is whole" in shell.must("backup", "--verify", made)
    there = {"STUDIO_DATA_DIR": str(tmp_path / "there")}
    done = shell("restore", made, **there)
    assert (done.returncode, done.stderr) == (0, "")
    assert "varstudio up" in done.stdout
    assert shell("users", "list", **there).stdout == shell.must("users", "list")
    assert f"A backup was taken: {made.name}." in shell.must("acts")
    restored = shell("acts", **there).stdout
    assert re.search(rf"Backup, restore or pruning +A backup of .+ was restored: {made.name}", restored)
    assert "User added" in restored


def test_errors_of_backup_and_restore_are_sentences(shell: Shell, tmp_path: Path) -> None:
    shell.must("backup", "a.tar", "--without-scorings")
    assert "is there already" in shell.fails("backup", "a.tar")
    told = shell.fails("backup", "no/such/folder/a.tar")
    assert "no/such/folder does not exist: make it" in told
    assert ".tmp" not in told
    assert "is not empty" in shell.fails("restore", "a.tar")
    assert "No such file or directory" in shell.fails("restore", "b.tar")
    (tmp_path / "c.tar").write_text("nothing")
    assert "can't be read as a backup" in shell.fails("backup", "--verify", "c.tar")


def test_pruning_says_what_it_would_do_and_which_rules_there_are(shell: Shell) -> None:
    assert "No rule is set" in shell.must("prune")
    done = shell("prune", "--dry-run", STUDIO_CHECKPOINTS_DAYS="10")
    assert done.stdout == "Would remove 0 B from 0 places.\n"


def test_the_doctor_tells_people_and_machines(shell: Shell, tmp_path: Path) -> None:
    told = shell("doctor")
    assert (told.returncode, told.stderr) == (0, "")
    assert re.search(r"^ok +tables ", told.stdout, re.MULTILINE)
    report = json.loads(shell.must("doctor", "--json"))
    assert report["healthy"]
    assert {"versions", "sqlite", "database", "tables", "integrity", "broker", "disk"} <= {
        one["check"] for one in report["checks"]
    }


def test_the_doctor_ends_with_1_when_something_is_broken_and_shows_no_secret(shell: Shell) -> None:
    sick = shell("doctor", "--json", STUDIO_DATABASE_URL="postgresql://u:hunter2@127.0.0.1:1/x")
    assert sick.returncode == 1
    assert "hunter2" not in sick.stdout + sick.stderr
    assert not json.loads(sick.stdout)["healthy"]
