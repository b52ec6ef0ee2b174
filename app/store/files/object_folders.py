"""Folders in the object store, whole or absent: the files first, under a name of their own, then the marker that points to them.

    <key>/.tree.json               {"version", "files": {name: {"place", "size", "sha256"}}}, replaced as a whole
    <key>/<version>/<name>         never changed once it is there

So a writer that is killed leaves no half of a folder, two writers never mix, and a reader knows what must arrive. A copy on
this machine carries the marker it was made from, which tells at the next use whether it is current.
"""

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.domain.errors import NotFound
from app.store.files.files import write_atomic
from app.store.files.objects import Check, ObjectDamaged, ObjectStore
from app.system.files import filling, hash_file, link_or_copy, name_beside, never, remove_tree, sync

MARKER = ".tree.json"


@dataclass(frozen=True)
class Stored:
    """One file of a tree. `place`: below the tree's key."""

    place: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Tree:
    version: str
    files: Mapping[str, Stored]

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Tree":
        """Raises ValueError when it is no marker."""
        try:
            found = json.loads(content)
            files = {str(name): Stored(str(facts["place"]), int(facts["size"]), str(facts["sha256"]))
                     for name, facts in found["files"].items()}  # fmt: skip
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("it is no marker of a folder") from error
        if any(not _is_inside(name) for name in files):
            raise ValueError("it names a file outside its folder")
        return cls(str(found["version"]), files)


def find_tree(store: ObjectStore, key: str) -> Tree | None:
    """Return the folder as its marker says; None when it isn't there, or not whole. Raises Unavailable."""
    content = store.read(f"{key}/{MARKER}")
    if content is None:
        return None
    try:
        return Tree.from_bytes(content)
    except ValueError as error:
        raise ObjectDamaged(f"The studio's store holds {key} damaged: {error}.") from error


def put_tree(store: ObjectStore, key: str, files: Mapping[str, Path], *, known: Tree | None = None, check: Check = never) -> Tree:
    """Store these files, by name, as the folder `key`, in place of what was there. Files that `known` has are not sent again."""
    version = secrets.token_hex(8)
    stored: dict[str, Stored] = {}
    for name, path in sorted(files.items()):
        check()
        facts = Stored(f"{version}/{name}", path.stat().st_size, hash_file(path, check))
        before = known.files.get(name) if known else None
        if before is not None and (before.size, before.sha256) == (facts.size, facts.sha256):
            stored[name] = before
            continue
        store.put_file(path, f"{key}/{facts.place}", check)
        stored[name] = facts
    if known is not None and stored == dict(known.files):
        return known
    tree = Tree(version, stored)
    store.write(f"{key}/{MARKER}", tree.to_bytes())
    if known is not None:
        kept = {file.place for file in stored.values()}
        for old in known.files.values():
            if old.place not in kept:
                store.remove(f"{key}/{old.place}")
    return tree


def put_folder(store: ObjectStore, key: str, folder: Path, check: Check = never) -> Tree:
    """Store a whole local folder, but for hidden files; it is then known to be current here."""
    tree = put_tree(store, key, list_files(folder), known=find_tree(store, key), check=check)
    write_atomic(folder / MARKER, tree.to_bytes())
    return tree


def list_files(folder: Path) -> dict[str, Path]:
    """Return the files of a local folder by their path in it; hidden ones, and what lies in hidden folders, are passed over."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = {str(path.relative_to(folder)): path for path in paths}
    return {name: path for name, path in sorted(names.items()) if not any(part.startswith(".") for part in name.split("/"))}


def fetch_tree(
    store: ObjectStore, key: str, to: Path, *, only: Iterable[str] | None = None, check: Check = never, trusting: bool = False
) -> Tree:
    """Have the folder here as it is in the store: nothing is done when the copy is current, else it is replaced as a whole.

    `only`: these files of it. `trusting`: also with files that did not arrive as they were stored, for a reader that verifies
    them itself. Raises NotFound when it isn't in the store; Damaged.
    """
    tree = _get_tree(store, key)
    names = set(tree.files) if only is None else set(only) | {name for name in tree.files if (to / name).is_file()}
    if read_local(to) == tree:
        missing = [name for name in names if not (to / name).is_file()]
        _fetch_files(store, key, tree, missing, to, check, trusting)
        return tree
    with filling(to) as temporary:
        _keep_same(to, tree, names, temporary)
        try:
            _fetch_files(store, key, tree, names, temporary, check, trusting)
        except NotFound:  # perhaps replaced by a newer version meanwhile
            before, tree = tree, _get_tree(store, key)
            if tree == before:
                raise ObjectDamaged(f"The studio's store holds {key} damaged: a file of it is missing.") from None
            _keep_same(to, tree, (), temporary)
            _fetch_files(store, key, tree, names, temporary, check, trusting)
        write_atomic(temporary / MARKER, tree.to_bytes())
        _swap(temporary, to)
    return tree


def _keep_same(old: Path, tree: Tree, names: Iterable[str], new: Path) -> None:
    """Start the new copy with what the old one has of it already."""
    remove_tree(new)
    new.mkdir(parents=True)
    before = read_local(old)
    for name in names:
        same = before is not None and name in tree.files and before.files.get(name) == tree.files[name]
        if same and (old / name).is_file():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(old / name, new / name)


def _get_tree(store: ObjectStore, key: str) -> Tree:
    tree = find_tree(store, key)
    if tree is None:
        raise NotFound(f"The studio's store holds no {key}.")
    return tree


def _fetch_files(store: ObjectStore, key: str, tree: Tree, names: Iterable[str], to: Path, check: Check, trusting: bool) -> None:
    for name in sorted(set(names) & set(tree.files)):
        if not (to / name).is_file():
            _fetch_one(store, key, tree.files[name], to / name, check, trusting)


def read_local(folder: Path) -> Tree | None:
    """Return what the copy on this machine was made from; None when it was made here, or isn't there."""
    try:
        return Tree.from_bytes((folder / MARKER).read_bytes())
    except (OSError, ValueError):
        return None


def fetch_member(store: ObjectStore, key: str, file: Stored, to: Path, check: Check = never) -> None:
    """One file of a tree, verified. Raises NotFound, Damaged."""
    store.fetch_file(f"{key}/{file.place}", to, sha256=file.sha256, check=check)


def _fetch_one(store: ObjectStore, key: str, file: Stored, to: Path, check: Check, trusting: bool) -> None:
    try:
        fetch_member(store, key, file, to, check)
    except (ObjectDamaged, NotFound):
        if not trusting:
            raise
        try:
            store.fetch_file(f"{key}/{file.place}", to, check=check)
        except NotFound:
            return


def _swap(new: Path, place: Path) -> None:
    old = name_beside(place)
    if place.exists():
        place.rename(old)
    new.rename(place)
    sync(place.parent)
    remove_tree(old)


def _is_inside(name: Any) -> bool:
    return bool(name) and not name.startswith("/") and "\0" not in name and not {"", ".", ".."} & set(name.split("/"))
