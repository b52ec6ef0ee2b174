"""Runs of several processes for tests: forked ranks, which need no imports of their own, without the launcher around them."""

import json
import multiprocessing
import os
import socket
import warnings
from pathlib import Path
from typing import Any

import peft  # noqa: F401  # here, so that no forked process has to import it
from safetensors.torch import load_file
from torch import Tensor

from tests.waiting import END_SECONDS
from worker import rank
from worker.running.ranks import rank_folder


def ask_for(folder: Path, num_processes: int, **training: Any) -> Path:
    """Change how many processes an attempt's spec names, and parts of its training settings."""
    spec = json.loads((folder / "spec.json").read_text())
    spec["num_processes"] = num_processes
    spec["recipe"]["training"].update(num_processes=num_processes, **training)
    (folder / "spec.json").write_text(json.dumps(spec))
    return folder


def fork_ranks(folder: Path, size: int, seconds: float = END_SECONDS) -> list[int | None]:
    """Run an attempt by `size` forked processes; their exit statuses."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(size)
        told = [str(size), str(listening.getsockname()[1])]
        context = multiprocessing.get_context("fork")
        processes = []
        for k in range(size):
            rank_folder(folder, k).mkdir()
            argv = [str(folder), str(k), *told, *([str(listening.fileno())] if k == 0 else [])]
            processes.append(context.Process(target=_run_rank, args=(folder, argv)))
        for process in processes:
            process.start()
        for process in processes:
            process.join(seconds)
            process.kill()
    return [process.exitcode for process in processes]


def _run_rank(folder: Path, argv: list[str]) -> None:
    with (folder / "log.txt").open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        warnings.resetwarnings()  # they are errors of the tests, not of a runner
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        status = rank.main(argv)
    os._exit(status)


def read_model(folder: Path) -> dict[str, Tensor]:
    return load_file(folder.parents[1] / "artifacts" / "model" / "model.safetensors")
