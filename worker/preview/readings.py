"""Answers to ReadingJobs: by a model's tokenizer alone; its weights stay where they are."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from app.domain.dataset import Message
from app.domain.errors import InvalidInput, ModelInvalid
from app.domain.jobs import ModelSource
from app.domain.memory import fit_window
from app.domain.preview.readings import (
    AnswerReading,
    AnyReading,
    ConversationReading,
    ConversationRequest,
    ExampleReading,
    ExampleRequest,
    LengthCounts,
    LengthsReading,
    LengthsRequest,
    ReadingJob,
    Stops,
    TokenView,
)
from worker.models.encode import encode, encode_whole
from worker.models.load import context_window, hash_tokenizer, load_config, load_tokenizer, resolve_tokenizer
from worker.models.prompts import Conversation, Prompted, PromptedIds, PromptFormat
from worker.models.template import ChatTurn, PromptRefused, TemplateExceeded
from worker.preview.left_out import Tally
from worker.preview.probes import describe
from worker.preview.sample import Row, as_prompted, count_examples, draw_sample, open_examples, read_row
from worker.preview.views import TokenWriter, list_eos

UNLIMITED = 2**30  # tokens
AT_ONCE = 256  # examples that are tokenised together
MOST_ANSWERS = 4
SYSTEM = ("system", "developer")


@dataclass(frozen=True)
class Reader:
    """A model as far as it reads: its folder, how it writes conversations, and its context window."""

    folder: Path
    format: PromptFormat
    window: int | None


def read(job: ReadingJob) -> AnyReading:
    """Return the reading that was asked for. Raises ModelInvalid, RecipeInvalid, InvalidInput, NotFound."""
    request, is_policy = job.request, job.kind == "policy"
    reader = open_reader(job, job.model, request.prompt_format if is_policy else "auto")
    if isinstance(request, ConversationRequest):
        return read_conversation(reader, request, is_policy=is_policy)
    if isinstance(request, LengthsRequest):
        return measure(reader, Path(job.dataset_path), request)
    return read_example(reader, job, request)


def open_reader(job: ReadingJob, source: ModelSource, prompt_format: str) -> Reader:
    folder = resolve_tokenizer(source, Path(job.hub_dir))
    chosen = PromptFormat.choose(load_tokenizer(folder), prompt_format, job.request.day)
    return Reader(folder, chosen, context_window(load_config(folder)))


def read_conversation(reader: Reader, request: ConversationRequest, *, is_policy: bool) -> ConversationReading:
    """Return how the model reads a conversation; one whose system turn is refused is shown without it."""
    *turns, answer = [as_turn(message) for message in request.messages]
    templates = reader.format.tokenizer.chat_template
    reading = ConversationReading(
        format="chat" if reader.format.chat else "plain",
        view=None,
        templates=sorted(templates) if isinstance(templates, dict) else [],
    )
    try:
        reader.format.check("The model")
        reading = reading.model_copy(update={"notes": describe(reader.format, learns=is_policy)})
    except ModelInvalid as unusable:
        return reading.model_copy(update={"unusable": unusable.detail})
    view, refused = None, ""
    for tried in (tuple(turns), tuple(turn for turn in turns if turn.role not in SYSTEM)):
        try:
            row = Prompted(tried, [answer])
            view = learn(reader, row) if is_policy else hear(reader, row.with_answer(0))
            break
        except PromptRefused as refusal:
            refused = refused or f"{refusal}."
    return reading.model_copy(update={"view": view, "refused": refused, "stops": find_stops(reader) if is_policy else None})


def as_turn(message: Message) -> ChatTurn:
    carried = json.dumps(message.fields, sort_keys=True) if message.fields else ""
    return ChatTurn(message.role, message.content, carried)


def learn(reader: Reader, row: Prompted) -> TokenView:
    """Return a prompt with its one answer as a policy learns it; raises PromptRefused."""
    [found] = encode(reader.format, [row], UNLIMITED, UNLIMITED)
    if isinstance(found, PromptRefused):
        raise found
    return TokenWriter(reader.format).view(found.prompt_ids, found.answers[0], prompt_cut=found.is_cut)


def hear(reader: Reader, conversation: Conversation) -> TokenView:
    """Return a whole conversation as a reward model reads it; raises PromptRefused."""
    [ids], num_cut = encode_whole(reader.format, [conversation], reader.window)
    return TokenView(runs=[TokenWriter(reader.format).run("read", ids)], prompt_cut=bool(num_cut))


def find_stops(reader: Reader) -> Stops:
    """Return what ends an answer that is generated."""
    writer = TokenWriter(reader.format)
    try:
        generation = json.loads((reader.folder / "generation_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        generation = {}
    listed = [number for number in list_eos(generation) if number not in reader.format.end_ids]
    return Stops(
        tokens=writer.write(sorted(reader.format.end_ids)), text=reader.format.end_text,
        listed=tuple(token for number in listed for token in writer.write([number])),
    )  # fmt: skip


def read_example(reader: Reader, job: ReadingJob, request: ExampleRequest) -> ExampleReading:
    """Return an example as it is learned at these lengths, and as the reward model reads what is learned."""
    file = open_examples(Path(job.dataset_path))
    row = read_row(file, request.example)
    num_examples = count_examples(file, None)
    if row is None:
        raise InvalidInput.at("example", f"The data set has {num_examples} examples; the first is number 0.")
    reader.format.check("The policy")
    max_prompt, max_response = fit_window(request.max_prompt, request.max_response, reader.window)
    prompted = as_prompted(row)
    [found] = encode(reader.format, [prompted], max_prompt, max_response)
    reading = ExampleReading(
        example=request.example, line=row["line"], num_examples=num_examples, num_answers=len(prompted.answers), answers=[],
        max_prompt=max_prompt, max_response=max_response,
    )  # fmt: skip
    if isinstance(found, PromptRefused):
        return reading.model_copy(update={"refused": f"{found}."})
    heard, refused = hear_answers(job, prompted, found) if job.reward else ([], "")
    writer = TokenWriter(reader.format)
    answers = [
        AnswerReading(
            response=number, preference=response["preference"], rating=response["rating"],
            learned=writer.view(found.prompt_ids, answer, prompt_cut=found.is_cut), read=heard[number] if heard else None,
        )
        for number, (response, answer) in enumerate(zip(row["responses"][:MOST_ANSWERS], found.answers, strict=False))
    ]  # fmt: skip
    return reading.model_copy(update={"answers": answers, "omitted": list(found.omitted), "reward_refused": refused})


def hear_answers(job: ReadingJob, prompted: Prompted, found: PromptedIds) -> tuple[list[TokenView], str]:
    """Return the first answers as the reward model reads them, of those that were cut what is left; or why it can't."""
    assert job.reward is not None
    views = []
    try:
        judge = open_reader(job, job.reward, "auto")
        for turn, answer in list(zip(prompted.answers, found.answers, strict=True))[:MOST_ANSWERS]:
            learned = ChatTurn("assistant", answer.content, "" if answer.is_cut else turn.fields)
            views.append(hear(judge, Conversation(found.turns, learned, prompted.tools)))
    except PromptRefused as refused:
        return [], f"{refused}."
    except ModelInvalid as invalid:
        return [], invalid.detail
    return views, ""


