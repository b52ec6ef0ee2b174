"""Load policies and their tokenizers: any Hugging Face causal LM, from a folder or the hub; safetensors only, no remote code."""

import gc
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from app.domain.errors import ModelInvalid
from app.domain.jobs import ModelSource
from app.ingest.models.folder import inspect_apart
from app.system.files import hash_file
from worker.models.adapter import LanguageModel, adapt
from worker.models.quantize import loading_options, settle

# What a model may consist of; nothing that is code or a pickle is ever fetched.
HUB_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
OTHER_COPIES = ["*/*", "consolidated*"]  # the same weights once more, for other libraries
TOKENIZER_PATTERNS = ["*.json", "*.model", "*.txt", "*.jinja"]  # what tells how a model reads text: no weights

_sound: set[tuple[Path, Path | None, tuple[tuple[str, int, int, int, int], ...]]] = set()

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Policy:
    """A causal LM ready for use, with its tokenizer and where it came from."""

    language_model: LanguageModel
    tokenizer: Any
    folder: Path


def resolve_folder(source: ModelSource, hub_dir: Path) -> Path:
    """Return the folder with the model's files, downloaded first when it is on the hub; raises ModelInvalid."""
    folder = Path(source.path) if source.source == "folder" else _download(source, hub_dir)
    if not folder.is_dir():
        raise ModelInvalid(f"The model folder {folder} does not exist. Check the path, or register the model again.")
    if not (folder / "config.json").is_file():
        raise ModelInvalid(f"{folder} has no config.json, so it is not a Hugging Face model folder.")
    if not any(folder.glob("*.safetensors")):
        raise ModelInvalid(
            f"{folder} has no weights in safetensors form. Convert them (save_pretrained writes safetensors); "
            "other forms can run code while loading and are refused."
        )
    _look(folder, hub_dir if source.source == "hub" else None)
    return folder


def resolve_tokenizer(source: ModelSource, hub_dir: Path) -> Path:
    """Return the folder with the model's tokenizer, of the hub without any weights; raises ModelInvalid."""
    folder = Path(source.path) if source.source == "folder" else _download(source, hub_dir, TOKENIZER_PATTERNS)
    if not folder.is_dir():
        raise ModelInvalid(f"The model folder {folder} does not exist. Check the path, or register the model again.")
    return folder


def _look(folder: Path, root: Path | None) -> None:
    """What the web looks at when a folder is added, for those that it never saw, before torch sees them; raises ModelInvalid.

    `root`: where links of the folder may lead; None: anywhere, as its owner was asked when it was added. Files that were
    looked at in this process and are still the same are sound: a run loads its models again for every evaluation.
    """
    state = (folder, root, _stat_files(folder))
    if state in _sound:
        return
    try:
        inspect_apart(folder, [root or Path("/")])
    except ModelInvalid as error:
        raise ModelInvalid(f"{folder} can't be used: {error.detail}") from error
    _sound.add(state)


def _stat_files(folder: Path) -> tuple[tuple[str, int, int, int, int], ...]:
    """Return what changes when a file below the folder does, links resolved."""
    stats = [(str(path), path.stat()) for path in sorted(folder.rglob("*")) if path.exists()]
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats)


def _download(source: ModelSource, hub_dir: Path, patterns: list[str] = HUB_PATTERNS) -> Path:
    named = source.path + (f" at {source.revision}" if source.revision else "")
    try:
        return Path(
            snapshot_download(
                source.path,
                revision=source.revision,
                cache_dir=hub_dir,
                allow_patterns=patterns,
                ignore_patterns=OTHER_COPIES,
            )
        )
    except RepositoryNotFoundError as error:
        raise ModelInvalid(
            f"The hub has no model {named}, or it needs a sign-in. "
            "Check the name; for a sign-in, set HF_TOKEN where the worker starts."
        ) from error
    except RevisionNotFoundError as error:
        raise ModelInvalid(f"The hub has no revision {source.revision} of {source.path}.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        raise ModelInvalid(
            f"The model {named} could not be downloaded: {_first_line(error)} "
            "Check the connection, or copy the model to a folder and use that."
        ) from error


def load_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelInvalid(
            f"The config.json of {folder} can't be used: {_first_line(error)} Models that bring their own code are not supported."
        ) from error


