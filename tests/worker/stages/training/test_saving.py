"""What is written: names, number types, generation settings."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from app.domain.jobs import ModelSource
from app.domain.recipe import LoraSettings, PolicySettings
from tests.worker.families import build_family
from tests.worker.workshop import make_tokenizer
from worker.models.lora import put_adapter
from worker.stages.training.saving import Precision, choose_precision, save_adapter, save_network

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("source", "name", "revision"),
    [
        (ModelSource(source="hub", path="small/policy", revision="main"), "small/policy", COMMIT),
        (ModelSource(source="folder", path="/models/policy"), "/models/policy", None),
        (ModelSource(source="folder", path="/data/models/model_1", name="run_7/model"), "run_7/model", None),
    ],
)
def test_an_adapter_names_its_base_as_the_world_outside_knows_it(source, name, revision, tmp_path: Path):
    lora = put_adapter(build_family("llama", 370), LoraSettings(rank=2))
    save_adapter(lora, make_tokenizer(chat=True), tmp_path, source, Path("/data/hub/snapshots") / COMMIT)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (name, revision)
    assert all("/data" not in path.read_text() for path in tmp_path.iterdir() if path.suffix in (".json", ".md"))
    assert (tmp_path / "chat_template.jinja").is_file()


@pytest.mark.parametrize(
    ("base", "settings", "wanted"),
    [
        (torch.bfloat16, {}, torch.bfloat16),
        (torch.float16, {}, torch.float16),
        (torch.float32, {"dtype": "bfloat16"}, torch.bfloat16),
        (torch.bfloat16, {"saved_dtype": "float32"}, torch.float32),
    ],
)
def test_a_model_is_saved_as_its_base_unless_it_was_trained_in_less_or_asked_otherwise(base, settings, wanted, tmp_path: Path):
    build_family("llama", 50, base).save_pretrained(tmp_path)
    assert choose_precision(PolicySettings(model="m", **settings), tmp_path) == Precision(wanted)


def test_what_the_base_has_in_32_bits_beside_16_stays_so(tmp_path: Path):
    network = build_family("llama", 50, torch.bfloat16)
    network.model.norm.float()
    network.save_pretrained(tmp_path)
    kept = frozenset({"model.norm.weight"})
    assert choose_precision(PolicySettings(model="m"), tmp_path) == Precision(torch.bfloat16, kept)


def test_generation_settings_that_their_own_library_refuses_are_kept_as_they_are(tmp_path: Path):
    base, saved = tmp_path / "base", tmp_path / "saved"
    base.mkdir()
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "do_sample": False, "eos_token_id": [0, 7]}))
    network = build_family("llama", 370)
    network.generation_config = GenerationConfig.from_pretrained(base)
    save_network(network, make_tokenizer(), saved, Precision(torch.float32), base)
    assert json.loads((saved / "generation_config.json").read_text())["eos_token_id"] == [0, 7]
