"""Is this folder a model the studio can use? Read from its JSON files and safetensors headers alone: no torch, no weights.

Files of strangers are read in a child process with limits of time and memory: `python -m app.ingest.models.folder`
takes {"folder", "roots"} on stdin and prints {"facts"} or {"message"}.
"""

import hashlib
import json
import logging
import math
from collections import Counter
from pathlib import Path
from typing import Any

from app.domain.errors import ModelInvalid
from app.ingest.models.chat_template import find_fault
from app.ingest.models.files import FolderReader, Headers, Refused, as_object, read_weights
from app.system.child import ReplyLost, ask_once, read_jobs
from app.system.installation import module_command
from app.system.limits import limit_memory, limit_processor

MAX_JSON_BYTES = 4 * 2**20
MAX_TOKENIZER_BYTES = 128 * 2**20
MAX_CHAT_TEMPLATE_BYTES = 2**18
MORE_TEMPLATES = "additional_chat_templates"
CHILD_SECONDS = 30
CHILD_MEMORY_BYTES = 4 * 2**30

DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight", "embed_out.weight")
HEADS = ("lm_head.weight", "embed_out.weight")
SHAPE = {
    "hidden_size": ("hidden_size", "n_embd"),
    "num_layers": ("num_hidden_layers", "n_layer"),
    "intermediate_size": ("intermediate_size", "n_inner"),
    "num_heads": ("num_attention_heads", "n_head"),
    "num_kv_heads": ("num_key_value_heads",),
    "head_size": ("head_dim",),
}
LAYERS = ("num_hidden_layers", "n_layer")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
SIZES = (
    "vocab_size", *EXPERTS, *SHAPE["hidden_size"], *SHAPE["intermediate_size"], *SHAPE["num_heads"], *SHAPE["num_kv_heads"],
    *SHAPE["head_size"],
)  # fmt: skip
CONTEXTS = ("max_position_embeddings", "n_positions", "seq_length")
MAX_CONTEXT = 2**27
MOST_LAYER_NAMES, MAX_LAYER_NAME = 100, 120
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")


log = logging.getLogger(__name__)


def inspect_apart(folder: Path, roots: list[Path]) -> dict[str, Any]:
    """Return the facts of a model folder, found out in a child process.

    Raises: ModelInvalid with the field `path`.
    """
    question = {"folder": str(folder), "roots": [str(root) for root in roots]}
    try:
        answer = ask_once(module_command("app.ingest.models.folder"), question, CHILD_SECONDS)
    except ReplyLost as lost:
        log.warning("looking at %s came to nothing: %s", folder, lost)
        answer = {}
    if "facts" not in answer:
        message = answer.get("message", "The folder's files are too large or too deeply nested to be a model's.")
        raise ModelInvalid.at("path", message)
    facts: dict[str, Any] = answer["facts"]
    return facts


def inspect(folder: Path, roots: list[Path]) -> dict[str, Any]:
    """Return the facts of a model folder: architecture, sizes, tokenizer. Every file read lies under one of `roots`, links
    resolved.

    Raises: Refused.
    """
    reader = FolderReader(folder, roots)
    if not reader.has("config.json"):
        if reader.has("adapter_config.json"):
            raise Refused("This is a LoRA adapter without its base model. Merge it into the base model and give that folder.")
        raise Refused("There is no config.json in the folder, so it isn't a Hugging Face model.")
    if reader.has("adapter_config.json"):
        raise Refused("There is a LoRA adapter beside the model (adapter_config.json). Merge it into the model, or take it away.")
    config_bytes = reader.read("config.json", MAX_JSON_BYTES)
    config = as_object(config_bytes, "config.json")
    if "auto_map" in config:
        raise Refused("The model needs code of its own (auto_map in config.json), which the studio never runs.")
    headers = read_weights(reader)
    check_dimensions(config, headers)
    return {
        **facts_of_config(config),
        **facts_of_weights(config, headers),
        **facts_of_shape(config, headers),
        **facts_of_tokenizer(reader, headers),
        "size_bytes": reader.num_weight_bytes,
        "sha256": hashlib.sha256(config_bytes + b"".join(header for header, _ in headers.values())).hexdigest(),
    }


