"""How our processes are started: with our own modules, whatever lies in the folder they start in."""

import subprocess
import sys

from app.system.installation import inherit_environment, limit_threads
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


def test_threads_that_wait_for_each_other_sleep_unless_it_is_said_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert limit_threads(3) == {
        "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3", "OMP_WAIT_POLICY": "PASSIVE",
    }  # fmt: skip
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert limit_threads(1)["OMP_WAIT_POLICY"] == "ACTIVE"
