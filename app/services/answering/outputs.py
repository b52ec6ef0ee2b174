"""Answers of models that are not here: uploaded in AlpacaEval's shape and matched to a prompt set by the prompts' texts."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy.orm import Session

from app.domain.answering.answers import AnswersFacts, SamplingSettings, UploadedModel, fingerprint
from app.domain.answering.layout import name_part, prompts_per_part
from app.domain.answering.prompt_set import PromptMessage
from app.domain.errors import InvalidInput
from app.domain.problems import parse
from app.ingest.prompt_texts import GivenOutput, key_of, read_outputs
from app.services.names import tell_apart
from app.store.answering import answers as store
from app.store.answering.lines import read_prompts
from app.store.answering.prompt_sets import get_prompt_set
from app.store.database import add_once, now
from app.store.files.files import Files, write_atomic
from app.store.tables import Answers, PromptSet
from app.system.identifiers import new_id
from app.system.numbers import counted

NAME_LENGTH = 120
MOST_DRAWS = 64


def upload(
    session: Session, files: Files, owner_id: str, prompt_set_id: str, text: str, *, name: str = "", private: bool = False
) -> tuple[Answers, str]:
    """Return the answers of an uploaded list, and a sentence that counts what did not match. Raises NotFound, InvalidInput."""
    prompt_set = get_prompt_set(session, owner_id, prompt_set_id)
    outputs = read_outputs(text)
    model = (name or next((output.model for output in outputs if output.model), "") or "Uploaded outputs")[:200]
    uploaded = parse(UploadedModel, {"name": model}, InvalidInput)
    rows, remark = match(read_prompts(files, prompt_set), outputs, prompt_set)
    num_draws = max(row["draw"] for row in rows) + 1
    settings = SamplingSettings()
    content = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    known_by = fingerprint(prompt_set.sha256, ("upload", content), num_draws, settings)
    known = store.find_by_fingerprint(session, owner_id, known_by)
    if known is not None:
        return known, remark
    at = now(session)
    answers = Answers(
        id=new_id("answers"), owner_id=owner_id, private=private, fingerprint=known_by, prompt_set_id=prompt_set.id,
        name=tell_apart(session, Answers, owner_id, f"{model} · {prompt_set.name}"[:NAME_LENGTH]),
        model=uploaded.model_dump(mode="json"), model_name=model, num_draws=num_draws,
        sampling=settings.model_dump(mode="json"), facts=tell(rows, prompt_set).model_dump(mode="json"),
        created_at=at, used_at=at,
    )  # fmt: skip
    size = prompts_per_part(num_draws, settings.max_new_tokens)
    for number, part in split_parts(rows, size, prompt_set.num_prompts):
        lines = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in part)
        write_atomic(files.answers_dir(answers.id) / name_part(number), lines.encode())
    files.share(files.answers_dir(answers.id))
    kept = add_once(session, answers, lambda: store.find_by_fingerprint(session, owner_id, known_by))
    if kept is not answers:
        files.remove(files.answers_dir(answers.id))
    return kept, remark


def match(
    prompts: Iterable[dict[str, Any]], outputs: list[GivenOutput], prompt_set: PromptSet
) -> tuple[list[dict[str, Any]], str]:
    """Return the answers by prompt and draw, and a sentence on what did not match. Raises InvalidInput when nothing does."""
    by_prompt: dict[str, list[str]] = defaultdict(list)
    for output in outputs:
        by_prompt[output.prompt].append(output.text)
    rows, num_missing, used = [], 0, set()
    for prompt in prompts:
        key = key_of(tuple(PromptMessage.model_validate(message) for message in prompt["messages"]))
        texts = by_prompt.get(key, [])
        used.add(key)
        num_missing += not texts
        rows += [_row(prompt, draw, text) for draw, text in enumerate(texts[:MOST_DRAWS])]
    if not rows:
        raise InvalidInput.at(
            "file",
            f"None of the {len(outputs)} outputs is to a prompt of “{prompt_set.name}”: they are matched by the prompt's text.",
        )
    num_unknown = sum(len(texts) for key, texts in by_prompt.items() if key not in used)
    return rows, describe(len(rows), prompt_set.num_prompts, num_missing, num_unknown)


def describe(num_matched: int, num_prompts: int, num_missing: int, num_unknown: int) -> str:
    """Return how the outputs matched, as a sentence."""
    prompts, missing, unknown = counted(num_prompts, "prompt"), counted(num_missing, "prompt"), counted(num_unknown, "output")
    matched = f"{counted(num_matched, 'output')} {'is' if num_matched == 1 else 'are'} matched"
    told = f"{matched} to {num_prompts - num_missing} of {prompts}"
    rest = [f"{missing} {'has' if num_missing == 1 else 'have'} no output"] * (num_missing > 0)
    unused = "is to no prompt of the set and was" if num_unknown == 1 else "are to no prompt of the set and were"
    rest += [f"{unknown} {unused} left out"] * (num_unknown > 0)
    return f"{told}; {' and '.join(rest)}." if rest else f"{told}."


def _row(prompt: dict[str, Any], draw: int, text: str) -> dict[str, Any]:
    return {
        "index": prompt["index"], "prompt_id": prompt["id"], "draw": draw, "text": text, "finished": True, "num_tokens": None,
        "logprob": None,
    }  # fmt: skip


def tell(rows: list[dict[str, Any]], prompt_set: PromptSet) -> AnswersFacts:
    num_answered = len({row["index"] for row in rows})
    return AnswersFacts(
        num_prompts=prompt_set.num_prompts, num_answers=len(rows), num_finished=len(rows), num_tokens=None,
        num_missing=prompt_set.num_prompts - num_answered,
    )  # fmt: skip


def split_parts(rows: list[dict[str, Any]], size: int, num_prompts: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield each part's number with its answers; parts without any are there as well."""
    by_part: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_part[row["index"] // size].append(row)
    for number in range(-(-num_prompts // size)):
        yield number, by_part[number]
