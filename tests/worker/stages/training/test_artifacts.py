"""What a run leaves is what it has trained: `model/`, `adapter/` on its base and the model in memory answer alike."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tests.worker.families import FAMILIES, build_family
from tests.worker.workshop import CHAT_TEMPLATE, Workshop, make_tokenizer, read_events
from worker.stages.training import artifacts as stage
from worker.stages.training import saving

Run = Callable[[Path], int]
SHORT: dict[str, Any] = {
    "training": {"steps": 3, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 100},
    "evaluation": {"num_prompts": 0, "share": 0.2, "every": 100},
}
# peft's warnings when an adapter on tied embeddings or on fused experts is loaded
pytestmark = [
    pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`"),
    pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys"),
]


def artifacts(folder: Path) -> Path:
    return folder.parents[1] / "artifacts"


def outcome(folder: Path) -> dict[str, Any]:
    payload: dict[str, Any] = read_events(folder, "outcome")[-1]["payload"]
    return payload


def compared(folder: Path) -> dict[str, float]:
    """The mean differences that the run has logged, by what was read again."""
    (text,) = [t for event in read_events(folder, "log") if "is the trained model" in (t := event["payload"]["text"])]
    return {name: float(number) for name, number in re.findall(r"(model/|adapter/) [a-z][\w ]*? ([\d.]+e[+-]\d+)", text)}


def dtypes(folder: Path) -> set[torch.dtype]:
    return {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()}


@torch.inference_mode()
def answer(network: Any) -> torch.Tensor:
    ids = torch.arange(24).view(2, 12) * 13 % 200
    return torch.log_softmax(network.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float(), dim=-1)


def reload(folder: Path, base: Path) -> tuple[Any, Any]:
    """The merged model, and the adapter on its base, by plain transformers and peft."""
    merged = AutoModelForCausalLM.from_pretrained(artifacts(folder) / "model")
    plain = AutoModelForCausalLM.from_pretrained(base)
    return merged, PeftModel.from_pretrained(plain, artifacts(folder) / "adapter")


@pytest.fixture(scope="session")
def family(workshop: Workshop) -> Callable[..., Path]:
    """The folder of a tiny policy of a family, with a chat template and generation settings of its own."""

    def make(name: str, dtype: torch.dtype = torch.float32) -> Path:
        folder = workshop.root / f"family-{name}-{str(dtype).removeprefix('torch.')}"
        if not folder.exists():
            tokenizer = make_tokenizer(chat=True)
            network = build_family(name, len(tokenizer) + 8, dtype)
            network.generation_config = GenerationConfig(eos_token_id=[0, 5], pad_token_id=1, max_length=99)
            network.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize("name", FAMILIES)
def test_of_every_family_the_merged_model_and_the_adapter_on_its_base_are_the_trained_policy(
    name: str, workshop: Workshop, run: Run, family: Callable[..., Path]
) -> None:
    lora = {"adaptation": "lora", "lora": {"rank": 4}}
    folder = workshop.attempt(policy=family(name), policy_settings=lora, **SHORT)
    assert run(folder) == 0, outcome(folder)
    assert compared(folder).keys() == {"model/", "adapter/"}
    merged, adapted = reload(folder, family(name))
    torch.testing.assert_close(answer(merged), answer(adapted), rtol=0, atol=1e-4)
    with adapted.disable_adapter():
        assert float((answer(adapted) - answer(merged)).abs().mean()) > 1e-3  # it has learned something
    assert json.loads((artifacts(folder) / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(
        family(name)
    )


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "mixtral", "gpt_oss"])
def test_a_base_of_16_bits_comes_back_whole_and_as_it_was(
    name: str, workshop: Workshop, run: Run, family: Callable[..., Path]
) -> None:
    base = family(name, torch.bfloat16)
    folder = workshop.attempt(policy=base, **SHORT)
    assert run(folder) == 0, outcome(folder)
    saved = artifacts(folder) / "model"
    have, want = load_file(saved / "model.safetensors"), load_file(base / "model.safetensors")
    assert {key: (tensor.dtype, tensor.shape) for key, tensor in have.items()} == {
        key: (tensor.dtype, tensor.shape) for key, tensor in want.items()
    }
    assert any(not torch.equal(have[key], want[key]) for key in want)
    assert GenerationConfig.from_pretrained(saved).to_dict() == GenerationConfig.from_pretrained(base).to_dict()
    tokenizer = AutoTokenizer.from_pretrained(saved)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer("my lamp is broken") == AutoTokenizer.from_pretrained(base)("my lamp is broken")


@pytest.mark.parametrize(("declared", "wanted"), [([0, 5], [0, 5, 360]), (0, [0, 360]), (None, [360]), (360, 360)])
def test_plain_generation_stops_where_the_trained_turns_end(
    declared: Any, wanted: Any, workshop: Workshop, run: Run, tmp_path: Path
) -> None:
    tokenizer = make_tokenizer(chat=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") == 360
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<eos>", "<|im_end|>")
    network = build_family("llama", len(tokenizer) + 8)
    network.generation_config = GenerationConfig(eos_token_id=declared, max_length=99)
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    folder = workshop.attempt(policy=tmp_path, **SHORT)
    assert run(folder) == 0, outcome(folder)
    saved = json.loads((artifacts(folder) / "model/generation_config.json").read_text())
    assert (saved["eos_token_id"], saved["max_length"]) == (wanted, 99)


def test_embeddings_under_an_adapter_are_saved_apart_from_the_head_that_they_were_tied_to(workshop: Workshop, run: Run) -> None:
    lora = {"adaptation": "lora", "lora": {"rank": 4, "target_modules": ["q_proj", "embed_tokens"]}}
    folder = workshop.attempt(policy_settings=lora, **SHORT)
    assert run(folder) == 0, outcome(folder)
    merged, adapted = reload(folder, workshop.policy())
    torch.testing.assert_close(answer(merged), answer(adapted), rtol=0, atol=1e-4)
    assert merged.config.tie_word_embeddings is False


def test_a_run_whose_saved_model_answers_otherwise_fails_with_a_sentence_and_leaves_no_model(
    workshop: Workshop, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "untie", lambda network: None)
    lora = {"adaptation": "lora", "lora": {"rank": 4, "target_modules": ["q_proj", "embed_tokens"]}}
    folder = workshop.attempt(policy_settings=lora, **SHORT)
    assert run(folder) == 10
    assert re.match(
        r"What was saved is not what was trained: model/, read again, differs from the model in memory by [\d.]+ nats on average "
        r"over \d+ tokens of responses \(at most by [\d.]+, in example \d+\), where 0\.0001 is allowed\. No model is kept",
        outcome(folder)["reason"],
    )
    assert outcome(folder)["retry"] is False
    assert {path.name for path in artifacts(folder).iterdir() if path.is_dir()} == set()
    assert (folder.parents[1] / "checkpoints/step-000003").is_dir()


def test_training_that_16_bits_would_round_away_is_kept_in_32(workshop: Workshop, run: Run, family: Callable[..., Path]) -> None:
    """Updates below half the spacing of bfloat16 round back to the base's own weights."""
    base = family("llama", torch.bfloat16)
    gentle = {**SHORT, "training": {**SHORT["training"], "learning_rate": 1e-6}}
    folder, rounded = workshop.attempt(policy=base, **gentle), workshop.attempt(
        policy=base, policy_settings={"saved_dtype": "bfloat16"}, **gentle
    )  # fmt: skip
    assert (run(folder), run(rounded)) == (0, 0)
    assert dtypes(artifacts(folder) / "model") == {torch.float32}
    assert any("model/ stays in float32" in event["payload"]["text"] for event in read_events(folder, "log"))
    assert dtypes(artifacts(rounded) / "model") == {torch.bfloat16}
    have, want = (load_file(path / "model.safetensors") for path in (artifacts(rounded) / "model", base))
    same = sum(int((have[key] == want[key]).sum()) for key in want) / sum(weight.numel() for weight in want.values())
    assert same > 0.95  # what would be left of this training


