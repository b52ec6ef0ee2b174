"""`varstudio train`: one run without a server: read the data, write the spec, start the runner, follow its spool."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from app.commands.client import CommandFailed
from app.commands.progress import RunProgress
from app.commands.recipes import read_document
from app.commands.terminal import err, out, table
from app.domain.dataset import Audit, ColumnMapping
from app.domain.errors import DatasetInvalid, RecipeInvalid
from app.domain.events import SpoolLine
from app.domain.jobs import ModelSource, RunSpec
from app.domain.problems import parse
from app.domain.recipe import Recipe, parse_recipe
from app.domain.run import EXIT_STATUS, Outcome
from app.settings import Settings
from app.store.files.files import Files, write_atomic
from app.system.files import hash_file
from app.system.installation import find_untrainable, inherit_environment, module_command
from app.system.limits import count_cores

RUN_ID = "run"
POLL_SECONDS = 0.2
SPEC, SPOOL, LOG = "spec.json", "events.jsonl", "log.txt"
LOG_TAIL_LINES = 15
FIND_GPU = "import torch; raise SystemExit(not torch.cuda.is_available())"


def train(
    recipe_file: Annotated[Path, typer.Argument(metavar="RECIPE.yaml")],
    to: Annotated[Path | None, typer.Option(help="Folder of the run; empty: one below data_dir.")] = None,
    mapping_file: Annotated[Path | None, typer.Option("--mapping", help="Which column plays which part (YAML or JSON).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on in the folder of an earlier try.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
) -> None:
    """Train by a recipe whose data set is a file and whose models are folders or hub names."""
    if obstacle := find_untrainable():
        raise CommandFailed(obstacle)
    settings = Settings()
    recipe = parse_recipe(read_document(recipe_file))
    refuse_device(device)
    refuse_too_many(recipe.training.num_processes, device)
    folder = (to or settings.root / "trainings" / recipe_file.stem).resolve()
    if any(folder.glob("runs/*/attempts/*")) and not resume:
        raise CommandFailed(f"{folder} holds an earlier try: go on with --resume, or choose another folder with --to.")
    files = Files(folder)
    dataset = find_near(recipe.dataset, recipe_file)
    if dataset is None:
        raise RecipeInvalid.at("dataset", f"There is no file {recipe.dataset}.")
    examples = read_data(dataset, files, mapping_file, settings)
    attempt_dir = prepare_attempt(files, settings, recipe, recipe_file, examples, device)
    sys.exit(run_attempt(attempt_dir, recipe.name or recipe_file.stem))


def refuse_device(device: str) -> None:
    """Raises CommandFailed for a device that this machine doesn't have."""
    if device not in ("cpu", "cuda"):
        raise CommandFailed(f"There is no device {device}: --device takes cpu or cuda.")
    if device == "cuda" and not has_gpu():
        raise CommandFailed("This machine has no GPU that torch can use: leave out --device cuda.")


def has_gpu() -> bool:
    """Return whether torch can use a GPU here; it is asked in a process of its own."""
    command = [sys.executable, "-P", "-c", FIND_GPU]
    return not subprocess.run(command, env=inherit_environment(), capture_output=True, check=False).returncode


def refuse_too_many(num_processes: int, device: str) -> None:
    """Raises RecipeInvalid when this machine has fewer cores than processes; GPUs are counted by the processes themselves."""
    num_cores = count_cores()
    if device == "cpu" and num_processes > num_cores:
        raise RecipeInvalid.at(
            "training.num_processes", f"{num_processes} processes are more than the {num_cores} cores of this machine: use fewer."
        )


def find_near(name: str, recipe_file: Path) -> Path | None:
    """Return a path as given, or beside the recipe."""
    for path in (Path(name).expanduser(), recipe_file.parent / name):
        if path.exists():
            return path.resolve()
    return None


def read_data(source: Path, files: Files, mapping_file: Path | None, settings: Settings) -> Path:
    """Return the data set in the internal form; what was left out is told."""
    from app.ingest.ingest import ingest
    from app.ingest.limits import Limits  # reading needs pyarrow, which the other commands don't

    target = files.dataset_dir("data") / "examples.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    mapping = parse(ColumnMapping, read_document(mapping_file), DatasetInvalid) if mapping_file else None
    with err.status(f"Reading {source.name}"):
        ingested = ingest(source, target, mapping, Limits(max_unpacked_bytes=settings.max_unpacked_bytes))
    show_audit(ingested.audit)
    return target


def show_audit(audit: Audit) -> None:
    out.print(f"{audit.num_examples} examples, {audit.num_responses} responses from {audit.num_rows} rows.")
    if audit.dropped:
        table(
            "left out", "reason", "first line", rows=[(reason.count, reason.reason, reason.lines[0]) for reason in audit.dropped]
        )
    for note in audit.notes:
        out.print(f"{note.count} × {note.note}.", markup=False)
    if audit.unused:
        out.print(f"Not used: {', '.join(f'{name} ({count})' for name, count in audit.unused.items())}.", markup=False)


