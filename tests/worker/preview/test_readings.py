"""Readings by tokenizers alone: what is shown is what encode() learns, refusals are told, and samples are spread."""

import json
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.domain.dataset import Message
from app.domain.errors import InvalidInput, ModelInvalid, NotFound
from app.domain.jobs import ModelSource
from app.domain.preview.readings import ConversationRequest, ExampleRequest, LengthsRequest, ReadingJob
from tests.worker.models.families import FAMILIES, REFUSED, Family
from worker.models.encode import encode, encode_whole
from worker.models.load import load_tokenizer
from worker.models.prompts import Prompted, PromptFormat
from worker.models.template import ChatTurn
from worker.preview import sample, views
from worker.preview.readings import read
from worker.preview.sample import draw_sample, open_examples, read_row, spread

DAY = date(2026, 2, 3)
TALK = [("system", "Be brief."), ("user", "Which fruit is red? Été 漢字"), ("assistant", "An apple 🙂.")]


def save(family, folder, **config):
    folder.mkdir(exist_ok=True)
    family.tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 512, **config}))
    return ModelSource(source="folder", path=str(folder))


def talk(source, messages=TALK, kind="policy", **parts):
    request = ConversationRequest(
        model_id="m", messages=[Message(role=role, content=content) for role, content in messages], day=DAY, **parts
    )
    return read(ReadingJob(request=request, kind=kind, model=source, hub_dir="/nowhere"))


