"""One workshop of tiny models for the whole session."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.worker.workshop import Workshop
from worker.runner import main


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def run() -> Iterator[Callable[[Path], int]]:
    """The runner within this process: exit status for an attempt's folder. Its signal handlers are taken away again, and tiny
    numbers, which a runner counts as zeros, count in this process again.
    """
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield lambda folder: main([str(folder)])
    torch.set_flush_denormal(False)
    for number, handler in kept.items():
        signal.signal(number, handler)
