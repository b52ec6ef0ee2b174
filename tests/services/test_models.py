"""Folders that hold a model are taken with their facts; all others are refused with a sentence, and nothing in them is run."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from app.domain.errors import Conflict, ModelInvalid, NotFound, Unavailable
from app.domain.model import ModelRequest
from app.domain.problems import parse
from app.services import models as service
from app.services.readings import locate
from app.settings import Settings
from app.store import models as store
from app.store.files.files import Files
from app.store.tables import Model, Run
from app.system.files import link_or_copy

EVIL = "canary"


def write_tensors(path: Path, tensors: dict[str, tuple[int, ...]], dtype: str = "F32") -> None:
    """A safetensors file of zeros, by the format's definition."""
    header, offset = {}, 0
    for name, shape in tensors.items():
        size = 4
        for number in shape:
            size *= number
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps({**header, "__metadata__": {"format": "pt"}}).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + bytes(offset))


def make_model(folder: Path, architecture: str = "LlamaForCausalLM", num_labels: int = 0, vocab_size: int = 10) -> Path:
    folder.mkdir(parents=True)
    config = {"architectures": [architecture], "model_type": "llama", "vocab_size": vocab_size, "max_position_embeddings": 64}
    tensors = {"model.embed_tokens.weight": (vocab_size, 4), "model.norm.weight": (4,)}
    if num_labels:
        tensors["score.weight"] = (num_labels, 4)
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder / "model.safetensors", tensors)
    vocabulary = {f"t{n}": n for n in range(10)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "WordLevel", "vocab": vocabulary}, "added_tokens": []}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}, "pad_token": "<pad>"}))
    return folder


@pytest.fixture
def user(library):
    return library.user


@pytest.fixture
def session(library, database):
    """Opened after the library is written: there is one writer at a time."""
    with database.writing() as session:
        yield session


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def register(session, files, settings, user, **asked):
    """Look at a model and add it."""
    request = parse(ModelRequest, asked, ModelInvalid)
    return service.add(session, user.id, service.keep(files, service.examine(session, files, settings, user.id, request)))


@pytest.fixture
def add(session, files, settings, user, root):
    """Registers a folder under the one allowed root."""
    allowed = settings.model_copy(update={"model_roots": [root]})

    def add_folder(path, kind="policy", **options):
        options = {"source": "folder", "path": str(path), **options}
        return register(session, files, allowed, user, kind=kind, **options)

    return add_folder


def refusal(add, path, kind="policy", **options) -> str:
    with pytest.raises(ModelInvalid) as caught:
        add(path, kind, **options)
    message = caught.value.problems[0]["message"]
    assert caught.value.detail.endswith(message[0].lower() + message[1:]) or caught.value.detail == message
    return f"{caught.value.problems[0]['field']}: {caught.value.detail}"


def test_a_policy_is_taken_with_what_its_files_say(add, root, session, user):
    model = add(make_model(root / "tiny"))
    facts = model.facts
    assert (model.name, model.kind, model.path) == ("tiny", "policy", str(root / "tiny"))
    assert (facts["architecture"], facts["model_type"], facts["dtype"]) == ("LlamaForCausalLM", "llama", "float32")
    assert (facts["num_parameters"], facts["vocab_size"], facts["context_length"], facts["num_labels"]) == (44, 10, 64, None)
    assert (facts["has_chat_template"], facts["pad_token"], facts["eos_token"]) == (False, "<pad>", "</s>")
    assert facts["size_bytes"] == (root / "tiny" / "model.safetensors").stat().st_size
    assert len(facts["sha256"]) == 64
    assert store.get_model(session, user.id, model.id) is model


def test_a_real_model_is_taken(add, shared, session, files, settings, user):
    allowed = settings.model_copy(update={"model_roots": [shared / "models"]})
    path = str(shared / "models/stories260K-hf")
    model = register(session, files, allowed, user, kind="policy", source="folder", path=path)
    assert (model.facts["num_parameters"], model.facts["vocab_size"], model.facts["context_length"]) == (260_032, 512, 512)
    shape = ("hidden_size", "num_layers", "intermediate_size", "num_heads", "num_kv_heads", "tied_embeddings")
    assert [model.facts[name] for name in shape] == [64, 5, 172, 8, 4, True]
    assert model.facts["layers"][:2] == ["model.embed_tokens", "model.layers.*.mlp.down_proj"]


