"""A disk that is soon full: a file system of its own in memory, gone with the test even if the test is killed."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a file system of `size_bytes` at `folder`; skips the test where that is not possible.

    A second process waits for this one's end: a mount that outlives its test can't be removed with the folders of old runs.
    """
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], check=False, capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.strip()}")
    watch = 'tail --pid="$0" --follow /dev/null; umount --lazy "$1"'
    watcher = subprocess.Popen(["sh", "-c", watch, str(os.getpid()), str(folder)], start_new_session=True)
    try:
        yield folder
    finally:
        os.killpg(watcher.pid, 9)
        watcher.wait()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