def facts_of_config(config: dict[str, Any]) -> dict[str, Any]:
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise Refused("config.json doesn't name the model's architecture (architectures).")
    context = next((config[key] for key in ("max_position_embeddings", "n_positions", "seq_length") if key in config), None)
    return {
        "architecture": architectures[0][:200],
        "model_type": str(config.get("model_type", ""))[:200],
        "context_length": context if type(context) is int else None,
    }


def facts_of_weights(config: dict[str, Any], headers: Headers) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for _, tensors in headers.values():
        for entry in tensors.values():
            counts[entry["dtype"]] += math.prod(entry["shape"])
    dtype = counts.most_common(1)[0][0]
    vocab_size = config.get("vocab_size")
    return {
        "num_parameters": counts.total(),
        "dtype": DTYPE_NAMES.get(dtype, dtype.lower()),
        "vocab_size": vocab_size if type(vocab_size) is int else num_rows(headers, EMBEDDINGS),
        "num_labels": num_labels(config, headers),
    }


def facts_of_shape(config: dict[str, Any], headers: Headers) -> dict[str, Any]:
    """Dimensions that the memory plan needs (app.domain.memory); None where the architecture names none."""
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    shape = {key: next((config[name] for name in names if type(config.get(name)) is int), None) for key, names in SHAPE.items()}
    if shape["intermediate_size"] is None and shape["hidden_size"] is not None:
        shape["intermediate_size"] = 4 * shape["hidden_size"]  # as GPT-2 means an n_inner of null
    return {**shape, "tied_embeddings": num_rows(headers, HEADS) is None, "layers": name_layers(config, headers)}


def name_layers(config: dict[str, Any], headers: Headers) -> list[str] | None:
    """Return the names of the layers with a matrix, numbers as `*`: what an adapter can be put on.

    None where a network may name them otherwise than the files do, as it does with a mixture's experts, and for oddly many.
    """
    names = {
        ".".join("*" if part.isdigit() else part for part in name.removesuffix(".weight").split("."))
        for _, tensors in headers.values()
        for name, entry in tensors.items()
        if name.endswith(".weight") and len(entry["shape"]) == 2
    }
    odd = len(names) > MOST_LAYER_NAMES or any(len(name) > MAX_LAYER_NAME for name in names)
    return None if odd or any(config.get(key) for key in EXPERTS) else sorted(names)


def check_dimensions(config: dict[str, Any], headers: Headers) -> None:
    """Numbers of the configuration that the weights can't bear out: a network is built by them before weights are read."""
    shapes = [entry["shape"] for _, tensors in headers.values() for entry in tensors.values()]
    largest = max((len(shapes), *(number for shape in shapes for number in shape)))
    text = config.get("text_config")
    for part in (config, text if isinstance(text, dict) else {}):
        for name, value in part.items():
            if name in LAYERS:
                most, what = len(shapes), "tensors in all"
            elif name in SIZES:
                most, what = largest, "rows or columns at most"
            elif name in CONTEXTS:
                most, what = MAX_CONTEXT, "tokens at most is what any model reads"
            else:
                continue
            if isinstance(value, int | float) and not 0 <= value <= most:
                shown = f"{value:,}" if abs(value) < 10**15 else f"{value:.3g}" if abs(value) < 1e300 else "immense"
                raise Refused(f"config.json says {name} is {shown}, and the weights say otherwise ({most:,} {what}).")


def num_rows(headers: Headers, endings: tuple[str, ...]) -> int | None:
    """Rows of the first tensor with one of these names."""
    for _, tensors in headers.values():
        for name, entry in tensors.items():
            if name.endswith(endings) and len(entry["shape"]) == 2:
                rows: int = entry["shape"][0]
                return rows
    return None