def test_a_chat_template_is_seen_in_either_place(add, root):
    inside, beside = make_model(root / "a"), make_model(root / "b")
    (inside / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    (beside / "chat_template.jinja").write_text("{{ messages }}")
    assert add(inside).facts["has_chat_template"]
    assert add(beside).facts["has_chat_template"]


def test_shards_count_together(add, root):
    folder = make_model(root / "sharded")
    (folder / "model.safetensors").unlink()
    write_tensors(folder / "one.safetensors", {"model.embed_tokens.weight": (10, 4)})
    write_tensors(folder / "two.safetensors", {"model.norm.weight": (4,)})
    weight_map = {"model.embed_tokens.weight": "one.safetensors", "model.norm.weight": "two.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert add(folder).facts["num_parameters"] == 44


def test_a_reward_model_has_one_label(add, root):
    one = make_model(root / "one", "LlamaForSequenceClassification", num_labels=1)
    two = make_model(root / "two", "LlamaForSequenceClassification", num_labels=2)
    assert add(one, "reward").facts["num_labels"] == 1
    assert refusal(add, two, "reward") == "kind: A reward model gives one number; this classifier has 2 labels."
    assert "…ForCausalLM" in refusal(add, one, "policy")
    assert "…ForSequenceClassification" in refusal(add, make_model(root / "p"), "reward")


@pytest.mark.parametrize(
    ("declared", "num_labels"),
    [
        ({"id2label": {"0": "good", "1": "bad"}}, 2),
        ({"num_labels": 2}, 2),
        ({"id2label": {"0": "score"}}, 1),
        ({"num_labels": 1, "id2label": {"0": "good", "1": "bad"}}, 1),  # as transformers reads it
    ],
)
def test_labels_that_the_configuration_declares_count_beside_the_head(add, root, declared, num_labels):
    folder = make_model(root / "model", "LlamaForSequenceClassification", num_labels=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **declared}))
    if num_labels == 1:
        assert add(folder, "reward").facts["num_labels"] == 1
    else:
        assert refusal(add, folder, "reward") == "kind: A reward model gives one number; this classifier has 2 labels."


def test_every_folder_that_is_no_model_says_why(add, root):
    (root / "empty").mkdir()
    assert "no config.json" in refusal(add, root / "empty")
    (root / "adapter").mkdir()
    (root / "adapter" / "adapter_config.json").write_text("{}")
    assert "LoRA adapter" in refusal(add, root / "adapter")
    assert "no folder" in refusal(add, root / "none")
    for name, content in {"text": "no json", "list": "[]", "deep": "[" * 100_000, "silent": "{}"}.items():
        folder = make_model(root / name)
        (folder / "config.json").write_text(content)
        assert "config.json" in refusal(add, folder)
    without = make_model(root / "without")
    (without / "model.safetensors").unlink()
    assert "no weights" in refusal(add, without)
    mute = make_model(root / "mute")
    (mute / "tokenizer.json").unlink()
    assert "no tokenizer" in refusal(add, mute)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9, 0])
def test_a_header_of_absurd_length_is_refused(add, root, length):
    folder = make_model(root / "absurd")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(length.to_bytes(8, "little") + content[8:])
    assert "model.safetensors" in refusal(add, folder)


@pytest.mark.parametrize(
    "change", [{"shape": [11, 4]}, {"shape": [-1]}, {"shape": "x"}, {"dtype": "X9"}, {"data_offsets": [0, 10**12]}]
)
def test_a_header_that_does_not_fit_its_data_is_refused(add, root, change):
    folder = make_model(root / "unfit")
    content = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["model.embed_tokens.weight"] |= change
    encoded = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + length :])
    assert "damaged" in refusal(add, folder)