def prepare_attempt(files: Files, settings: Settings, recipe: Recipe, recipe_file: Path, examples: Path, device: str) -> Path:
    """Return the folder of the next attempt, with its spec."""
    number = 1 + len(list((files.run_dir(RUN_ID) / "attempts").glob("*")))
    attempt_dir = files.attempt_dir(RUN_ID, number)
    policy = model_source("policy.model", recipe.policy.model, recipe.policy.revision, recipe_file)
    reward, judge = (
        model_source(f"reward.{part}", name, revision, recipe_file) if name else None
        for part, name, revision in (("model", recipe.reward.model, recipe.reward.revision), ("judge", recipe.reward.judge, None))
    )
    further = [model_source(path, name, None, recipe_file) for path, name in recipe.reward.further.items()]
    spec = RunSpec(
        run_id=RUN_ID,
        attempt=number,
        recipe=recipe,
        dataset_path=str(examples),
        dataset_sha256=hash_file(examples),
        policy=policy,
        reward=reward,
        further=tuple(further),
        judge=judge,
        run_dir=str(files.run_dir(RUN_ID)),
        scorings_dir=str(files.scorings_dir),
        hub_dir=str(settings.root / "hub"),
        device=device,
        num_processes=recipe.training.num_processes,
        num_threads=settings.runner_threads or None,
        memory_bytes=settings.runner_memory_bytes or None,
        supervisor_pid=os.getpid(),
    )
    write_atomic(attempt_dir / SPEC, spec.model_dump_json(by_alias=True).encode())
    return attempt_dir


def model_source(field: str, name: str, revision: str | None, recipe_file: Path) -> ModelSource:
    """Return a folder, when there is one of that name; else a name on the hub. `field`: where the recipe has the name."""
    folder = find_near(name, recipe_file)
    if folder is not None:
        return ModelSource(source="folder", path=str(folder))
    if name.startswith(("/", ".", "~")):
        raise RecipeInvalid.at(field, f"There is no folder {name}.")
    return ModelSource(source="hub", path=name, revision=revision)


def run_attempt(attempt_dir: Path, title: str) -> int:
    """Start the runner and show its events to the end; returns our exit status. Ctrl-C lets it save its state."""
    command = module_command("worker.runner", str(attempt_dir))
    with (attempt_dir / LOG).open("wb") as log, RunProgress(title, out) as progress:
        runner = subprocess.Popen(command, env=inherit_environment(), stdout=log, stderr=log, start_new_session=True)

        def stop(_number: int, _frame: FrameType | None) -> None:
            progress.stop_wanted = True
            runner.terminate()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        for line in follow_spool(attempt_dir / SPOOL, runner):
            progress.take(line.kind, line.payload)
    if runner.returncode == EXIT_STATUS[Outcome.SUCCEEDED]:
        out.print(f"Done. Model and records: {attempt_dir.parents[1] / 'artifacts'}", markup=False)
        return 0
    tell_failure(attempt_dir, runner.returncode, progress)
    return 1


def follow_spool(path: Path, runner: subprocess.Popen[bytes]) -> Iterator[SpoolLine]:
    """Yield the spool's whole lines as they are written, until the runner has ended and all is read."""
    offset = 0
    while True:
        ended = runner.poll() is not None
        lines, offset = read_lines(path, offset)
        yield from lines
        if ended:
            return
        time.sleep(POLL_SECONDS)


def read_lines(path: Path, offset: int) -> tuple[list[SpoolLine], int]:
    if not path.exists():
        return [], offset
    with path.open("rb") as file:
        file.seek(offset)
        whole, newline, _ = file.read().rpartition(b"\n")
    return [SpoolLine.model_validate_json(line) for line in whole.splitlines()], offset + len(whole) + len(newline)


def tell_failure(attempt_dir: Path, status: int, progress: RunProgress) -> None:
    """Why it ended, and how to go on."""
    if progress.state == Outcome.INTERRUPTED and progress.stop_wanted:
        err.print("The run was stopped from the terminal.", style="red", markup=False)
    elif progress.state:
        err.print(progress.ending, style="red", markup=False)
    else:
        err.print(f"The runner ended without a word (status {status}). The end of its log:", style="red")
        tail = (attempt_dir / LOG).read_text("utf-8", "replace").splitlines()[-LOG_TAIL_LINES:]
        err.print("\n".join(tail), markup=False)
    hint = " Go on from the last checkpoint with --resume." if can_go_on(attempt_dir, progress) else ""
    err.print(f"Log: {attempt_dir / LOG}.{hint}", markup=False)


def can_go_on(attempt_dir: Path, progress: RunProgress) -> bool:
    """Return whether there is a checkpoint, and the same recipe may get further the next time."""
    has_checkpoint = any((attempt_dir.parents[1] / "checkpoints").glob("step-*"))
    return has_checkpoint and (progress.state != Outcome.FAILED or progress.can_retry)
