"""The files of a model folder, read with bounds: JSON files and the headers of safetensors files. No weights, no torch."""

import json
import math
from pathlib import Path
from typing import Any

MAX_INDEX_BYTES = 64 * 2**20
MAX_HEADER_BYTES = 64 * 2**20
MAX_SHARDS = 2000
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
DTYPES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip

Headers = dict[str, tuple[bytes, dict[str, Any]]]  # file name → header as bytes, and its tensors


class Refused(Exception):
    """Why the folder can't be used, as a sentence."""


class FolderReader:
    """Reads small files of one folder, and never one whose links lead out of the allowed roots."""

    def __init__(self, folder: Path, roots: list[Path]) -> None:
        self.folder = folder
        self.roots = [root.resolve() for root in roots]
        self.num_weight_bytes = 0

    def path(self, name: str) -> Path:
        path = (self.folder / name).resolve()
        if not any(path.is_relative_to(root) for root in self.roots):
            raise Refused(f"{name} is a link that leads out of the allowed folders.")
        return path

    def has(self, name: str) -> bool:
        return self.path(name).is_file()

    def read(self, name: str, max_bytes: int) -> bytes:
        with self.path(name).open("rb") as file:
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise Refused(f"{name} is larger than {max_bytes:,} bytes, so it isn't what it should be.")
        return content

    def read_header(self, name: str) -> bytes:
        """Return the JSON header of a safetensors file: 8 bytes of its length, then the header."""
        path = self.path(name)
        size = path.stat().st_size
        with path.open("rb") as file:
            num_bytes = int.from_bytes(file.read(8), "little")
            if size < 10 or num_bytes > size - 8:
                raise Refused(f"{name} is cut off or isn't a safetensors file: its header would be {num_bytes:,} bytes long.")
            if num_bytes > MAX_HEADER_BYTES:
                raise Refused(f"{name} has a header of {num_bytes:,} bytes; {MAX_HEADER_BYTES:,} are allowed.")
            self.num_weight_bytes += size
            return file.read(num_bytes)


def as_object(content: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        raise Refused(f"{name} can't be read: it isn't JSON.") from None
    if not isinstance(value, dict):
        raise Refused(f"{name} should hold a JSON object.")
    return value


def read_weights(reader: FolderReader) -> Headers:
    """Return the headers of all weight files; every shard that the index names is there and holds what the index says."""
    weight_map: dict[str, str] = {}
    if reader.has("model.safetensors"):
        names = ["model.safetensors"]
    elif reader.has("model.safetensors.index.json"):
        weight_map = read_index(reader)
        names = sorted(set(weight_map.values()))
    else:
        raise Refused(no_weights(reader.folder))
    headers = {name: read_tensors(reader, name) for name in names}
    for tensor, name in weight_map.items():
        if tensor not in headers[name][1]:
            raise Refused(f"The index says that {name} holds {tensor}, but it doesn't: the shards are not of one model.")
    return headers


def read_index(reader: FolderReader) -> dict[str, str]:
    index = as_object(reader.read("model.safetensors.index.json", MAX_INDEX_BYTES), "model.safetensors.index.json")
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(name, str) for name in weight_map.values()):
        raise Refused("model.safetensors.index.json names no shards (weight_map).")
    shards = set(weight_map.values())
    if len(shards) > MAX_SHARDS:
        raise Refused(f"model.safetensors.index.json names {len(shards):,} shards; {MAX_SHARDS:,} are allowed.")
    for name in sorted(shards):
        if Path(name).name != name or "\0" in name or not name.endswith(".safetensors"):
            raise Refused(f"model.safetensors.index.json names {name[:200]!r}, which is no safetensors file of this folder.")
        if not reader.has(name):
            raise Refused(f"The shard {name} is missing; model.safetensors.index.json names it.")
    return weight_map


def no_weights(folder: Path) -> str:
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        return f"Only safetensors weights are loaded, and the folder has {pickled[0]}. Save it with safe_serialization=True."
    return "There are no weights in the folder: neither model.safetensors nor model.safetensors.index.json."


def read_tensors(reader: FolderReader, name: str) -> tuple[bytes, dict[str, Any]]:
    header = reader.read_header(name)
    tensors = as_object(header, f"The header of {name}")
    tensors.pop("__metadata__", None)
    num_data_bytes = reader.path(name).stat().st_size - 8 - len(header)
    for tensor, entry in tensors.items():
        if not fits(entry, num_data_bytes):
            raise Refused(f"{name} is damaged: the entry of {tensor[:200]} doesn't fit its data.")
    if not tensors:
        raise Refused(f"{name} holds no tensors.")
    return header, tensors


def fits(entry: Any, num_data_bytes: int) -> bool:
    """Return whether a header's entry is well-formed and its bytes lie inside the file."""
    if not isinstance(entry, dict) or entry.get("dtype") not in DTYPES:
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return False
    if not all(type(number) is int and number >= 0 for number in [*shape, *offsets]):
        return False
    start, end = offsets
    return bool(start <= end <= num_data_bytes and end - start == math.prod(shape) * DTYPES[entry["dtype"]])