@pytest.mark.parametrize("name", ["../../x.safetensors", "/etc/passwd", "sub/x.safetensors", "missing.safetensors", "x.bin", ""])
def test_an_index_may_only_name_shards_of_the_folder(add, root, name):
    folder = make_model(root / "index")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    assert refusal(add, folder).startswith("path: ")


def test_shards_of_another_model_are_noticed(add, root):
    folder = make_model(root / "mixed")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"other.weight": "shard.safetensors"}}))
    (folder / "model.safetensors").rename(folder / "shard.safetensors")
    assert "not of one model" in refusal(add, folder)


def test_a_tokenizer_of_another_model_is_noticed(add, root):
    folder = make_model(root / "small", vocab_size=5)
    assert "don't belong together" in refusal(add, folder)


def test_pickled_weights_are_refused_and_not_opened(add, root, tmp_path):
    class Canary:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / EVIL),)

    folder = make_model(root / "pickled")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Canary()))
    assert "safetensors" in refusal(add, folder)
    assert not (tmp_path / EVIL).exists()


def test_a_model_that_brings_code_is_refused_and_not_run(add, root, tmp_path):
    folder = make_model(root / "code")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / EVIL)!r})")
    assert "code of its own" in refusal(add, folder)
    assert not (tmp_path / EVIL).exists()


def test_links_may_not_lead_out_of_the_allowed_folders(add, root, tmp_path):
    outside = make_model(tmp_path / "outside")
    (root / "linked").symlink_to(outside)
    assert "allowed folder" in refusal(add, root / "linked")
    inside = make_model(root / "inside")
    (inside / "model.safetensors").unlink()
    (inside / "model.safetensors").symlink_to(outside / "model.safetensors")
    assert "leads out" in refusal(add, inside)


def test_links_inside_the_allowed_folders_are_followed(add, root):
    folder = make_model(root / "cache")
    (root / "blobs").mkdir()
    (folder / "model.safetensors").rename(root / "blobs" / "abc")
    (folder / "model.safetensors").symlink_to("../blobs/abc")
    assert add(folder).facts["num_parameters"] == 44


@pytest.mark.parametrize("path", ["/etc", "/", "relative", "", "../x", "/nowhere/at/all", "\0", "/" + "a" * 999, "~"])
def test_no_other_folder_of_the_machine_is_looked_at(add, path):
    assert "allowed folder" in refusal(add, path) or path == "\0"


def test_without_allowed_folders_none_may_be_used(session, files, settings, user, root):
    with pytest.raises(ModelInvalid, match="STUDIO_MODEL_ROOTS"):
        register(session, files, settings, user, kind="policy", source="folder", path=str(make_model(root / "a")))


@pytest.mark.parametrize("name", ["gpt2", "HuggingFaceTB/SmolLM2-135M", "a/b_c.d-e"])
def test_a_hub_model_is_a_name_and_a_revision(add, name):
    model = add("", source="hub", name=name, revision="main")
    assert (model.path, model.revision, model.facts) == (name, "main", {})


@pytest.mark.parametrize("name", ["", "../x", "a/b/c", "/etc", "a b", "a//b", "-x", "a/..", "https://x.y/z", "x" * 100])
def test_a_hub_name_is_nothing_else(add, name):
    assert refusal(add, "", source="hub", name=name).startswith("name: ")


@pytest.mark.parametrize(
    ("pasted", "name", "revision"),
    [
        ("https://huggingface.co/HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M", None),
        (" https://huggingface.co/HuggingFaceTB/SmolLM2-135M/tree/main ", "HuggingFaceTB/SmolLM2-135M", "main"),
        ("http://www.huggingface.co/a/b/blob/0a1b2c/config.json?x=1#L3", "a/b", "0a1b2c"),
        ("huggingface.co/a/b/", "a/b", None),
        ("hf.co/a/b/resolve/refs%2Fpr%2F7/model.safetensors", "a/b", "refs/pr/7"),
        ("https://huggingface.co/gpt2", "gpt2", None),
        ("https://huggingface.co/gpt2/tree/main", "gpt2", "main"),
        ("https://huggingface.co/a/b/discussions/4", "a/b", None),
        ("hf://a/b", "a/b", None),
    ],
)
def test_a_pasted_address_of_the_hub_is_understood(add, pasted, name, revision):
    model = add("", source="hub", name=pasted)
    assert (model.name, model.path, model.revision) == (name, name, revision)


