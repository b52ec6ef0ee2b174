"""The files of hosts that share no folder: the data folder is working space and cache, the object store is what all see.

A key is the path below the data folder. Whole folders (a data set, a model, a scoring, a checkpoint) are trees. What an attempt
of a run makes lies below its own number, so an attempt that lost its run can't touch what a later one has made:

    datasets/<id>/  models/<id>/  scorings/<key>/
    runs/<id>/attempts/<n>/artifacts/   one tree that grows      runs/<id>/attempts/<n>/checkpoints/step-…/   log.txt
"""

from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from app.domain.errors import NotFound
from app.settings import Settings
from app.store.files.files import Files
from app.store.files.object_folders import Tree, fetch_member, fetch_tree, find_tree, put_folder
from app.store.files.objects import Check, ObjectStore
from app.system.files import never, remove_tree

FETCHED = "fetched"  # below a run's folder: what was fetched to be served, by content


def open_files(settings: Settings) -> Files:
    """Return the studio's files as the settings place them."""
    if not settings.store_url:
        return Files(settings.root)
    return SharedFiles(settings.root, ObjectStore(settings.store_url, settings.store_endpoint))


class SharedFiles(Files):
    """Reads fetch what isn't here, or is here in an older version. What was made before there was a store is read from here."""

    def __init__(self, root: Path, store: ObjectStore) -> None:
        super().__init__(root)
        self.store = store

    def key_of(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def bring(self, folder: Path, only: Collection[str] | None = None, check: Check = never) -> None:
        """Raises Unavailable; nothing is done for a folder that the store doesn't have."""
        with suppress(NotFound):
            fetch_tree(self.store, self.key_of(folder), folder, only=only, check=check)

    def share(self, folder: Path) -> None:
        put_folder(self.store, self.key_of(folder), folder)

    def remove(self, folder: Path) -> None:
        remove_tree(folder)
        self.store.remove(self.key_of(folder))

    def artifact_path(self, run_id: str, name: str) -> Path:
        for key, tree in self.artifact_trees(run_id):
            if (file := tree.files.get(name)) is not None:
                path = self.run_dir(run_id) / FETCHED / file.sha256 / Path(name).name
                if not path.is_file():
                    fetch_member(self.store, key, file, path)
                return path
        return super().artifact_path(run_id, name)

    def list_there(self, run_id: str, names: Collection[str]) -> set[str]:
        stored = {name for _, tree in self.artifact_trees(run_id) for name in tree.files} & set(names)
        return stored | Files(self.root).list_there(run_id, set(names) - stored)

    def result_dir(self, run_id: str) -> Path:
        for key, tree in self.artifact_trees(run_id):
            if names := [name for name in tree.files if name.startswith("model/")]:
                folder = self.run_dir(run_id) / FETCHED / tree.version
                fetch_tree(self.store, key, folder, only=names)
                return folder / "model"
        return super().result_dir(run_id)

    def log_path(self, run_id: str, number: int) -> Path:
        here = super().log_path(run_id, number)
        if here.is_file():
            return here
        copy = self.run_dir(run_id) / FETCHED / f"log-{int(number)}.txt"
        with suppress(NotFound):
            self.store.fetch_file(self.key_of(here), copy)
        return copy

    def artifact_trees(self, run_id: str) -> Iterator[tuple[str, Tree]]:
        """(key, tree) of what each attempt has left, the newest attempt first."""
        attempts = self.run_dir(run_id) / "attempts"
        numbers = [int(name) for name in self.store.list_names(self.key_of(attempts)) if name.isdecimal()]
        for number in sorted(numbers, reverse=True):
            key = f"{self.key_of(self.attempt_dir(run_id, number))}/artifacts"
            if (tree := find_tree(self.store, key)) is not None:
                yield key, tree
