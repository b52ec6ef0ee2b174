"""Prompt sets: made from texts, data sets and runs, and deleted when no answers speak of them. Nothing here commits.

What a set holds is gathered first, in a reading session, as a large data set takes its time; `keep` then writes it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy.orm import Session

from app.domain.answering.prompt_set import (
    Prompt,
    PromptMessage,
    PromptOrigin,
    PromptSetRequest,
    count_facts,
    number,
    to_lines,
)
from app.domain.dataset import DatasetState, Example
from app.domain.errors import Conflict, InvalidInput, NotFound
from app.ingest.prompt_texts import GivenPrompt, read_prompts
from app.services.names import tell_apart
from app.services.sharing import describe_uses, refuse_used, take
from app.store import datasets
from app.store.answering import prompt_sets as store
from app.store.answering.lines import prompts_path
from app.store.database import now
from app.store.files.files import Files, write_atomic
from app.store.runs import get_run
from app.store.signals.after_commit import after_commit
from app.store.tables import Answers, Comparison, Dataset, PromptSet
from app.system.identifiers import new_id

NAME_LENGTH = 120
HELD_OUT = "held_out.json"  # an artifact of training runs: {"validation": [example], "test": [example]}
READ_ROWS, MOST_READ = 500, 20_000  # of a larger data set, blocks are read that lie evenly spread


@dataclass(frozen=True)
class Gathered:
    """What a new prompt set will hold."""

    name: str
    prompts: list[Prompt]
    num_dropped: int
    origin: PromptOrigin


def gather(session: Session, files: Files, owner_id: str, asked: PromptSetRequest, *, filename: str = "") -> Gathered:
    """Return the prompts that are asked for; a reading session is enough. Raises InvalidInput, NotFound, Conflict."""
    if (asked.text is None) == (asked.source is None):
        raise InvalidInput.at("text", "Give the prompts as text, or name a data set or a run as their source.")
    if asked.text is not None:
        prompts, num_dropped = number(read_prompts(asked.text))
        name = asked.name or filename[:NAME_LENGTH] or f"Prompts: {prompts[0].messages[-1].content[:60]}"
        return Gathered(name, prompts, num_dropped, PromptOrigin(kind="text", filename=filename))
    assert asked.source is not None
    source = asked.source
    if (source.dataset is None) == (source.run is None):
        raise InvalidInput.at("source", "Name either a data set or a run, whose held-out prompts count.")
    if source.run is not None:
        run = get_run(session, owner_id, source.run)
        chosen = _find_held_out(files, run.id, run.name, source.part)
        dataset, name = datasets.get_dataset(session, owner_id, run.dataset_id or ""), f"{run.name}: {source.part} prompts"
        origin = PromptOrigin(kind="run", run_id=run.id, dataset_id=dataset.id, part=source.part)
    else:
        dataset, chosen = datasets.get_dataset(session, owner_id, source.dataset or ""), None
        origin, name = PromptOrigin(kind="dataset", dataset_id=dataset.id), f"Prompts of {dataset.name}"
    prompts, num_dropped = _choose(list(_read(files, dataset, chosen, source.seed)), source.num_prompts, source.seed, dataset)
    return Gathered(asked.name or name, prompts, num_dropped, origin)


def keep(
    session: Session, files: Files, owner_id: str, gathered: Gathered, *, private: bool = False, or_shared: bool = False
) -> PromptSet:
    """Write a prompt set; the owner's own of the same name and prompts, where there is one, is given instead.

    With `or_shared` one that another member shares will do as well, unless this one shall be private.
    """
    content = to_lines(gathered.prompts)
    sha256 = hashlib.sha256(content).hexdigest()
    known = store.find_same(session, owner_id, sha256)
    if known is not None and known.name == gathered.name:
        return known
    shared = store.find_shared(session, owner_id, sha256, gathered.name) if or_shared and not private else None
    if shared is not None:
        return shared
    session.info["disk"].require_room("A new prompt set")
    prompt_set = PromptSet(
        id=new_id("prompts"), owner_id=owner_id, private=private, sha256=sha256, num_prompts=len(gathered.prompts),
        name=tell_apart(session, PromptSet, owner_id, gathered.name[:NAME_LENGTH]),
        facts=count_facts(gathered.prompts, gathered.num_dropped).model_dump(mode="json"),
        source=gathered.origin.model_dump(mode="json"), created_at=now(session),
    )  # fmt: skip
    write_atomic(prompts_path(files, prompt_set.id), content)
    files.share(files.prompt_set_dir(prompt_set.id))
    session.add(prompt_set)
    session.flush()
    return prompt_set


def delete(session: Session, files: Files, owner_id: str, prompt_set_id: str) -> None:
    """Remove a prompt set with its file. Raises NotFound, Forbidden; Conflict while answers or comparisons speak of it."""
    prompt_set = take(session, owner_id, PromptSet, prompt_set_id, "deleted")
    answers = describe_uses(session, owner_id, Answers, store.list_answers_of(session, prompt_set_id))
    if answers.num:
        which = f"{answers.num} answers are" if answers.num > 1 else f"The answers {answers.name} are"
        raise answers.refuse(f"{which} to this prompt set: delete them first.", "answers")
    compared = store.list_comparisons_of(session, prompt_set_id)
    refuse_used(session, owner_id, "this prompt set", [("comparison", Comparison, compared)])
    session.delete(prompt_set)
    after_commit(session, ("remove", prompt_set_id), partial(files.remove, files.prompt_set_dir(prompt_set_id)))


def _find_held_out(files: Files, run_id: str, name: str, part: str) -> list[int]:
    try:
        told = json.loads(files.artifact_path(run_id, HELD_OUT).read_bytes())
    except NotFound:
        raise Conflict(
            f"Run “{name}” does not say what it holds out: it is of an earlier version, holds out none, or has not come so far. "
            "Launch its recipe again, or take prompts of its data set."
        ) from None
    if not told[part]:
        raise Conflict(f"Run “{name}” has no {part} prompts: its recipe holds out none for that.")
    return [int(example) for example in told[part]]


def _read(files: Files, dataset: Dataset, chosen: Sequence[int] | None, seed: int) -> Iterator[Example]:
    """Yield the examples that prompts are taken from: all, those that are chosen, or of many some that are spread evenly."""
    if dataset.state != DatasetState.READY:
        raise InvalidInput.at("source.dataset", f"The data set “{dataset.name}” is not ready: open its page.")
    num = dataset.num_examples
    if chosen is not None and num > MOST_READ:
        for example in sorted(chosen, key=lambda one: _rank(seed, str(one)))[: MOST_READ // 10]:
            yield from datasets.read_examples(files, dataset.id, after=example - 1, limit=1)
        return
    wanted = None if chosen is None else set(chosen)
    num_blocks = -(-num // READ_ROWS)
    blocks = range(num_blocks) if num <= MOST_READ else [k * num_blocks // 40 for k in range(40)]
    for block in blocks:
        after, end = block * READ_ROWS - 1, min(num, (block + 1) * READ_ROWS) - 1
        while after < end and (found := datasets.read_examples(files, dataset.id, after=after, limit=end - after)):
            yield from (example for example in found if wanted is None or example.example_id in wanted)
            after = found[-1].example_id


def _choose(examples: Sequence[Example], most: int, seed: int, dataset: Dataset) -> tuple[list[Prompt], int]:
    """Return at most so many different prompts of the examples, in their order, and how many were there twice."""
    given = [one for example in examples if (one := _take(example)) is not None]
    if not given:
        raise InvalidInput.at(
            "source", f"No prompt of “{dataset.name}” ends with a message of the user, which a model could answer."
        )
    different = {prompt.messages: prompt for prompt in reversed(given)}
    kept = sorted(different, key=lambda messages: _rank(seed, repr(messages)))[:most]
    chosen = set(kept)
    ordered = list({prompt.messages: different[prompt.messages] for prompt in given if prompt.messages in chosen}.values())
    prompts, _ = number(ordered)
    return prompts, len(given) - len(different)


def _take(example: Example) -> GivenPrompt | None:
    """Return an example's prompt, with its best response for a reference; None for one that does not end with the user."""
    messages = tuple(PromptMessage(role=message.role, content=message.content) for message in example.prompt)
    if not messages or messages[-1].role != "user" or not messages[-1].content.strip():
        return None
    best = max(example.responses, key=lambda response: (response.preference or 0, response.rating or 0.0), default=None)
    return GivenPrompt(messages, best.content if best is not None else None, ())


def _rank(seed: int, text: str) -> bytes:
    return hashlib.blake2b(f"{seed}/{text}".encode(errors="surrogatepass"), digest_size=16).digest()