def measure(reader: Reader, path: Path, request: LengthsRequest) -> LengthsReading:
    """Return how long a sample of the data set is in this model's tokens, and what its template refuses or leaves out of it."""
    if not request.whole:
        reader.format.check("The policy")
    file = open_examples(path)
    tally = Tally()
    for rows in chunk(draw_sample(file, request.max_examples)):
        tally.num_examples += len(rows)
        measure_whole(reader, rows, tally) if request.whole else measure_parts(reader, rows, tally)
    return LengthsReading(
        num_examples=count_examples(file, request.max_examples),
        num_sampled=tally.num_examples,
        prompts=LengthCounts.of(tally.prompts),
        responses=LengthCounts.of(tally.responses),
        window=reader.window,
        refused=tally.refused.told(),
        omitted=tally.omitted.told(),
        tokenizer_sha256=hash_tokenizer(reader.folder),
    )


def chunk(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while rows_together := list(islice(left, AT_ONCE)):
        yield rows_together


def measure_parts(reader: Reader, rows: Sequence[Row], tally: Tally) -> None:
    """Count prompts and responses as a policy learns them, of any length."""
    try:
        encoded = encode(reader.format, [as_prompted(row) for row in rows], UNLIMITED, UNLIMITED)
    except TemplateExceeded as exceeded:
        raise exceeded.in_row(rows[exceeded.number]["line"]) from exceeded
    for row, found in zip(rows, encoded, strict=True):
        if isinstance(found, PromptRefused):
            tally.refused.add(str(found), row["line"])
            continue
        tally.prompts.append(len(found.prompt_ids))
        tally.responses += [len(answer.ids) for answer in found.answers]
        for name in found.omitted:
            tally.omitted.add(name, row["line"])


def measure_whole(reader: Reader, rows: Sequence[Row], tally: Tally) -> None:
    """Count whole conversations as a reward model reads them."""
    for row in rows:
        prompted = as_prompted(row)
        conversations = [prompted.with_answer(number) for number in range(len(prompted.answers))]
        try:
            tally.responses += [len(ids) for ids in reader.format.encode_conversations(conversations)]
        except PromptRefused as refused:
            tally.refused.add(str(refused), row["line"])
