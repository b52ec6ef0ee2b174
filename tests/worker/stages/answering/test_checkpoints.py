"""A LoRA run's checkpoint as the model that answers: its adapter on the base says what the merged model at the run's end says."""

import json
from pathlib import Path

import pytest

from app.domain.answering.chat import gather
from app.domain.answering.job import AnswersSpec, CheckpointSource
from app.domain.jobs import RunSpec
from tests.worker.chat.test_chat import hold, make_job
from tests.worker.stages.answering.conftest import answers_of, read_rows
from tests.worker.workshop import read_events
from worker.chat.shelf import Shelf
from worker.models.checkpoint import load_step
from worker.stages.answering import sources

LORA = {"adaptation": "lora", "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}
TRAINING = {"steps": 2, "learning_rate": 0.05}


@pytest.fixture
def trained(workshop, run) -> tuple[Path, CheckpointSource]:
    """Where a LoRA run's merged model lies, and its checkpoint of the last step."""
    folder = workshop.attempt(policy=workshop.policy(chat=True), policy_settings=LORA, training=TRAINING)
    assert run(folder) == 0
    spec = RunSpec.model_validate_json((folder / "spec.json").read_text())
    run_dir = Path(spec.run_dir)
    checkpoint = CheckpointSource(folder=str(run_dir / "checkpoints"), step=2, policy=spec.recipe.policy)
    return run_dir / "artifacts" / "model", checkpoint


def at_step(folder: Path, checkpoint: CheckpointSource) -> Path:
    """The attempt, whose model gets the checkpoint's weights."""
    spec = AnswersSpec.model_validate_json((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(spec.model_copy(update={"checkpoint": checkpoint}).model_dump_json(by_alias=True))
    return folder


def test_a_checkpoints_adapter_answers_as_the_merged_model_does_also_in_the_playground(answering, workshop, run, trained):
    merged, checkpoint = trained
    base = workshop.policy(chat=True)
    folders = [answering.attempt(model=base), answering.attempt(model=merged), at_step(answering.attempt(model=base), checkpoint)]
    assert [run(folder) for folder in folders] == [0, 0, 0]
    before, whole, adapted = (read_rows(answers_of(folder)) for folder in folders)
    assert [row["text"] for row in adapted] == [row["text"] for row in whole] != [row["text"] for row in before]
    assert [row["logprob"] for row in adapted] == pytest.approx([row["logprob"] for row in whole], abs=1e-3)
    assert len({json.loads((answers_of(folder) / "model.json").read_bytes())["sha256"] for folder in folders}) == 3

    job = make_job(base, merged, base)
    last = job.models[2].model_copy(update={"checkpoint": checkpoint})
    told = hold(job.model_copy(update={"models": (*job.models[:2], last)}), Shelf("cpu", Path("/nowhere")))
    said = [one.text for one in gather(3, told)]
    assert said[2] == said[1] != said[0]


def test_the_checkpoint_of_the_last_step_is_the_model_at_the_end_by_the_hash_of_its_weights(answering, workshop, run):
    base = workshop.policy(chat=True)
    folder = workshop.attempt(policy=base, training={**TRAINING, "checkpoint_every": 1})
    assert run(folder) == 0
    spec = RunSpec.model_validate_json((folder / "spec.json").read_text())
    run_dir = Path(spec.run_dir)
    steps = [CheckpointSource(folder=str(run_dir / "checkpoints"), step=step, policy=spec.recipe.policy) for step in (1, 2)]
    folders = [
        answering.attempt(model=base), answering.attempt(model=run_dir / "artifacts" / "model"),
        *(at_step(answering.attempt(model=base), checkpoint) for checkpoint in steps),
    ]  # fmt: skip
    assert [run(folder) for folder in folders] == [0, 0, 0, 0]
    before, end, first, last = (told_hash(folder) for folder in folders)
    assert last == end
    assert len({before, end, first}) == 3


def told_hash(folder: Path) -> str:
    """The hash of the weights that an attempt has told."""
    (told,) = read_events(folder, "answers")
    return str(told["payload"]["answers"]["model_sha256"])


def test_a_models_files_and_its_checkpoint_are_read_once_to_tell_whose_answers_these_are(
    answering, workshop, run, trained, monkeypatch
):
    read: list[object] = []
    monkeypatch.setattr(sources, "hash_folder", lambda folder, *patterns: read.append(*patterns) or "hash")
    monkeypatch.setattr(sources, "load_step", lambda *asked: read.append("checkpoint") or load_step(*asked))
    assert run(at_step(answering.attempt(model=workshop.policy()), trained[1])) == 0
    assert read == ["checkpoint", ("config.json",)]
