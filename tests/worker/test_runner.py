import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.domain.events import EVENT_KINDS, SpoolLine
from app.domain.metrics import CATALOGUE
from tests.worker.workshop import CHECKOUT, fork_runner, read_events, start_runner

CLOCK = {"step_seconds", "tokens_per_second", "peak_memory_bytes", "cost/seconds"}


def kinds(folder: Path) -> list[str]:
    return [event["kind"] for event in read_events(folder)]


def outcome(folder: Path) -> dict:
    last = read_events(folder)[-1]
    assert last["kind"] == "outcome"
    return last["payload"]


def wait_for(folder: Path, kind: str, count: int = 1, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (folder / "events.jsonl").exists() and len(read_events_safely(folder, kind)) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(f"no {count} {kind} events within {seconds} s; log: {(folder / 'log.txt').read_text()[-2000:]}")


def read_events_safely(folder: Path, kind: str) -> list[dict]:
    """Whole lines only: the runner may be writing."""
    lines = (folder / "events.jsonl").read_bytes().split(b"\n")[:-1]
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def artifacts(folder: Path) -> Path:
    return folder.parents[1] / "artifacts"


def weights_digest(folder: Path) -> str:
    return hashlib.sha256((artifacts(folder) / "model" / "model.safetensors").read_bytes()).hexdigest()


def series(folder: Path) -> list[dict]:
    """metrics.jsonl without what the clock decides."""
    lines = [json.loads(line) for line in (artifacts(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{**line, "metrics": {key: value for key, value in line["metrics"].items() if key not in CLOCK}} for line in lines]


@pytest.fixture(scope="module")
def undisturbed(workshop):
    """A finished run with a reward model, in its own process."""
    folder = workshop.attempt(reward_folder=workshop.reward())
    assert start_runner(folder).wait(120) == 0
    return folder


def test_a_run_goes_through_its_stages_and_ends_with_its_outcome(undisturbed):
    stages = [event["payload"]["stage"] for event in read_events(undisturbed, "stage")]
    assert stages[:2] == ["prepare", "score"]  # rewards and log-probabilities are one stage, whose progress never goes back
    assert stages[2:] == ["train", "evaluate", "train", "evaluate", "train", "evaluate", "train", "evaluate", "evaluate"]
    result = outcome(undisturbed)
    assert result["outcome"] == "succeeded"
    assert {"loss", "eval/reward_gain", "eval/win_rate", "eval/kl", "test/win_rate"} <= set(result["summary"])


def test_the_spool_is_dense_valid_and_within_the_catalogue(undisturbed):
    lines = read_events(undisturbed)
    assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
    for line in lines:
        parsed = SpoolLine.model_validate(line)
        event = EVENT_KINDS[parsed.kind].model_validate(parsed.payload)
        assert set(getattr(event, "metrics", {})) <= set(CATALOGUE)


def test_every_step_is_logged_with_its_metrics(undisturbed):
    steps = [event["payload"] for event in read_events(undisturbed, "step")]
    assert [step["step"] for step in steps] == list(range(1, 11))
    first = steps[0]
    assert {"loss", "learning_rate", "grad_norm", *CLOCK, "weight/ess", "weight/spearman_length", "reward/gap"} <= set(
        first["metrics"]
    )
    assert sum(first["histogram"]) == 8  # as many as the first batch has responses
    assert steps[-1]["epoch"] == 2.0
    assert steps[-1]["seconds_left"] == 0.0


def test_evaluations_compare_policy_and_reference_on_the_same_prompts(undisturbed):
    evaluations = [event["payload"] for event in read_events(undisturbed, "evaluation")]
    assert [evaluation["step"] for evaluation in evaluations] == [0, 4, 8, 10]
    first, last = evaluations[0]["metrics"], evaluations[-1]["metrics"]
    assert (first["eval/kl"], first["eval/win_rate"], first["eval/reward_gain"]) == (0.0, 0.5, 0.0)
    assert last["eval/reward_reference"] == first["eval/reward_reference"]
    assert last["eval/loss"] < first["eval/loss"]
    shown = [event["payload"] for event in read_events(undisturbed, "sample")]
    assert [(sample["step"], sample["index"]) for sample in shown] == [(s, k) for s in (4, 8, 10) for k in (0, 1)]
    kept = [json.loads(line) for line in (artifacts(undisturbed) / "samples.jsonl").read_text().splitlines()]
    validation, test = ([sample for sample in kept if sample["set"] == name] for name in ("validation", "test"))
    assert len(validation) == 3 * 2
    assert len({sample["reference"]["text"] for sample in validation if sample["index"] == 0}) == 1
    assert not {sample["example_id"] for sample in validation} & {sample["example_id"] for sample in test}


def test_the_test_set_is_read_once_after_the_last_step(undisturbed):
    kept = [json.loads(line) for line in (artifacts(undisturbed) / "samples.jsonl").read_text().splitlines()]
    assert {sample["step"] for sample in kept if sample["set"] == "test"} == {10}
    (final,) = read_events(undisturbed, "final")
    assert final["payload"]["step"] == 10
    assert final["payload"]["metrics"]["test/num_prompts"] == 3
    assert final["n"] > max(event["n"] for event in read_events(undisturbed, "evaluation"))
    assert read_events(undisturbed, "checkpoint")[-1]["n"] > final["n"]
    text = next(e["payload"]["text"] for e in read_events(undisturbed, "log") if "held out" in e["payload"]["text"])
    assert "5 held out (2 for validation, 3 for the test at the end)" in text


def test_artifacts_are_announced_with_their_digest(undisturbed):
    written = {event["payload"]["name"]: event["payload"] for event in read_events(undisturbed, "artifact")}
    assert {"model/config.json", "model/model.safetensors", "model/tokenizer.json", "weights.parquet"} <= set(written)
    assert {"samples.jsonl", "metrics.jsonl", "recipe.json"} <= set(written)
    for name, facts in written.items():
        data = (artifacts(undisturbed) / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (facts["size_bytes"], facts["sha256"])


def test_the_trained_policy_loads_as_any_other_model(undisturbed):
    folder = artifacts(undisturbed) / "model"
    network, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert network(**tokenizer("my lamp", return_tensors="pt")).logits.isfinite().all()


def test_only_the_newest_checkpoints_are_kept(undisturbed):
    names = sorted(path.name for path in (undisturbed.parents[1] / "checkpoints").iterdir())
    assert names == ["reference.json", "step-000008", "step-000010"]
    saved = [event["payload"]["step"] for event in read_events(undisturbed, "checkpoint")]
    assert saved == [2, 4, 6, 8, 10]


def test_a_second_run_on_the_same_content_asks_no_model_again(workshop, run, undisturbed):
    spec = json.loads((undisturbed / "spec.json").read_text())
    folder = workshop.attempt(reward_folder=workshop.reward(), weights={"lambda": 2.0}, scorings=spec["scorings_dir"])
    assert run(folder) == 0
    assert "score" not in [event["payload"]["stage"] for event in read_events(folder, "stage")]
    texts = [event["payload"]["text"] for event in read_events(folder, "log")]
    assert sum("were scored before and are reused" in text for text in texts) == 2


@pytest.mark.parametrize("moment", ["score", "step", "evaluation", "checkpoint", "final"])
def test_a_killed_run_goes_on_and_ends_bit_equal(workshop, run, undisturbed, moment):
    folder = workshop.attempt(reward_folder=workshop.reward())
    process = fork_runner(folder)
    wait_for(
        folder,
        "stage" if moment == "score" else moment,
        {"score": 2, "step": 5, "evaluation": 2, "checkpoint": 2, "final": 1}[moment],
    )
    process.kill()
    process.join()
    assert "outcome" not in kinds_safely(folder)
    second = workshop.next_attempt(folder)
    assert run(second) == 0, outcome(second)
    assert weights_digest(second) == weights_digest(undisturbed)
    assert series(second) == series(undisturbed)
    for name in ("samples.jsonl", "responses.jsonl"):
        assert (artifacts(second) / name).read_bytes() == (artifacts(undisturbed) / name).read_bytes()
    resumed = read_events(second, "resume")[0]["payload"]
    assert resumed["attempt"] == 2
    assert resumed["checkpoint"] == (f"step-{resumed['step']:06d}" if resumed["step"] else "")


def kinds_safely(folder: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in (folder / "events.jsonl").read_bytes().split(b"\n")[:-1]]


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(workshop, run, undisturbed):
    folder = workshop.attempt(reward_folder=workshop.reward(), training={"steps": 6})
    assert run(folder) == 0
    newest = folder.parents[1] / "checkpoints" / "step-000006" / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    second = workshop.next_attempt(folder)
    assert run(second) == 0
    assert read_events(second, "resume")[0]["payload"]["step"] == 4
    findings = {event["payload"]["name"]: event["payload"] for event in read_events(second, "finding")}
    assert "step-000006" in findings["damaged_checkpoint"]["evidence"]


def test_sigterm_saves_and_interrupts(workshop, run, undisturbed):
    folder = workshop.attempt(reward_folder=workshop.reward(), training={"checkpoint_every": 1000})
    process = fork_runner(folder)
    wait_for(folder, "step", 3)
    process.terminate()
    process.join(60)
    assert process.exitcode == 12
    assert outcome(folder)["outcome"] == "interrupted"
    steps = [event["payload"]["step"] for event in read_events(folder, "step")]
    assert read_events(folder, "checkpoint")[-1]["payload"]["step"] == steps[-1]
    second = workshop.next_attempt(folder)
    assert run(second) == 0
    assert read_events(second, "resume")[0]["payload"]["step"] == steps[-1]
    assert weights_digest(second) == weights_digest(undisturbed)


def test_the_cancel_file_stops_within_a_step(workshop, run):
    folder = workshop.attempt()
    (folder / "cancel").touch()
    assert run(folder) == 11
    assert outcome(folder)["outcome"] == "cancelled"
    assert "step" not in kinds(folder)


def test_a_runner_without_its_supervisor_stops(workshop):
    folder = workshop.attempt(training={"steps": 100_000, "checkpoint_every": 1000})
    code = (
        "import json, os, subprocess, sys, time; from pathlib import Path; folder = Path(sys.argv[1]);"
        "spec = json.loads((folder / 'spec.json').read_text()) | {'supervisor_pid': os.getpid()};"
        "(folder / 'spec.json').write_text(json.dumps(spec));"
        "child = subprocess.Popen([sys.executable, '-m', 'worker.runner', str(folder)], start_new_session=True);"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    supervisor = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    (folder / "log.txt").touch()
    wait_for(folder, "step", 2)
    supervisor.kill()
    supervisor.communicate()
    wait_for(folder, "outcome", seconds=20)
    assert outcome(folder) | {"summary": {}} == {
        "outcome": "interrupted", "reason": "the supervisor of this attempt is gone", "remedy": "", "retry": True, "summary": {},
    }  # fmt: skip


def test_a_newer_attempt_ends_the_older_one(workshop, run):
    folder = workshop.attempt()
    workshop.next_attempt(folder)
    assert run(folder) == 12
    assert outcome(folder)["reason"] == "a newer attempt owns this run"


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("adaptation", ["full", "lora"])
def test_any_family_trains_with_all_weights_or_an_adapter(workshop, run, kind, adaptation):
    folder = workshop.attempt(
        policy=workshop.policy(kind, chat=kind == "qwen2"), policy_settings={"adaptation": adaptation}, training={"steps": 4}
    )
    assert run(folder) == 0, outcome(folder)
    evaluations = read_events(folder, "evaluation")
    assert evaluations[-1]["payload"]["metrics"]["eval/loss"] < evaluations[0]["payload"]["metrics"]["eval/loss"]
    names = {event["payload"]["name"] for event in read_events(folder, "artifact")}
    assert ("adapter/adapter_model.safetensors" in names) == (adaptation == "lora")


def test_the_merged_policy_is_the_adapter_on_its_base(workshop, run):
    from peft import PeftModel

    folder = workshop.attempt(policy_settings={"adaptation": "lora"}, training={"steps": 4})
    assert run(folder) == 0
    base = AutoModelForCausalLM.from_pretrained(workshop.policy())
    adapted = PeftModel.from_pretrained(base, artifacts(folder) / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(artifacts(folder) / "model")
    ids = torch.arange(20)[None]
    torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, rtol=1e-3, atol=1e-4)
    config = json.loads((artifacts(folder) / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (str(workshop.policy()), None)


def test_an_adapter_on_layers_that_are_not_there_is_refused_before_scoring(workshop, run):
    folder = workshop.attempt(policy_settings={"adaptation": "lora", "lora": {"target_modules": ["q_proj", "c_attn"]}})
    assert run(folder) == 10
    assert outcome(folder)["reason"].startswith("LoRA can't be put on c_attn: the policy has no such layer. It has down_proj, ")
    assert [event["payload"]["stage"] for event in read_events(folder, "stage")] == ["prepare"]


def test_a_resumed_lora_run_with_dropout_ends_bit_equal(workshop, run):
    parts = {"policy_settings": {"adaptation": "lora", "lora": {"rank": 4, "dropout": 0.2}}}
    whole = workshop.attempt(**parts)
    assert run(whole) == 0
    part = workshop.attempt(**parts)
    process = fork_runner(part)
    wait_for(part, "step", 7)
    process.kill()
    process.join()
    second = workshop.next_attempt(part)
    assert run(second) == 0
    assert weights_digest(second) == weights_digest(whole)
    assert series(second) == series(whole)


def test_bfloat16_trains_and_stays_bfloat16(workshop, run):
    folder = workshop.attempt(policy_settings={"dtype": "bfloat16"}, training={"steps": 4})
    assert run(folder) == 0, outcome(folder)
    assert {t.dtype for t in load_file(artifacts(folder) / "model" / "model.safetensors").values()} == {torch.bfloat16}


def test_without_held_out_prompts_the_run_still_trains(workshop, run):
    folder = workshop.attempt(evaluation={"share": 0.0}, training={"steps": 3})
    assert run(folder) == 0
    assert "evaluation" not in kinds(folder)


def test_data_with_a_single_prompt_raises_a_finding_that_nothing_is_held_out(workshop, run):
    rows = [{**row, "prompt": [{"role": "user", "content": "One for all."}]} for row in workshop.examples(8)]
    folder = workshop.attempt(dataset=workshop.dataset(rows, "one-prompt"), training={"steps": 2})
    assert run(folder) == 0
    findings = {event["payload"]["name"]: event["payload"] for event in read_events(folder, "finding")}
    assert findings["nothing_held_out"]["changes"] == [{"field": "evaluation.share", "value": 0.0}]
    assert "evaluation" not in kinds(folder)


def test_a_found_lambda_is_logged(workshop, run):
    folder = workshop.attempt(weights={"lambda": None, "target_ess": 0.7}, training={"steps": 2})
    assert run(folder) == 0
    assert any("gives the wanted effective sample size 0.7" in event["payload"]["text"] for event in read_events(folder, "log"))


def test_a_missing_model_is_a_sentence_and_no_retry(workshop, run):
    folder = workshop.attempt(policy=workshop.root / "nowhere")
    assert run(folder) == 10
    assert outcome(folder)["reason"].endswith("does not exist. Check the path, or register the model again.")
    assert outcome(folder)["retry"] is False


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_a_sentence_before_anything_is_read(workshop, run):
    folder = workshop.attempt()
    spec = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps({**spec, "device": "cuda"}))
    assert run(folder) == 10
    assert outcome(folder)["reason"].startswith("This machine has no GPU that torch can use.")
    assert kinds(folder) == ["outcome"]


def test_a_broken_spec_is_a_sentence(workshop, run):
    folder = workshop.attempt()
    (folder / "spec.json").write_text('{"run_id": 3}')
    assert run(folder) == 10
    assert "spec.json is not valid at run_id" in outcome(folder)["reason"]


def test_collections_pass_over_what_imports_have_made():
    """A stage may ask for a collection at every evaluation; with some hundred thousand objects of torch each takes long."""
    code = (
        "import gc; from worker.runner import import_course; import_course(); frozen = gc.get_freeze_count();"
        "import_course(); print(frozen, gc.get_freeze_count(), gc.isenabled(), len(gc.get_objects()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    frozen, later, is_enabled, num_left = done.stdout.split()
    assert frozen == later
    assert int(frozen) > 100_000 > 100 * int(num_left)
    assert is_enabled == "True"


def test_the_runner_without_a_folder_says_how_it_is_used(capsys):
    from worker.runner import main

    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
