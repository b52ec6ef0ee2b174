"""How our processes are started: with our own modules, whatever lies in the folder they start in."""

import subprocess
import sys

from app.system.installation import inherit_environment
from tests.planted import plant

PROGRAM = "import select, subprocess, sys; subprocess.run([sys.executable, '-c', 'import select'])"


def test_neither_a_child_nor_its_own_children_run_a_module_of_the_folder_they_start_in(tmp_path):
    ran = plant(tmp_path)
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, env=inherit_environment(), check=True)
    assert not ran.exists()


def test_what_is_told_besides_reaches_the_child(monkeypatch):
    monkeypatch.setenv("STUDIO_PORT", "1")
    environment = inherit_environment(STUDIO_HOST="here")
    assert (environment["STUDIO_HOST"], environment["STUDIO_PORT"]) == ("here", "1")