def num_labels(config: dict[str, Any], headers: Headers) -> int | None:
    """Labels of a classifier, by its head or its configuration, whichever has more; silence in both means two to transformers."""
    if not str(config["architectures"][0]).endswith("ForSequenceClassification"):
        return None
    rows = num_rows(headers, ("score.weight", "classifier.weight", "classifier.out_proj.weight"))
    number, labels = config.get("num_labels"), config.get("id2label")
    declared = number if type(number) is int else len(labels) if isinstance(labels, dict) else 0
    return max(rows or 0, declared) or 2


def facts_of_tokenizer(reader: FolderReader, headers: Headers) -> dict[str, Any]:
    """Special tokens, chat template, and whether every token has a row in the model's embedding."""
    if not any(reader.has(name) for name in TOKENIZER_FILES):
        raise Refused("There is no tokenizer in the folder. Save it beside the model: tokenizer.save_pretrained(folder).")
    name = "tokenizer_config.json"
    config = as_object(reader.read(name, MAX_JSON_BYTES), name) if reader.has(name) else {}
    if "auto_map" in config:
        raise Refused(f"The tokenizer needs code of its own (auto_map in {name}), which the studio never runs.")
    templates = read_templates(reader, config)
    if fault := find_fault(templates, special_tokens(config)):
        raise Refused(fault)
    num_tokens, num_embeddings = count_tokens(reader), num_rows(headers, EMBEDDINGS)
    if num_tokens is not None and num_embeddings is not None and num_tokens > num_embeddings:
        raise Refused(f"The tokenizer knows {num_tokens:,} tokens and the model {num_embeddings:,}: they don't belong together.")
    return {
        "has_chat_template": bool(templates),
        "writes_date": any("strftime_now" in template for template in templates),
        "pad_token": token_text(config.get("pad_token")),
        "eos_token": token_text(config.get("eos_token")),
        "tokenizer_size": num_tokens,
    }


def read_templates(reader: FolderReader, config: dict[str, Any]) -> list[str]:
    """Return all chat templates of the folder: one text, named ones, a file of its own, a folder of files."""
    found = config.get("chat_template")
    named = [entry.get("template") for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []
    values = [found] if isinstance(found, str) else list(found.values()) if isinstance(found, dict) else named
    files = ["chat_template.jinja"] if reader.has("chat_template.jinja") else []
    if (more := reader.path(MORE_TEMPLATES)).is_dir():
        files += [f"{MORE_TEMPLATES}/{path.name}" for path in sorted(more.glob("*.jinja"))]
    templates = [value for value in values if isinstance(value, str) and value]
    templates += [reader.read(name, MAX_CHAT_TEMPLATE_BYTES).decode("utf-8", "replace") for name in files]
    if sum(map(len, templates)) > MAX_CHAT_TEMPLATE_BYTES:
        raise Refused(f"The tokenizer's chat templates are larger than {MAX_CHAT_TEMPLATE_BYTES:,} bytes.")
    return templates


def special_tokens(config: dict[str, Any]) -> dict[str, str]:
    found = {name: token_text(value) for name, value in config.items() if name.endswith("_token")}
    return {name: text for name, text in found.items() if text is not None}


def token_text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text[:200] if isinstance(text, str) else None


def count_tokens(reader: FolderReader) -> int | None:
    """One more than the largest id in tokenizer.json; None where there is no such file."""
    if not reader.has("tokenizer.json"):
        return None
    tokenizer = as_object(reader.read("tokenizer.json", MAX_TOKENIZER_BYTES), "tokenizer.json")
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict | list) or not isinstance(added, list):
        raise Refused("tokenizer.json holds no vocabulary.")
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    added_ids = [token.get("id") for token in added if isinstance(token, dict)]
    return 1 + max((number for number in [*ids, *added_ids] if type(number) is int), default=-1)


def main() -> None:
    """Answer the question on stdin, within limits."""
    limit_memory(CHILD_MEMORY_BYTES)
    limit_processor(CHILD_SECONDS)
    for line, reply in read_jobs():
        question = json.loads(line)
        try:
            reply({"facts": inspect(Path(question["folder"]), [Path(root) for root in question["roots"]])})
        except Refused as refused:
            reply({"message": str(refused)})
        except OSError as error:
            reply({"message": f"The folder can't be read: {error.strerror}."})


if __name__ == "__main__":
    main()