def test_a_revision_that_is_given_counts_more_than_that_of_an_address(add):
    assert add("", source="hub", name="https://huggingface.co/a/b/tree/main", revision="v1").revision == "v1"


@pytest.mark.parametrize(
    "pasted",
    [
        "https://huggingface.co/datasets/a/b", "https://huggingface.co/spaces/a/b", "https://huggingface.co/a/..%2Fb",
        "https://evil.example/a/b", "https://huggingface.co/", "https://huggingface.co.evil.example/a/b",
    ],
)  # fmt: skip
def test_an_address_of_something_else_is_refused(add, pasted):
    assert refusal(add, "", source="hub", name=pasted).startswith("name: ")


@pytest.mark.parametrize("revision", ["../../x", "a b", "-x", "r" * 200])
def test_a_revision_is_nothing_else(add, revision):
    assert refusal(add, "", source="hub", name="a/b", revision=revision).startswith("revision: ")


def test_kind_and_source_are_what_they_are(add, root):
    assert refusal(add, "", kind="other").startswith("kind: ")
    assert refusal(add, "", source="other").startswith("source: ")
    assert refusal(add, make_model(root / "a"), revision="main").startswith("revision: ")


@pytest.fixture
def run(session, files, user, library):
    """A run that has succeeded, and left a model."""
    recipe = library.recipe()
    run = Run(
        id="run_done", owner_id=user.id, name="Done", state="succeeded", recipe=recipe.to_dict(), provenance={},
        dataset_id=library.dataset.id, policy_id=library.policy.id, created_at=user.created_at, queued_at=user.created_at,
    )  # fmt: skip
    session.add(run)
    session.flush()
    make_model(files.artifacts_dir(run.id) / "model")
    return run


def test_what_a_run_made_outlives_the_run(add, run, files):
    model = add("", source="run", run_id=run.id, name="aligned")
    assert (model.name, model.source, model.facts["run_id"]) == ("aligned", "run", run.id)
    assert files.place_of(model.path) == files.model_dir(model.id)
    assert (files.place_of(model.path) / "model.safetensors").is_file()


@pytest.mark.parametrize("gone", [".", "model.safetensors"])
def test_a_runs_model_that_is_deleted_while_it_is_taken_is_not_found(session, files, settings, user, run, gone, monkeypatch):
    request = ModelRequest(kind="policy", source="run", run_id=run.id)
    candidate = service.examine(session, files, settings, user.id, request)
    path = files.artifacts_dir(run.id) / "model" / gone

    def link(source: str, target: str) -> None:
        path.unlink(missing_ok=True)
        link_or_copy(Path(source), Path(target))

    if gone == ".":
        shutil.rmtree(path)
    else:
        monkeypatch.setattr(service, "link_or_copy", link)
    with pytest.raises(NotFound, match="deleted while they were taken"):
        service.keep(files, candidate)
    assert list(files.model_dir("model_x").parent.glob("*")) == []


