import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from app.domain.errors import ModelInvalid
from app.domain.jobs import ModelSource
from worker.models import load
from worker.models.load import (
    context_window,
    hash_folder,
    hash_tokenizer,
    load_classifier,
    load_config,
    load_policy,
    resolve_folder,
    switch_dropout_off,
)


@pytest.fixture
def folder(workshop, tmp_path) -> Path:
    return Path(shutil.copytree(workshop.policy(), tmp_path / "policy"))


def resolve(path: Path) -> Path:
    return resolve_folder(ModelSource(source="folder", path=str(path)), path / "hub")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_a_policy_of_any_family_loads(workshop, kind):
    policy = load_policy(workshop.policy(kind), dtype="float32", device="cpu")
    assert policy.language_model.shares_prefix
    assert not policy.language_model.network.training


def test_bfloat16_is_honoured(workshop):
    assert load_policy(workshop.policy(), dtype="bfloat16", device="cpu").language_model.network.dtype == torch.bfloat16


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ModelInvalid, match="does not exist"):
        resolve(tmp_path / "nowhere")


def test_a_folder_without_config_is_no_model_folder(tmp_path):
    with pytest.raises(ModelInvalid, match="no config"):
        resolve(tmp_path)


def test_weights_that_are_not_safetensors_are_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelInvalid, match="no weights in safetensors form"):
        resolve(folder)


def test_a_folder_is_looked_at_again_only_when_a_file_of_it_has_changed(folder, monkeypatch):
    looked = []
    monkeypatch.setattr(load, "inspect_apart", lambda *given: looked.append(given))
    assert resolve(folder) == resolve(folder) == folder
    assert len(looked) == 1
    (folder / "config.json").touch()
    resolve(folder)
    (folder / "more").mkdir()
    (folder / "more" / "chat_template.jinja").write_text("{{ messages }}")
    resolve(folder)
    assert len(looked) == 3


def test_a_folder_that_was_refused_is_looked_at_again(folder):
    (folder / "tokenizer.json").rename(folder / "elsewhere")
    for _ in range(2):
        with pytest.raises(ModelInvalid, match="no tokenizer in the folder"):
            resolve(folder)


def test_an_encoder_is_not_a_causal_language_model(folder):
    BertModel(
        BertConfig(vocab_size=400, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    ).save_pretrained(folder)
    with pytest.raises(ModelInvalid, match=r"is not a causal language model|can't be loaded"):
        load_policy(folder, dtype="float32", device="cpu")


def test_an_encoder_decoder_is_refused(folder):
    T5ForConditionalGeneration(T5Config(vocab_size=400, d_model=16, d_ff=16, d_kv=8, num_layers=1, num_heads=2)).save_pretrained(
        folder
    )
    with pytest.raises(ModelInvalid, match="encoder-decoder"):
        load_policy(folder, dtype="float32", device="cpu")


def test_a_corrupt_weight_file_is_one_sentence(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelInvalid, match="can't be loaded as a causal language model"):
        load_policy(folder, dtype="float32", device="cpu")


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(folder):
    tokenizer = load.load_tokenizer(folder)
    tokenizer.add_tokens([f"<extra{k}>" for k in range(20)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelInvalid, match="don't belong together"):
        load_policy(folder, dtype="float32", device="cpu")


def test_a_missing_tokenizer_is_one_sentence(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelInvalid, match="tokenizer"):
        load_policy(folder, dtype="float32", device="cpu")


def test_code_in_a_model_folder_is_never_run(folder, tmp_path):
    canary = tmp_path / "ran"
    (folder / "modeling_evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "modeling_evil.Evil", "AutoModelForCausalLM": "modeling_evil.Evil"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid):
        load_policy(folder, dtype="float32", device="cpu")
    assert not canary.exists()


def test_a_policy_is_no_reward_model(folder):
    with pytest.raises(ModelInvalid, match="is not a reward model as it stands: its files lack 1 weights"):
        load_classifier(folder, dtype="float32", device="cpu")


def test_a_classifier_with_two_outputs_is_no_reward_model(workshop, tmp_path):
    folder = Path(shutil.copytree(workshop.reward(), tmp_path / "reward"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "good", "1": "bad"}, "label2id": {"good": 0, "bad": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelInvalid, match="has 2 outputs"):
        load_classifier(folder, dtype="float32", device="cpu")


def test_an_unreachable_hub_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*args: object, **options: object) -> str:
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(load, "snapshot_download", refuse)  # the far network
    with pytest.raises(ModelInvalid, match="someone/model at v2 could not be downloaded: We couldn't connect"):
        resolve_folder(ModelSource(source="hub", path="someone/model", revision="v2"), tmp_path)


def test_a_tokenizer_comes_from_the_hub_without_any_weights(folder, tmp_path, monkeypatch):
    asked = []

    def download(name: str, **options: object) -> str:
        asked.append((name, options["revision"], options["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr(load, "snapshot_download", download)  # the far network
    source = ModelSource(source="hub", path="someone/model", revision="v2")
    assert load.resolve_tokenizer(source, tmp_path) == folder
    [(name, revision, patterns)] = asked
    assert (name, revision) == ("someone/model", "v2")
    assert not any(fnmatch("model.safetensors", pattern) for pattern in patterns)
    assert all(any(fnmatch(name, pattern) for pattern in patterns) for name in ("tokenizer.json", "chat_template.jinja"))


def test_hashes_follow_the_content(folder, tmp_path):
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert hash_folder(folder) == hash_folder(copied)
    assert hash_tokenizer(folder) == hash_tokenizer(copied)
    (copied / "chat_template.jinja").write_text("{{ messages }}")
    assert hash_tokenizer(folder) != hash_tokenizer(copied)
    with (copied / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    assert hash_folder(folder) != hash_folder(copied)


def test_the_context_window_is_found_in_every_family(workshop):
    assert {context_window(load_config(workshop.policy(kind))) for kind in ("llama", "gpt2", "qwen2")} == {256}


def test_dropout_is_switched_off(workshop):
    policy = load_policy(workshop.policy("gpt2"), dtype="float32", device="cpu")
    network = policy.language_model.network
    switch_dropout_off(network)
    network.train()
    ids = torch.arange(10)[None]
    assert torch.equal(network(ids).logits, network(ids).logits)
