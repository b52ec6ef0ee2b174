"""The course of a run of kind answers: the model answers what it has not answered yet, and each judge judges what it has not.

One model at a time: the one that answers is gone before a reward model is loaded. What is at endpoints needs no torch: that is
imported where a model is here.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app.domain.answering.answers import AnswersFacts
from app.domain.answering.job import AnswersSpec
from app.domain.events import AnswersKept
from app.domain.run import Stage
from app.system.files import remove_unfinished
from worker.stages.answering.judging import judge_answers
from worker.stages.answering.kept import AnswerParts, read_prompts
from worker.stages.answering.served import answer_there, identify
from worker.stages.job import JobContext

if TYPE_CHECKING:
    from worker.stages.answering.sources import AnsweringSource


def answer_and_judge(attempt: JobContext, spec: AnswersSpec) -> dict[str, float | None]:
    """Make the answers and the judgements that are missing; returns the summary, which is empty: the rows tell of both."""
    prompts = read_prompts(Path(spec.prompts_path))
    attempt.refuse_superseded()
    Path(spec.answers_dir).mkdir(parents=True, exist_ok=True)
    remove_unfinished(Path(spec.answers_dir))
    parts = AnswerParts(attempt, spec, prompts)
    if spec.model is not None or spec.endpoint is not None:
        answer_all(attempt, spec, parts)
    judge_all(attempt, spec, parts)
    return {}


def answer_all(attempt: JobContext, spec: AnswersSpec, parts: AnswerParts) -> None:
    """Let the model give the answers that are not there, and tell what all of them are."""
    started = time.monotonic()
    num_all = sum(map(len, parts.prompts)) * spec.num_draws
    progress = attempt.start_stage(Stage.ANSWER, total=num_all, unit="answers")
    source = open_source(attempt, spec) if spec.endpoint is None else None
    if spec.endpoint is not None:
        parts.claim(identify(spec.endpoint))
    elif source is not None:
        parts.claim(source.sha256, partial(tell_files, spec, source))
    missing = parts.list_missing()
    done = num_all - sum(len(parts.prompts[number]) for number in missing) * spec.num_draws
    if done:
        attempt.log(f"{done} of {num_all} answers are there already.")
    progress(done, num_all)
    if missing and spec.endpoint is not None:
        answer_there(attempt, spec, spec.endpoint, parts, missing, count_up(progress, done, num_all))
    elif missing and source is not None:
        from worker.stages.answering.local import answer_here

        answer_here(attempt, spec, parts, source, missing)
    rows = [row for number in range(len(parts.prompts)) for row in parts.read(number)]
    facts = AnswersFacts(
        num_prompts=sum(map(len, parts.prompts)),
        num_answers=len(rows),
        num_finished=sum(row["finished"] for row in rows),
        num_tokens=sum(row["num_tokens"] for row in rows) if all(row["num_tokens"] is not None for row in rows) else None,
        num_missing=sum(map(len, parts.prompts)) - len({row["index"] for row in rows}),
        seconds=time.monotonic() - started,
        model_sha256=source.weights_sha256 if source is not None else None,
    )
    attempt.emit(AnswersKept(answers=facts))


def tell_files(spec: AnswersSpec, source: "AnsweringSource") -> str:
    """Return what older answers name their model by."""
    from worker.stages.answering.sources import hash_files

    return hash_files(spec, source.folder)


def open_source(attempt: JobContext, spec: AnswersSpec) -> "AnsweringSource":
    """Return the model that is here, before its weights are read. Raises ModelInvalid."""
    from worker.stages.answering.sources import find_source

    return find_source(attempt, spec)


def count_up(progress: Callable[[int, int], None], done: int, total: int) -> Callable[[int], None]:
    """Return what reports that so many more are done."""

    def more(num: int) -> None:
        nonlocal done
        done += num
        progress(done, total)

    return more


def judge_all(attempt: JobContext, spec: AnswersSpec, parts: AnswerParts) -> None:
    """Ask the judges, one after the other."""
    if not spec.judges:
        return
    total = len(spec.judges) * len(parts.prompts)
    progress = count_up(attempt.start_stage(Stage.JUDGE, total=total, unit="parts"), 0, total)
    for job in spec.judges:
        judge_answers(attempt, spec, parts, job, progress)
