"""`varstudio train` with every method: a reward model first, then policies by SFT, by DPO, and by VAR on fresh answers."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from app.commands.train import has_gpu
from tests import warm
from tests.cli.test_cli import PAIRS, Shell, make_shell
from tests.planted import plant
from tests.worker.workshop import Workshop


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A terminal in a folder with pairs and a tiny policy."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "pairs.jsonl").write_text(PAIRS)
    Workshop(folder).policy().rename(folder / "policy")
    return make_shell(folder)


def train(shell: Shell, name: str, **parts: Any) -> Path:
    """The artifacts of a recipe's run."""
    recipe = {
        "dataset": "pairs.jsonl",
        "policy": {"model": "policy"},
        "tokens": {"max_prompt": 24, "max_response": 24},
        "training": {"batch_size": 4, "steps": 3, "learning_rate": 3e-3},
        "evaluation": {"share": 0.2, "num_prompts": 2, "max_new_tokens": 4},
        **parts,
    }
    (shell.folder / f"{name}.yaml").write_text(json.dumps(recipe))
    assert "Done." in shell.must("train", f"{name}.yaml", "--to", name)
    return shell.folder / name / "runs" / "run" / "artifacts"


def test_every_method_trains_from_a_file(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", warm.Popen)
    reward = train(shell, "reward", method="reward_model")
    assert "ForSequenceClassification" in (reward / "model" / "config.json").read_text()
    lines = [json.loads(line) for line in (reward / "metrics.jsonl").read_text().splitlines()]
    assert "eval/pair_accuracy" in lines[-2]["metrics"]
    assert "test/pair_accuracy" in lines[-1]["metrics"]
    for method in ("sft", "dpo"):
        assert "ForCausalLM" in (train(shell, method, method=method) / "model" / "config.json").read_text()
    online = train(
        shell, "online", weights={"lambda": 0.5}, reward={"source": "model", "model": str(reward / "model")},
        online={"every": 2, "num_responses": 2, "max_new_tokens": 4},
    )  # fmt: skip
    lines = [json.loads(line) for line in (online / "metrics.jsonl").read_text().splitlines()]
    assert sum("online/reward_mean" in line["metrics"] for line in lines) == 3


def test_a_folder_that_is_not_there_is_named_with_its_field(shell: Shell) -> None:
    (shell.folder / "missing.yaml").write_text(
        json.dumps(
            {
                "dataset": "pairs.jsonl",
                "policy": {"model": "policy"},
                "reward": {"source": "model", "model": "./nowhere"},
                "weights": {"lambda": 1},
            }
        )
    )
    assert "no folder ./nowhere" in shell.fails("train", "missing.yaml", "--to", "missing")


def test_online_without_a_reward_model_is_refused_with_its_field(shell: Shell) -> None:
    recipe = {"dataset": "pairs.jsonl", "policy": {"model": "policy"}, "weights": {"lambda": 1}, "online": {"every": 2}}
    (shell.folder / "online.yaml").write_text(json.dumps(recipe))
    assert "choose a reward model" in shell.fails("train", "online.yaml", "--to", "refused")


def test_more_processes_than_cores_are_refused_before_anything_is_read(shell: Shell) -> None:
    recipe = {
        "dataset": "pairs.jsonl", "policy": {"model": "policy"}, "weights": {"lambda": 1},
        "training": {"num_processes": 64, "batch_size": 64},
    }  # fmt: skip
    (shell.folder / "wide.yaml").write_text(json.dumps(recipe))
    assert "64 processes are more than the" in " ".join(shell.fails("train", "wide.yaml").split())


def write(shell: Shell, name: str, **parts: Any) -> str:
    """A recipe's file."""
    recipe = {"dataset": "pairs.jsonl", "policy": {"model": "policy"}, "tokens": {"max_prompt": 24, "max_response": 24}, **parts}
    (shell.folder / f"{name}.yaml").write_text(json.dumps(recipe))
    return f"{name}.yaml"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_told_before_anything_is_read(shell: Shell) -> None:
    told = shell.fails("train", write(shell, "gpu", method="sft"), "--device", "cuda", "--to", "gpu")
    assert told == "This machine has no GPU that torch can use: leave out --device cuda."
    assert not (shell.folder / "gpu").exists()


def test_torch_is_asked_without_the_modules_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = plant(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("app.commands.train.FIND_GPU", "import select")
    assert has_gpu()
    assert not ran.exists()


def test_a_device_of_another_name_is_refused(shell: Shell) -> None:
    assert "--device takes cpu or cuda" in shell.fails("train", write(shell, "tpu", method="sft"), "--device", "tpu")


def test_data_the_wrong_way_round_ends_with_one_reason_one_remedy_and_no_advice_to_resume(shell: Shell) -> None:
    rows = [
        {"prompt": f"Q {n}?", "chosen": "Kind.", "rejected": "Rude.", "score_chosen": 0.0, "score_rejected": 1.0}
        for n in range(20)
    ]
    (shell.folder / "wrong.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    name = write(shell, "inverted", dataset="wrong.jsonl", weights={"lambda": 1.0}, reward={"source": "rating"})
    with warm.forking():
        done = shell("train", name, "--to", "inverted")
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("contradict the preference labels") == 1
    assert done.stderr.count("accept_inverted") == 1
    assert "--resume" not in done.stderr


def test_ctrl_c_ends_with_sentences_for_the_terminal(shell: Shell) -> None:
    name = write(shell, "long", weights={"lambda": 1.0}, training={"batch_size": 4, "steps": 100_000, "learning_rate": 1e-6})
    command = [sys.executable, "-m", "app.cli", "train", name, "--to", "long"]
    environment = {**os.environ, **shell.environment}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=shell.folder, env=environment, text=True, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    assert any(line.startswith("Step ") for line in process.stdout)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "nterrupted" not in stdout + stderr
    assert stderr.startswith("The run was stopped from the terminal.\nLog: ")
    assert stderr.endswith("log.txt. Go on from the last checkpoint with --resume.\n")