def ids_of(view, *parts):
    return [token.id for run in view.runs if not parts or run.part in parts for token in (*run.head, *run.tail)]


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """A folder of each family, made when it is first asked for."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = save(FAMILIES[name], tmp_path_factory.mktemp("family"))
        return made[name]

    return get


@pytest.mark.parametrize("name", FAMILIES)
def test_a_conversation_is_shown_as_it_is_learned(families, name):
    family, source = FAMILIES[name], families(name)
    reading = talk(source)
    prompt_format = PromptFormat.choose(load_tokenizer(source.path), day=DAY)
    turns = [ChatTurn(role, content) for role, content in TALK[:-1] if not (family.refuses and role == "system")]
    [found] = encode(prompt_format, [Prompted(tuple(turns), [ChatTurn(*TALK[-1])])], 999, 999)
    overlap = found.answers[0].overlap
    assert ids_of(reading.view, "prompt") == found.prompt_ids[: len(found.prompt_ids) - overlap]
    assert ids_of(reading.view, "opening", "answer", "end") == found.answers[0].ids
    end = "".join(token.text for run in reading.view.runs if run.part == "end" for token in run.head)
    assert end.strip() == family.ends.strip()
    assert reading.stops.text or {token.text for token in reading.stops.tokens} == {end.split()[-1]}
    assert (family.refuses in reading.refused) if family.refuses else reading.refused == ""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("chatml on a base model", "Turns end with <|im_end|>, not with the tokenizer's end-of-text token <|endoftext|>"),
        ("chatml with tokens that nobody knows", 'No single token ends a turn, but the text "<|im_end|>"'),
        ("model for assistant, trims, refuses system", "The chat template trims the white space around answers."),
        ("model for assistant, trims, refuses system", "A system turn: the chat template refuses it: no system turn, please."),
        ("model for assistant, trims, refuses system", "Two user turns in a row: the chat template refuses it: roles must"),
        (
            "eos behind finished chats alone",
            'Behind the end of the turn the template writes "<|endoftext|>", which is not learned',
        ),
        ("headers, trims, writes the date", 'without a system turn the chat template writes "<s><|begin_header|>system'),
        ("headers, trims, writes the date", "a run keeps the day of its launch, here 2026-02-03"),
        ("names and colons, no generation prompt", 'knows no generation prompt, so "ASSISTANT:" is added to every prompt'),
        ("an empty think block in finished turns", "Finished turns open with"),
        ("instructions and responses, ended by nothing", "ends turns with nothing, so the tokenizer's end-of-text token </s> is"),
        ("leaves system turns out", "The chat template leaves out reasoning, system turns, tool calls, tools."),
    ],
)
def test_what_a_template_does_otherwise_is_told(families, name, sentence):
    assert any(sentence in note for note in talk(families(name)).notes)


def test_a_template_that_does_as_most_do_is_told_of_what_it_leaves_out_alone(families):
    assert talk(families("tools and tool calls")).notes[1:] == ["The chat template leaves out reasoning."]


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_can_not_be_learned_is_refused_with_the_difference(tmp_path, name):
    template, _ = REFUSED[name]
    reading = talk(save(Family(template, ""), tmp_path))
    assert reading.view is None
    assert reading.unusable.startswith("The model can't be used with its chat template: ")
    assert "choose plain turns" in reading.unusable


def test_named_templates_are_listed_and_generation_settings_too(families, tmp_path):
    assert talk(families("named templates")).templates == ["default", "tool_use"]
    source = save(FAMILIES["chatml on a base model"], tmp_path)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [2, 1]}')
    names = load_tokenizer(tmp_path).convert_ids_to_tokens([2, 1])
    stops = talk(source).stops
    assert {token.text for token in (*stops.tokens, *stops.listed)} == {"<|im_end|>", *names}


def test_plain_turns_are_said_to_be_plain(families):
    reading = talk(families("chatml on a base model"), prompt_format="plain")
    assert reading.format == "plain"
    assert (
        reading.notes[0] == "The tokenizer's chat template is not used: conversations are written as plain Human/Assistant turns."
    )
    assert "Plain turns have no end of their own, so the tokenizer's end-of-text token <|endoftext|> is put" in reading.notes[1]
    assert "Human: Which fruit is red?" in "".join(token.text for run in reading.view.runs for token in run.head)


def test_letters_of_several_tokens_are_shown_by_their_bytes(families):
    texts = [token.text for run in talk(families("chatml on a base model")).view.runs for token in run.head]
    assert not any("\ufffd" in text for text in texts)
    assert any(text.startswith("\\xf0") for text in texts)


def test_a_reward_model_reads_the_whole_conversation(families):
    source = families("eos behind finished chats alone")
    reading = talk(source, kind="reward")
    prompt_format = PromptFormat.choose(load_tokenizer(source.path), day=DAY)
    conversation = Prompted(tuple(ChatTurn(*turn) for turn in TALK[:-1]), [ChatTurn(*TALK[-1])]).with_answer(0)
    assert [ids_of(reading.view, "read")] == encode_whole(prompt_format, [conversation], None)[0]
    assert reading.stops is None
    assert reading.notes == ["The chat template leaves out reasoning, tool calls, tools."]


def test_of_many_tokens_the_middle_is_left_out(families, monkeypatch):
    monkeypatch.setattr(views, "HEAD", 3)
    monkeypatch.setattr(views, "TAIL", 2)
    [*_, answer, end] = talk(families("chatml on a base model"), [*TALK[:-1], ("assistant", "1 2 3 4 5 6 7 8 9")]).view.runs
    assert (len(answer.head), len(answer.tail), answer.num_hidden) == (3, 2, answer.num_tokens - 5)
    assert [token.text for token in end.head] == ["<|im_end|>"]


def write(path, prompts, answers, group=None):
    rows = [
        {
            "example_id": k, "line": 10 + k, "tools": None, "meta": "{}",
            "prompt": [{"role": role, "content": content, "fields": None} for role, content in turns],
            "responses": [
                {"content": text, "rating": None, "preference": 1 - 2 * n, "fields": None} for n, text in enumerate(texts)
            ],
        }
        for k, (turns, texts) in enumerate(zip(prompts, answers, strict=True))
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return str(path)


def ask(source, path, request, reward=None):
    return read(ReadingJob(request=request, kind="policy", model=source, reward=reward, hub_dir="/nowhere", dataset_path=path))


def test_an_example_is_shown_as_it_is_cut_and_its_reward_is_of_what_is_left(families, tmp_path):
    source, reward = families("chatml on a base model"), families("eos behind every turn")
    path = write(tmp_path / "e.parquet", [[("user", "Hello there")]] * 2, [["Short.", "1, 2, 3. " * 9]] * 2)
    request = ExampleRequest(model_id="m", dataset_id="d", example=1, max_prompt=100, max_response=12, day=DAY)
    reading = ask(source, path, request, reward)
    short, long = reading.answers
    assert (reading.line, reading.num_examples, short.preference, long.preference) == (11, 2, 1, -1)
    assert (short.learned.answer_cut, long.learned.answer_cut) == (False, True)
    assert long.learned.count("opening", "answer", "end") == 12
    assert [run.part for run in long.learned.runs] == ["prompt", "answer"]
    heard = "".join(token.text for run in long.read.runs for token in (*run.head, *run.tail))
    left = "".join(token.text for run in long.learned.runs if run.part == "answer" for token in run.head)
    assert f"<|assistant|>\n{left}</s>" in heard


def test_a_prompt_that_is_cut_is_shown_without_its_beginning(families, tmp_path):
    talk_of_three = [("user", "Which fruit is red?"), ("assistant", "An apple is red."), ("user", "Why?")]
    path = write(tmp_path / "e.parquet", [talk_of_three], [["Because."]])
    request = ExampleRequest(model_id="m", dataset_id="d", max_prompt=30, max_response=30, day=DAY)
    view = ask(families("chatml on a base model"), path, request).answers[0].learned
    shown = "".join(token.text for run in view.runs for token in run.head)
    assert view.prompt_cut
    assert "Why?" in shown
    assert "apple" not in shown


def test_what_refuses_an_example_is_told_for_policy_and_reward_model(families, tmp_path):
    strict, mild = families("model for assistant, trims, refuses system"), families("chatml on a base model")
    path = write(tmp_path / "e.parquet", [[("system", "Be brief."), ("user", "Why?")]], [["Because."]])
    request = ExampleRequest(model_id="m", dataset_id="d", day=DAY)
    assert ask(strict, path, request).refused == "the chat template refuses it: no system turn, please."
    reading = ask(mild, path, request, strict)
    assert (reading.refused, reading.reward_refused) == ("", "the chat template refuses it: no system turn, please.")
    assert len(reading.answers) == 1


def test_an_example_that_is_not_there_and_a_file_that_is_gone_are_told(families, tmp_path):
    source, request = families("chatml on a base model"), ExampleRequest(model_id="m", dataset_id="d", example=1)
    with pytest.raises(InvalidInput, match="The data set has 1 examples; the first is number 0"):
        ask(source, write(tmp_path / "e.parquet", [[("user", "Why?")]], [["No."]]), request)
    with pytest.raises(NotFound, match="not there any more"):
        ask(source, str(tmp_path / "gone.parquet"), request)
    with pytest.raises(ModelInvalid, match="does not exist"):
        ask(ModelSource(source="folder", path=str(tmp_path / "gone")), "", request)


def test_lengths_are_those_that_are_learned_and_refusals_are_counted(families, tmp_path):
    source = families("model for assistant, trims, refuses system")
    prompts = [[("system", "Be brief."), ("user", "Why?")] if k % 3 == 0 else [("user", "Why? " * (k + 1))] for k in range(12)]
    path = write(tmp_path / "e.parquet", prompts, [["Because.", "No."]] * 12, group=5)
    reading = ask(source, path, LengthsRequest(model_id="m", dataset_id="d", day=DAY))
    prompt_format = PromptFormat.choose(load_tokenizer(source.path), day=DAY)
    rows = [Prompted(tuple(ChatTurn(*turn) for turn in turns), [ChatTurn("assistant", "Because."), ChatTurn("assistant", "No.")])
            for turns in prompts if turns[0][0] == "user"]  # fmt: skip
    found = encode(prompt_format, rows, 9999, 9999)
    assert reading.prompts.counts == sorted((len(one.prompt_ids), 1) for one in found)
    assert reading.responses.total == 16
    assert [(left.reason, left.count, left.lines) for left in reading.refused] == [
        ("the chat template refuses it: no system turn, please", 4, [10, 13, 16, 19])
    ]
    assert (reading.num_examples, reading.num_sampled, reading.window) == (12, 12, 512)


def test_what_a_template_leaves_out_is_counted(families, tmp_path):
    path = write(tmp_path / "e.parquet", [[("system", "Be brief."), ("user", "Why?")]] * 7, [["Because."]] * 7)
    reading = ask(families("leaves system turns out"), path, LengthsRequest(model_id="m", dataset_id="d", day=DAY))
    assert [(left.reason, left.count, left.lines) for left in reading.omitted] == [("system turns", 7, [10, 11, 12, 13, 14])]


def test_a_reward_model_s_lengths_are_of_whole_conversations(families, tmp_path):
    path = write(tmp_path / "e.parquet", [[("user", "Why?")]] * 3, [["Because.", "No."]] * 3)
    job = ReadingJob(
        request=LengthsRequest(model_id="m", dataset_id="d", whole=True), kind="reward", hub_dir="/nowhere",
        model=families("eos behind every turn"), dataset_path=path,
    )  # fmt: skip
    reading = read(job)
    assert (reading.prompts.total, reading.responses.total) == (0, 6)


def test_a_sample_is_spread_over_the_file_and_ends_early_at_so_many_characters(tmp_path, monkeypatch):
    write(tmp_path / "e.parquet", [[("user", "Why?" * 10)]] * 300, [["No."]] * 300, group=10)
    file = open_examples(tmp_path / "e.parquet")
    monkeypatch.setattr(sample, "MOST_SAMPLED", 60)
    lines = [row["line"] for row in draw_sample(file, None)]
    assert sorted(lines) == [10 + k for k in spread(300, 60)]
    assert max(row["line"] for row in draw_sample(file, 100)) < 110
    monkeypatch.setattr(sample, "MOST_CHARACTERS", 43 * 20 - 1)
    early = [row["line"] for row in draw_sample(file, None)]
    assert len(early) == 20
    assert max(early) > 200
    assert min(early) < 60
    monkeypatch.setattr(sample, "MOST_GROUPS", 4)
    assert {(line - 10) // 10 for line in (row["line"] for row in draw_sample(file, None))} <= set(spread(30, 4))


def test_an_example_is_found_in_its_row_group(tmp_path):
    write(tmp_path / "e.parquet", [[("user", str(k))] for k in range(25)], [["No."]] * 25, group=10)
    file = open_examples(tmp_path / "e.parquet")
    assert [read_row(file, k)["prompt"][0]["content"] for k in (0, 9, 10, 24)] == ["0", "9", "10", "24"]
    assert read_row(file, 25) is None
