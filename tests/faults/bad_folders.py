"""Model folders that are wrong in one way each, with what the refusal must say. Some would make a canary, if they were run."""

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.services.test_models import make_model, write_tensors

CANARY = "canary"
Spoil = Callable[[Path], object]


class Bird:
    """Unpickling one makes the canary."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.place,)


@dataclass(frozen=True)
class Fault:
    """`spoil` changes a good folder; `sentence` is a pattern of the refusal."""

    spoil: Spoil
    sentence: str


def canary_of(folder: Path) -> Path:
    return folder.parent / CANARY


def change(name: str, **fields: Any) -> Spoil:
    """Fields of a JSON file of the folder."""

    def spoil(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return spoil


def write(name: str, content: str | bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def drop(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def template(text: str) -> Spoil:
    return change("tokenizer_config.json", chat_template=text)


def shard(*names: str, kept: tuple[str, ...] = ()) -> Spoil:
    """The weights as shards that an index names; only `kept` are there."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        weight_map = {f"w{place}": name for place, name in enumerate(names)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        for place, name in enumerate(names):
            if name in kept:
                write_tensors(folder / name, {f"w{place}": (4, 4)})

    return spoil


def header(length: int) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])

    return spoil


def link_out(name: str) -> Spoil:
    """The file as a link to one beside the allowed roots."""

    def spoil(folder: Path) -> None:
        outside = folder.parents[2] / f"outside-{folder.name}-{name}"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return spoil


def pickled(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickle.dumps(Bird(canary_of(folder))))

    return spoil


def coded(name: str, **auto_map: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        change(name, auto_map=auto_map)(folder)
        (folder / "evil.py").write_text(f"import os\nos.mkdir({str(canary_of(folder))!r})\nclass Evil: pass\n")

    return spoil


RANGE = "{% for a in range(99999) %}"
ENDLESS = {
    "loops": RANGE * 4 + "{% endfor %}" * 4,
    "loops in silence": RANGE * 3 + "{% if false %}x{% endif %}" + "{% endfor %}" * 3,
    "builds 1 GB": "{{ 'x' * 1000000000 }}",
    "builds 1 GB of a list": "{% set a = [0] * 500000000 %}{{ a | length }}",
    "doubles": "{% set n = namespace(t='xxxxxxxx') %}{% for a in range(60) %}{% set n.t = n.t + n.t %}{% endfor %}",
    "powers": "{{ 9 ** (9 ** 9) }}",
    "pads": "{{ '%1000000000d' % 7 }}",
}
LONG = "{% for a in range(99999) %}" + "x" * 60 + "{% endfor %}"
LATE = "{% if messages | length > 2 %}" + ENDLESS["loops"] + "{% endif %}x"  # only for longer conversations

FOLDERS: dict[str, Fault] = {
    "no weights": Fault(drop("model.safetensors"), "no weights"),
    "no config": Fault(drop("config.json"), "no config.json"),
    "no tokenizer": Fault(drop("tokenizer.json"), "no tokenizer"),
    "config that is no JSON": Fault(write("config.json", "{'a': 1}"), "config.json can't be read: it isn't JSON"),
    "config that is a list": Fault(write("config.json", "[]"), "should hold a JSON object"),
    "config of 10^5 brackets": Fault(write("config.json", "[" * 10**5), "isn't JSON"),
    "config of 5 MB": Fault(write("config.json", '{"a": "' + "x" * 5 * 2**20 + '"}'), "larger than"),
    "config without architecture": Fault(write("config.json", "{}"), "architecture"),
    "10^9 layers": Fault(change("config.json", num_hidden_layers=10**9), "num_hidden_layers is 1,000,000,000"),
    "10^18 hidden": Fault(change("config.json", hidden_size=10**18), "hidden_size is 1e"),
    "10^300 tokens": Fault(change("config.json", vocab_size=10**300), "vocab_size is"),
    "-1 heads": Fault(change("config.json", num_attention_heads=-1), "num_attention_heads is -1"),
    "10^12 tokens of context": Fault(change("config.json", max_position_embeddings=10**12), "max_position_embeddings is"),
    "10^9 layers of text": Fault(change("config.json", text_config={"num_hidden_layers": 10**9}), "num_hidden_layers"),
    "missing shard": Fault(shard("a.safetensors", "b.safetensors", kept=("a.safetensors",)), "shard b.safetensors is missing"),
    "index to ../../x": Fault(shard("../../x.safetensors"), "no safetensors file of this folder"),
    "index to an absolute path": Fault(shard("/etc/passwd"), "no safetensors file of this folder"),
    "index to a pickle": Fault(shard("pytorch_model.bin"), "no safetensors file of this folder"),
    "index to NUL": Fault(shard("a\0.safetensors"), "no safetensors file of this folder"),
    "index that is empty": Fault(shard(), "names no shards"),
    "index of 3000 shards": Fault(shard(*(f"{n}.safetensors" for n in range(3000))), "3,000 shards"),
    "header of 2^63": Fault(header(2**63), "cut off or isn't a safetensors file"),
    "header of 2^64 - 1": Fault(header(2**64 - 1), "cut off or isn't a safetensors file"),
    "header of 0": Fault(header(0), "header of model.safetensors"),
    "weights of 4 bytes": Fault(write("model.safetensors", b"1234"), "cut off or isn't a safetensors file"),
    "weights that are text": Fault(write("model.safetensors", "x" * 999), "cut off or isn't a safetensors file"),
    "fewer embeddings than tokens": Fault(change("tokenizer.json", added_tokens=[{"id": 999}]), "don't belong together"),
    "tokenizer without vocabulary": Fault(write("tokenizer.json", "{}"), "no vocabulary"),
    "weights linked out": Fault(link_out("model.safetensors"), "leads out"),
    "config linked out": Fault(link_out("config.json"), "leads out"),
    "tokenizer linked out": Fault(link_out("tokenizer.json"), "leads out"),
    "pickled weights": Fault(pickled("pytorch_model.bin"), "Only safetensors weights are loaded"),
    "pickled weights, .pt": Fault(pickled("model.pt"), "Only safetensors weights are loaded"),
    "pickle named safetensors": Fault(
        lambda folder: (folder / "model.safetensors").write_bytes(pickle.dumps(Bird(canary_of(folder)))), "isn't a safetensors"
    ),
    "code for the model": Fault(coded("config.json", AutoModelForCausalLM="evil.Evil"), "code of its own"),
    "code for the tokenizer": Fault(coded("tokenizer_config.json", AutoTokenizer=["evil.Evil", None]), "code of its own"),
    "an adapter beside the model": Fault(write("adapter_config.json", '{"base_model_name_or_path": "/etc"}'), "LoRA adapter"),
    "template of 300 KB": Fault(template("x" * 300_000), "chat templates are larger"),
    "template of 6 MB text": Fault(template(LONG), "characters out of three short messages"),
    "template in its own file": Fault(write("chat_template.jinja", ENDLESS["loops"]), "comes to no end"),
    "template among several": Fault(
        change("tokenizer_config.json", chat_template=[{"name": "default", "template": ENDLESS["loops"]}]), "comes to no end"
    ),
    "template for longer talks": Fault(template(LATE), "comes to no end"),
    **{f"template that {name}": Fault(template(text), "comes to no end") for name, text in ENDLESS.items()},
}


def make_bad(folder: Path, name: str) -> Path:
    FOLDERS[name].spoil(make_model(folder))
    return folder
