"""What is not installed is said in a sentence that names the command for it: files of the pages, packages that train."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.commands.up import describe_missing_parts
from app.domain.check_result import Level
from app.services.checkup.studio import check_files
from app.system import installation
from tests.cli.test_cli import make_shell

WITHOUT_TORCH = "import app.system.installation as here; here.TRAINING = ('no_such_package',); "


def test_a_folder_inside_the_package_comes_before_the_one_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "PACKAGE", tmp_path / "app")
    monkeypatch.setattr(installation, "ROOT", tmp_path)
    assert installation.find_folder("templates") == tmp_path / "templates"
    (tmp_path / "app" / "templates").mkdir(parents=True)
    assert installation.find_folder("templates") == tmp_path / "app" / "templates"


@pytest.mark.parametrize("is_checkout", [True, False])
def test_remedies_are_commands_that_work_where_they_are_read(
    is_checkout: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "ROOT", tmp_path)
    if is_checkout:
        (tmp_path / "pyproject.toml").touch()
    assert installation.install_command("worker") == (
        "pip install -e '.[worker]'" if is_checkout else "pip install 'var-studio[worker]'"
    )
    assert ("app.assets" in installation.restore_command()) == is_checkout


def test_this_installation_is_whole() -> None:
    assert installation.find_untrainable() == ""
    assert [name for name in installation.list_missing_files() if "vendor" not in name] == []


def make_installation(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(installation, "PACKAGE", folder)
    monkeypatch.setattr(installation, "ROOT", folder)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_the_doctor_names_libraries_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_installation(
        tmp_path, monkeypatch, "templates/base.html", "static/studio.css", "static/vendor/htmx.js", "migrations/env.py"
    )
    (verdict,) = check_files()
    assert verdict.level is Level.ERROR
    assert verdict.sentence.startswith("static/vendor/echarts.js can't be found")
    assert verdict.remedy
    assert "since static/vendor/echarts.js can't be found: " in describe_missing_parts("")[0]
    (tmp_path / "static/vendor/echarts.js").touch()
    assert [verdict.level for verdict in check_files()] == [Level.OK]


def test_an_image_without_pages_is_only_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_installation(tmp_path, monkeypatch, "migrations/env.py")
    assert [verdict.level for verdict in check_files()] == [Level.WARNING]


@pytest.mark.parametrize("command", [["train", "recipe.yaml"], ["demo", "--exit"]], ids=["train", "demo"])
def test_commands_that_train_say_what_to_install(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "TRAINING", ("no_such_package",))
    assert "To train here: pip install" in make_shell(tmp_path).fails(*command)
    assert list(tmp_path.iterdir()) == []


def test_a_worker_says_what_to_install(tmp_path: Path) -> None:
    program = WITHOUT_TORCH + "from worker.main import main; main()"
    environment = {**os.environ, "STUDIO_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("This worker can't start. no_such_package is not installed here.")


@pytest.mark.parametrize("command", [["demo", "--exit"], ["db", "upgrade"], ["tokens", "create"]], ids=" ".join)
def test_a_data_folder_that_can_not_be_made_is_named_with_what_to_do(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file where the folder should be")
    sentence = make_shell(tmp_path).fails(*command).replace("\n", " ")
    assert sentence.startswith(f"Nothing can be kept in the data folder {tmp_path / 'var'} (File exists).")