def load_tokenizer(folder: Path) -> Any:
    """Return the folder's tokenizer; raises ModelInvalid when there is none that works without extra code."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        num_ids = len(tokenizer("a", add_special_tokens=False)["input_ids"])
    except Exception as error:  # tokenizer files fail in many ways: missing packages, broken JSON, Rust panics
        raise ModelInvalid(f"The tokenizer in {folder} can't be loaded: {_first_line(error)}") from error
    if num_ids == 0 and not tokenizer("hello world", add_special_tokens=False)["input_ids"]:
        raise ModelInvalid(f"The tokenizer in {folder} turns text into nothing: its files are missing or empty.")
    return tokenizer


def load_policy(folder: Path, *, dtype: str, device: str, quantization: str = "none") -> Policy:
    """Load the causal LM in `folder`, check its head and its vocabulary; raises ModelInvalid.

    `quantization` nf4: its linear layers in 4 bits; raises RecipeInvalid where bitsandbytes is missing.
    """
    tokenizer = load_tokenizer(folder)
    model = load_causal(folder, dtype=dtype, device=device, quantization=quantization)
    num_rows = model.get_input_embeddings().weight.shape[0]
    if num_rows < len(tokenizer):
        raise ModelInvalid(
            f"The tokenizer in {folder} has {len(tokenizer)} entries, the model only {num_rows} embeddings: "
            "they don't belong together. Use the model's own tokenizer."
        )
    return Policy(adapt(model), tokenizer, folder)


def load_causal(folder: Path, *, dtype: str, device: str, quantization: str = "none") -> Any:
    """Return the causal LM in `folder` as it is trained and scored: without dropout; raises ModelInvalid, RecipeInvalid."""
    options = loading_options(DTYPES[dtype], device) if quantization == "nf4" else {}
    model = load_network(AutoModelForCausalLM, folder, dtype=dtype, device=device, what="a causal language model", **options)
    settle(model)
    switch_dropout_off(model)
    return model


def load_network(kind: Any, folder: Path, *, dtype: str, device: str, what: str, **options: Any) -> Any:
    """`kind.from_pretrained` with every weight accounted for: one that is missing would be filled with random numbers."""
    config = load_config(folder)
    if getattr(config, "is_encoder_decoder", False) and kind is AutoModelForCausalLM:
        raise ModelInvalid(
            f"The model in {folder} is an encoder-decoder ({config.model_type}); a causal language model is needed."
        )
    try:
        model, report = kind.from_pretrained(
            folder, dtype=DTYPES[dtype], use_safetensors=True, trust_remote_code=False, local_files_only=True,
            output_loading_info=True, **options,
        )  # fmt: skip
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # corrupt headers, unknown architectures and missing shards all surface as different types
        raise ModelInvalid(f"{folder} can't be loaded as {what}: {_first_line(error)}") from error
    missing = sorted(set(report["missing_keys"]))
    if missing:
        raise ModelInvalid(
            f"{folder} is not {what} as it stands: its files lack {len(missing)} weights, among them {missing[0]}. "
            "Use a model that was saved in this form."
        )
    if report.get("mismatched_keys"):
        raise ModelInvalid(f"{folder}: the shapes of its weights contradict its config.json. Save the model again.")
    if not options.get("device_map"):
        model.to(device)
    model.eval()
    return model


def load_classifier(folder: Path, *, dtype: str, device: str) -> Any:
    """Load a sequence-classification model with one output; raises ModelInvalid."""
    config = load_config(folder)
    if config.num_labels != 1:
        raise ModelInvalid(
            f"The model in {folder} has {config.num_labels} outputs; a reward model has one (num_labels: 1 in config.json)."
        )
    return load_network(AutoModelForSequenceClassification, folder, dtype=dtype, device=device, what="a reward model")


def switch_dropout_off(model: nn.Module) -> None:
    """Set every dropout to 0, so that log π_θ is the policy's own and not a random thinned network's."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name in ("attention_dropout", "attn_dropout", "dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)


def release_memory() -> None:
    """Give freed GPU memory back before the next model needs it."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def context_window(config: Any) -> int | None:
    """Return the longest input in tokens, or None where the architecture sets no limit."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def hash_folder(folder: Path, patterns: tuple[str, ...] = ("*.safetensors", "config.json")) -> str:
    """Sha256 over the names and contents of the matching files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        digest.update(json.dumps([path.name, hash_file(path)]).encode())
    return digest.hexdigest()


def hash_tokenizer(folder: Path) -> str:
    """Sha256 of everything that decides which ids a text becomes, the chat template included."""
    return hash_folder(folder, ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "*.model", "*.jinja", "added_*"))


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = (lines[0] if lines else type(error).__name__)[:300]
    return line if line.endswith((".", "!", "?")) else line + "."