def test_another_number_type_is_saved_when_it_is_asked_for(workshop: Workshop, run: Run) -> None:
    folder = workshop.attempt(policy_settings={"saved_dtype": "float16"}, **SHORT)
    assert run(folder) == 0, outcome(folder)
    assert dtypes(artifacts(folder) / "model") == {torch.float16}


@pytest.mark.parametrize("is_read", [True, False])
def test_a_type_that_the_weights_overflow_is_not_saved(is_read: bool, workshop: Workshop, run: Run, tmp_path: Path) -> None:
    """Of a weight that the answers need, or that none of the examples reads."""
    tokenizer = make_tokenizer(chat=True)
    network = build_family("mistral", len(tokenizer) + 8)
    with torch.no_grad():
        if is_read:
            network.model.norm.weight.fill_(1e5)
            network.lm_head.weight.mul_(1e-5)
        else:
            network.model.embed_tokens.weight[-1] = 1e5
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    gentle = {**SHORT, "training": {**SHORT["training"], "learning_rate": 1e-6}}
    folder = workshop.attempt(policy=tmp_path, policy_settings={"saved_dtype": "float16"}, **gentle)
    assert run(folder) == 0, outcome(folder)
    assert dtypes(artifacts(folder) / "model") == {torch.float32}
    said = "In float16 the trained model would overflow, as some of its weights are above 65504: model/ stays in float32."
    assert said in [event["payload"]["text"] for event in read_events(folder, "log")]


