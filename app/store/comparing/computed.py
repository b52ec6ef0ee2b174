"""What is computed of a comparison once and then read: figures, scores by prompt, and texts with where each prompt's begin.

comparisons/<id>/<digest>/figures.json  rows.json  texts.jsonl  votes-<digest>.json
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from app.domain.comparing.figures import Figures, PromptRows
from app.domain.dataset import Frozen
from app.domain.errors import Unavailable
from app.store.files.files import Files, disk_full_is_unavailable, write_atomic
from app.system.files import remove_tree

Line = dict[str, Any]
Content = TypeVar("Content", bound=Frozen)
FIGURES, ROWS, TEXTS = "figures.json", "rows.json", "texts.jsonl"


@dataclass(frozen=True)
class Computed:
    """The computed parts of one comparison, as of one state of its answers and judgements."""

    folder: Path
    figures: Figures
    rows: PromptRows

    def read_texts(self, prompts: Iterable[int]) -> list[Line]:
        """Return prompts and answers: id, messages, reference, tags, answers (by model and draw: text, finished, scores)."""
        found = []
        with replaced_is_unavailable(), (self.folder / TEXTS).open("rb") as file:
            for prompt in prompts:
                file.seek(self.rows.offsets[prompt])
                found.append(json.loads(file.readline()))
        return found

    def search(self, needle: str) -> set[int]:
        """Return the prompts in whose texts, or their answers', the words stand, whatever their case."""
        wanted = json.dumps(needle.strip(), ensure_ascii=False)[1:-1].lower()
        with replaced_is_unavailable(), (self.folder / TEXTS).open(encoding="utf-8") as file:
            return {place for place, line in enumerate(file) if wanted in line.lower()}


@contextmanager
def replaced_is_unavailable() -> Iterator[None]:
    """Turn the loss of what was found, as something newer was computed since, into a sentence for the user."""
    try:
        yield
    except FileNotFoundError as error:
        raise Unavailable("This comparison has just been computed anew, or deleted: load the page again.") from error


def find_kept(files: Files, comparison_id: str, digest: str) -> Computed | None:
    """Return what was computed of this state; None where it was not yet, or can't be read."""
    folder = files.comparison_dir(comparison_id) / digest
    try:
        figures = Figures.model_validate_json((folder / FIGURES).read_bytes())
        return Computed(folder, figures, PromptRows.model_validate_json((folder / ROWS).read_bytes()))
    except (OSError, ValueError):
        return None


def keep(files: Files, comparison_id: str, digest: str, figures: Figures, rows: PromptRows, lines: Sequence[bytes]) -> Computed:
    """Write what was computed, whole or not at all; what was computed of an earlier state goes."""
    place = files.comparison_dir(comparison_id)
    temporary = place / f".{digest}.{os.getpid()}.partial"
    with disk_full_is_unavailable():
        remove_tree(temporary)
        temporary.mkdir(parents=True)
        (temporary / FIGURES).write_text(figures.model_dump_json(), encoding="utf-8")
        (temporary / ROWS).write_text(rows.model_dump_json(), encoding="utf-8")
        (temporary / TEXTS).write_bytes(b"".join(lines))
        for earlier in [path for path in place.iterdir() if path != temporary]:
            remove_tree(earlier)
        temporary.rename(place / digest)
    return Computed(place / digest, figures, rows)


def read_votes(kept: Computed, digest: str, shape: type[Content]) -> Content | None:
    """Return the figures of exactly these votes, where they were computed."""
    try:
        return shape.model_validate_json(_votes_path(kept, digest).read_bytes())
    except (OSError, ValueError):
        return None


def keep_votes(kept: Computed, digest: str, figures: Frozen) -> None:
    """Write the figures of these votes in place of those before."""
    path = _votes_path(kept, digest)
    for earlier in kept.folder.glob("votes-*.json"):
        earlier.unlink(missing_ok=True)
    write_atomic(path, figures.model_dump_json().encode())


def _votes_path(kept: Computed, digest: str) -> Path:
    return kept.folder / f"votes-{digest}.json"
