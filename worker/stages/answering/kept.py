"""Parts of answers and scores on the disk: whole or not there, and never made anew once they are."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.domain.answering.job import AnswersSpec, OpponentSource
from app.domain.answering.layout import MODEL, SCORES, name_part, name_tokens, prompts_per_part
from app.domain.answering.prompt_set import Prompt
from app.system.files import remove_tree
from worker.stages.job import JobContext

Row = dict[str, Any]
Scorer = Callable[[Sequence[Prompt], list[Row]], list[float | None]]  # of answers to these prompts


class AnswerParts:
    """The parts of one model's answers to a prompt set."""

    def __init__(self, attempt: JobContext, spec: AnswersSpec, prompts: Sequence[Prompt]) -> None:
        self._attempt, self.folder = attempt, Path(spec.answers_dir)
        size = prompts_per_part(spec.num_draws, spec.sampling.max_new_tokens)
        self.prompts = [prompts[start : start + size] for start in range(0, len(prompts), size)]

    def claim(self, sha256: str, find_former: Callable[[], str] | None = None) -> None:
        """Take the folder for the model of this hash; what another model said under the same name goes.

        `find_former`: computes the hash by which older answers name the same model.
        """
        path = self.folder / MODEL
        kept = json.loads(path.read_bytes())["sha256"] if path.is_file() else ""
        if kept and (kept == sha256 or (find_former is not None and kept == find_former())):
            return
        if any(self.folder.glob("part-*.jsonl")):
            self._attempt.log("The model's files have changed since it gave its answers: all of them are given anew.", "warning")
        remove_tree(self.folder)
        self._attempt.write_file(path, json.dumps({"sha256": sha256}).encode())

    def list_missing(self) -> list[int]:
        """Return the numbers of the parts that are not there yet."""
        return [number for number in range(len(self.prompts)) if not (self.folder / name_part(number)).is_file()]

    def write(self, number: int, rows: Iterable[Row], tokens: Iterable[Row]) -> None:
        """Write a part, its tokens first."""
        self._attempt.write_file(self.folder / name_tokens(number), to_lines(tokens))
        self._attempt.write_file(self.folder / name_part(number), to_lines(rows))

    def read(self, number: int) -> list[Row]:
        """Return the answers of a part; of one that is not there, as of uploaded answers, none."""
        path = self.folder / name_part(number)
        return read_lines(path) if path.is_file() else []

    def list_unscored(self, key: str) -> list[int]:
        """Return the numbers of the parts that a judge has not judged yet."""
        return [number for number in range(len(self.prompts)) if not self._scores(key, number).is_file()]

    def write_scores(self, key: str, number: int, rows: Iterable[Row]) -> None:
        self._attempt.write_file(self._scores(key, number), to_lines(rows))

    def read_scores(self, key: str) -> dict[tuple[int, int], float | None]:
        """Return what a judge says of all answers, by prompt and draw."""
        return {(row["index"], row["draw"]): row["score"] for row in self.read_score_lines(key)}

    def read_score_lines(self, key: str) -> list[Row]:
        return [row for number in range(len(self.prompts)) for row in read_lines(self._scores(key, number))]

    def _scores(self, key: str, number: int) -> Path:
        return self.folder / SCORES / key / name_part(number)


def read_opponents(source: OpponentSource, indexes: Sequence[int]) -> dict[int, list[Row]]:
    """Return another model's answers to these prompts, by prompt, in the order of their draws."""
    size, wanted = prompts_per_part(source.num_draws, source.max_new_tokens), set(indexes)
    found: dict[int, list[Row]] = {}
    for number in sorted({index // size for index in wanted}):
        path = Path(source.folder) / name_part(number)
        for row in read_lines(path) if path.is_file() else ():
            if row["index"] in wanted:
                found.setdefault(row["index"], []).append(row)
    return {index: sorted(rows, key=lambda row: row["draw"]) for index, rows in found.items()}


def read_prompts(path: Path) -> list[Prompt]:
    """Return the prompts of a set's file."""
    return [Prompt.model_validate_json(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_lines(path: Path) -> list[Row]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def to_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n" for row in rows)
    return text.encode(errors="replace")