@pytest.mark.parametrize("is_saved", [True, False])
def test_a_small_training_in_16_bits_that_was_not_saved_is_refused(
    is_saved: bool, workshop: Workshop, run: Run, family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has moved log π by less than what two copies in 16 bits may differ by."""
    base = family("llama", torch.bfloat16)

    def save_base(network: Any, tokenizer: Any, path: Path, *_: Any) -> None:
        shutil.copytree(base, path, dirs_exist_ok=True)

    if not is_saved:
        monkeypatch.setattr(stage, "save_network", save_base)
    small = {**SHORT, "training": {**SHORT["training"], "learning_rate": 1e-4}}
    folder = workshop.attempt(policy=base, policy_settings={"dtype": "bfloat16"}, **small)
    assert run(folder) == (0 if is_saved else 10), outcome(folder)
    if not is_saved:
        told = re.search(r"by ([\d.e-]+) nats on average .* where ([\d.e-]+) is allowed", outcome(folder)["reason"])
        assert told is not None
        assert float(told[2]) == pytest.approx(float(told[1]) / 10, rel=0.05)
        assert float(told[1]) < 0.05


@pytest.mark.parametrize("parts", [{}, {"method": "reward_model", "weights": {"lambda": None}}])
def test_a_model_whose_saved_tokenizer_writes_conversations_otherwise_is_refused(
    parts: dict[str, Any], workshop: Workshop, run: Run, family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = stage.save_network

    def save_another_template(network: Any, tokenizer: Any, path: Path, *rest: Any) -> None:
        save(network, tokenizer, path, *rest)
        (path / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("<|", "<"))

    monkeypatch.setattr(stage, "save_network", save_another_template)
    folder = workshop.attempt(policy=family("llama"), **SHORT, **parts)
    assert run(folder) == 10
    assert re.match(
        r"What was saved is not what was trained: the tokenizer in model/, read again, writes example \d+ as other tokens "
        r"than the one in memory\. No model is kept",
        outcome(folder)["reason"],
    )


def test_a_reward_model_asked_about_one_conversation_is_rounded_to_its_base(
    workshop: Workshop, run: Run, family: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What training has moved is the change from the start, not the spread of the rewards."""
    compare = stage.compare_reward_model
    monkeypatch.setattr(
        stage, "compare_reward_model", lambda model, batch, run: compare(model, replace(batch, ids=batch.ids[:1]), run)
    )
    base = family("llama", torch.bfloat16)
    folder = workshop.attempt(policy=base, method="reward_model", weights={"lambda": None}, **SHORT)
    assert run(folder) == 0, outcome(folder)
    assert dtypes(artifacts(folder) / "model") == {torch.bfloat16}


def test_a_cancelled_run_compares_nothing(workshop: Workshop, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(stage, "compare_policy", lambda *parts: asked.append(parts))
    folder = workshop.attempt(**SHORT)
    (folder / "cancel").touch()
    assert run(folder) == 11
    assert asked == []
