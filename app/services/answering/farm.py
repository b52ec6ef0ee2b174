"""Answers become a data set: what is taken of each prompt, with where it is from, goes in as an upload of known mapping."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.domain.answering.farm import (
    MAPPINGS,
    SHAPE_TITLES,
    FarmFigures,
    FarmRequest,
    Taken,
    describe,
    gather_candidates,
    list_left_out,
    take,
)
from app.domain.answering.prompt_set import PromptMessage, interleave
from app.domain.dataset import DatasetOrigin
from app.domain.errors import Conflict, InvalidInput
from app.services import datasets
from app.store.answering.answers import get_answers
from app.store.answering.lines import read_answers, read_prompts, read_scores
from app.store.files.files import Files
from app.store.sharing import NOBODY, find_visible
from app.store.tables import Answers, Dataset, Judgement, PromptSet

NAME_LENGTH = 120
Harvest = dict[int, Taken]  # by the prompt's index


def preview(session: Session, files: Files, owner_id: str, answers_id: str, asked: FarmRequest) -> FarmFigures:
    """Return what a farm would hold. Raises NotFound; InvalidInput for a judge that was not asked; Conflict before it is done."""
    answers = get_answers(session, owner_id, answers_id)
    judgement = get_judgement(session, answers, asked.judge)
    return describe(harvest(session, files, answers, judgement, asked).values())


def make(session: Session, files: Files, owner_id: str, answers_id: str, asked: FarmRequest) -> Dataset:
    """Return a new data set, in state processing, of what the answers give. Raises as `preview`; InvalidInput for nothing."""
    answers = get_answers(session, owner_id, answers_id)
    judgement = get_judgement(session, answers, asked.judge)
    found = harvest(session, files, answers, judgement, asked)
    if not any(taken.rows for taken in found.values()):
        raise InvalidInput.at(
            "margin",
            f"No prompt gives anything: {'; '.join(list_left_out(describe(found.values())))}.",
        )
    name = asked.name or f"{SHAPE_TITLES[asked.shape]}: {answers.name}"[:NAME_LENGTH]
    is_hidden = find_visible(session, Answers, NOBODY, answers.id) is None
    with files.open_upload() as upload:
        for row in to_rows(
            read_prompts(files, session.get_one(PromptSet, answers.prompt_set_id)), found, tell(answers, judgement)
        ):
            upload.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        return datasets.upload(
            session, files, owner_id=owner_id, private=is_hidden, name=name,
            filename=f"{answers.id}-{asked.shape.value}.jsonl", upload=upload,
            mapping=MAPPINGS[asked.shape], made_from=DatasetOrigin(answers=answers.id, judge=judgement.key),
        )  # fmt: skip


def harvest(session: Session, files: Files, answers: Answers, judgement: Judgement, asked: FarmRequest) -> Harvest:
    """Return what is taken of every prompt."""
    num_prompts = session.get_one(PromptSet, answers.prompt_set_id).num_prompts
    candidates = gather_candidates(read_answers(files, answers), read_scores(files, answers, judgement.key))
    return {index: take(candidates.get(index, ()), asked.shape, asked.margin) for index in range(num_prompts)}


def get_judgement(session: Session, answers: Answers, key: str) -> Judgement:
    """Return what a judge says of the answers. Raises InvalidInput for one that was not asked; Conflict before all is there."""
    known = list(session.scalars(select(Judgement).where(Judgement.answers_id == answers.id).order_by(Judgement.id)))
    found = next((judgement for judgement in known if judgement.key == key), None)
    if found is None:
        there = (
            f"they were judged by {', '.join(f'{one.name} ({one.key})' for one in known)}" if known else "nobody has judged them"
        )
        raise InvalidInput.at("judge", f"These answers have no scores of the judge {key!r}: {there}.")
    if answers.facts is None or found.facts is None:
        what = "has not judged these answers yet" if answers.facts else "can't judge answers that are not all there yet"
        raise Conflict(f"“{found.name}” {what}: wait for the run that makes them.")
    return found


def tell(answers: Answers, judgement: Judgement) -> dict[str, Any]:
    """Return where every row is from."""
    facts, judged = answers.facts or {}, judgement.facts or {}
    return {
        "answers": answers.id, "model": answers.model_name, "model_sha256": facts.get("model_sha256"),
        "sampling": answers.sampling, "judge": judgement.name, "judge_sha256": judged.get("model_sha256"),
    }  # fmt: skip


def to_rows(prompts: list[dict[str, Any]], found: Harvest, told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the data set's file, in the order of the prompts."""
    for prompt in prompts:
        taken = found.get(prompt["index"])
        for row in taken.rows if taken else []:
            own = {"prompt_id": prompt["id"], "draws": row["draws"]}
            taken_over = {key: value for key, value in row.items() if key not in ("draws", "earlier")}
            yield {"prompt": write_prompt(prompt["messages"], row.get("earlier", ())), **taken_over, "source": told | own}


def write_prompt(messages: list[dict[str, Any]], earlier: Sequence[str]) -> list[dict[str, Any]]:
    """Return the conversation that the responses end, with the model's own answers before its last turn."""
    if not earlier:
        return messages
    return [turn.model_dump() for turn in interleave([PromptMessage.model_validate(one) for one in messages], earlier)]
