"""What a failed test prints to look at: the end of every log that its processes wrote meanwhile."""

import time
from pathlib import Path

import pytest

NUM_LINES, NUM_LOGS = 40, 12
LOGS = ("*.log", "log.txt")
began = pytest.StashKey[float]()


def note_begin(item: pytest.Item) -> None:
    """Remember when the test began; older logs are none of its own."""
    item.stash[began] = time.time()


def add_logs(item: pytest.Item, report: pytest.TestReport, root: Path) -> None:
    """Add a section for each log below `root` that was written to since the test began, the newest first."""
    for path in find_logs(root, item.stash.get(began, 0.0))[:NUM_LOGS]:
        lines = path.read_text(errors="replace").splitlines()
        report.sections.append((f"end of {path}", "\n".join(lines[-NUM_LINES:])))


def find_logs(root: Path, since: float) -> list[Path]:
    found: dict[Path, float] = {}
    for pattern in LOGS:
        for path in root.rglob(pattern):
            try:
                written = path.stat()
            except OSError:  # its studio is being taken down
                continue
            if written.st_size and written.st_mtime >= since:
                found[path] = written.st_mtime
    return sorted(found, key=lambda path: -found[path])