def test_a_runs_model_for_which_there_is_no_room_says_so(session, files, settings, user, run, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    candidate = service.examine(session, files, settings, user.id, ModelRequest(kind="policy", source="run", run_id=run.id))
    monkeypatch.setattr(service, "link_or_copy", fail)
    with pytest.raises(Unavailable, match="disk is full"):
        service.keep(files, candidate)


def test_a_runs_model_is_taken_as_what_its_method_made(add, run, files):
    assert "has trained a policy model: add it as kind policy" in refusal(add, "", "reward", source="run", run_id=run.id)
    run.recipe = {**run.recipe, "method": "reward_model"}
    assert "has trained a reward model: add it as kind reward" in refusal(add, "", source="run", run_id=run.id)
    shutil.rmtree(files.artifacts_dir(run.id) / "model")
    make_model(files.artifacts_dir(run.id) / "model", "LlamaForSequenceClassification", num_labels=1)
    assert add("", "reward", source="run", run_id=run.id).kind == "reward"


def test_only_a_succeeded_run_with_a_model_can_be_taken(add, run, files):
    with pytest.raises(NotFound):
        add("", source="run", run_id="run_none")
    (files.artifacts_dir(run.id) / "model").rename(files.run_dir(run.id) / "away")
    with pytest.raises(NotFound, match="no model"):
        add("", source="run", run_id=run.id)
    run.state = "running"
    with pytest.raises(Conflict, match="succeeded"):
        add("", source="run", run_id=run.id)


def test_a_changed_folder_is_noticed_at_the_next_look(add, root, session, settings, user):
    folder = make_model(root / "tiny")
    model = add(folder)
    allowed = settings.model_copy(update={"model_roots": [root]})
    assert service.check(session, allowed, user.id, model.id) == []
    write_tensors(folder / "model.safetensors", {"model.embed_tokens.weight": (10, 4), "other": (1,)})
    assert "changed" in service.check(session, allowed, user.id, model.id)[0]["message"]
    (folder / "config.json").unlink()
    assert "config.json" in service.check(session, allowed, user.id, model.id)[0]["message"]


def test_a_folder_is_taken_once_in_each_kind_until_its_files_change(add, root):
    folder = make_model(root / "tiny")
    model = add(folder, name="First")
    with pytest.raises(Conflict, match=f"already, as the policy model “First” .{model.id}.") as caught:
        add(root / "." / "tiny", name="Second")
    assert caught.value.problems[0]["field"] == "path"
    write_tensors(folder / "model.safetensors", {"model.embed_tokens.weight": (10, 4), "other": (1,)})
    assert add(folder, name="Second").id != model.id


def test_the_demonstrations_folder_is_allowed_where_there_is_one(session, files, settings, user):
    with pytest.raises(ModelInvalid, match="STUDIO_MODEL_ROOTS"):
        register(session, files, settings, user, kind="policy", source="folder", path="/etc")
    folder = make_model(settings.root / "demonstration" / "seed-0" / "policy")
    model = register(session, files, settings, user, kind="policy", source="folder", path=str(folder))
    assert service.check(session, settings, user.id, model.id) == []
    outside = make_model(settings.root / "elsewhere")
    with pytest.raises(ModelInvalid, match="allowed folder"):
        register(session, files, settings, user, kind="policy", source="folder", path=str(outside))


def test_a_model_that_a_run_uses_stays(session, files, library, run):
    for model in (library.policy,):
        with pytest.raises(Conflict, match="Done"):
            service.delete(session, files, library.user.id, model.id)
    run.recipe = {**run.recipe, "reward": {**run.recipe["reward"], "judge": library.reward.id}}
    session.flush()
    with pytest.raises(Conflict, match="Done"):
        service.delete(session, files, library.user.id, library.reward.id)


def test_deleting_a_model_leaves_a_users_folder_alone(add, root, session, files, user):
    folder = make_model(root / "tiny")
    model = add(folder)
    service.delete(session, files, user.id, model.id)
    session.flush()
    assert (folder / "model.safetensors").is_file()
    with pytest.raises(NotFound):
        store.get_model(session, user.id, model.id)


def test_models_in_the_data_folder_are_found_when_it_has_moved(session, files, settings, user, tmp_path):
    made = make_model(files.root / "demonstration" / "policy")
    model = register(session, files, settings, user, kind="policy", source="folder", path=str(made))
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "demonstration").mkdir(parents=True)
    made.rename(elsewhere / "demonstration" / "policy")
    moved = Settings(_env_file=None, data_dir=elsewhere)
    assert service.check(session, moved, user.id, model.id) == []
    assert locate(Files(elsewhere), model, None).path == str(elsewhere / "demonstration" / "policy")


def test_paths_that_an_older_studio_kept_whole_become_those_within_the_data_folder(session, files, library):
    policy, reward = session.get_one(Model, "model_policy"), session.get_one(Model, "model_reward")
    policy.path, reward.path = str(files.model_dir(policy.id)), f"{files.root}-of-others/reward"
    session.flush()
    store.make_relative(session, files.root)
    assert (policy.path, reward.path) == ("models/model_policy", f"{files.root}-of-others/reward")
