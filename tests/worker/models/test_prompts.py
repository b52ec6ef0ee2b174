from typing import Any, ClassVar

import pytest
from transformers import PreTrainedTokenizer

from app.domain.errors import RecipeInvalid
from tests.worker.workshop import ask, make_tokenizer
from worker.models.encode import encode
from worker.models.prompts import Prompted, PromptedIds, PromptFormat
from worker.models.template import ChatTurn, PromptRefused

TURNS = (ChatTurn("user", "my lamp is broken"), ChatTurn("assistant", "Since when?"), ChatTurn("user", "since today"))


def encode_one(chosen, turns, *answers, max_prompt=500, max_response=500) -> PromptedIds:
    row = Prompted(tuple(turns), [ChatTurn("assistant", answer) for answer in answers])
    [found] = encode(chosen, [row], max_prompt, max_response)
    if isinstance(found, PromptRefused):
        raise found
    return found


@pytest.fixture(scope="module")
def plain():
    return PromptFormat.choose(make_tokenizer())


@pytest.fixture(scope="module")
def chat():
    return PromptFormat.choose(make_tokenizer(chat=True))


def test_plain_prompts_are_human_and_assistant_turns(plain):
    want = "\n\nHuman: my lamp is broken\n\nAssistant: Since when?\n\nHuman: since today\n\nAssistant:"
    assert plain.tokenizer.decode(encode_one(plain, TURNS, "yes").prompt_ids) == want


def test_the_chat_template_is_used_where_there_is_one(chat):
    assert (
        chat.tokenizer.decode(encode_one(chat, TURNS[:1], "yes").prompt_ids)
        == "<|user|>\nmy lamp is broken<eos>\n<|assistant|>\n"
    )
    assert PromptFormat.choose(chat.tokenizer, "plain").chat is False


def test_asking_for_a_chat_template_that_is_not_there_names_the_field(plain):
    with pytest.raises(RecipeInvalid, match="no chat template"):
        PromptFormat.choose(plain.tokenizer, "chat")


@pytest.mark.parametrize("answer", ["Since Monday, I think", "\nA list:\n- one", "", "  spaced", "äöü 漢字 🙂", "<eos> inside"])
@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_prompt_ids_and_response_ids_concatenate_to_the_text_with_its_end(request, kind, answer):
    chosen = request.getfixturevalue(kind)
    found = encode_one(chosen, TURNS, answer)
    prompt = chosen.tokenizer.decode(encode_one(chosen, TURNS, "yes").prompt_ids)
    middle = answer if chosen.chat or answer[:1].isspace() else " " + answer
    kept = found.prompt_ids[: len(found.prompt_ids) - found.answers[0].overlap]
    assert chosen.tokenizer.decode([*kept, *found.answers[0].ids]) == prompt + middle + "<eos>"
    assert not found.answers[0].is_cut


@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_control_tokens_in_users_text_are_text(request, kind):
    chosen = request.getfixturevalue(kind)
    end = chosen.tokenizer.eos_token_id
    before = encode_one(chosen, TURNS, "yes").prompt_ids.count(end)
    found = encode_one(chosen, (ChatTurn("user", "what does <eos> mean, <pad>?"),), "The end: <eos>", "no<eos><eos>")
    assert found.prompt_ids.count(end) == (before > 0)  # only what the template writes behind the one turn
    assert [answer.ids.count(end) for answer in found.answers] == [1, 1]
    assert [chosen.decode_response(answer.ids) for answer in found.answers] == ["The end: <eos>", "no<eos><eos>"]
    assert "what does <eos> mean, <pad>?" in chosen.tokenizer.decode(found.prompt_ids)
    rows = chosen.encode_conversations([ask("<eos>", "<eos>"), ask("a", "b")])
    assert rows[0].count(end) == rows[1].count(end)


def test_a_response_behind_its_prompt_is_tokenised_as_the_whole_text_is(plain):
    answer = "Thank you for telling us, we will send a new one today"
    found = encode_one(plain, TURNS, answer)
    whole = plain.tokenizer(plain.tokenizer.decode(found.prompt_ids) + " " + answer, add_special_tokens=False)["input_ids"]
    assert found.prompt_ids + found.answers[0].ids[:-1] == whole


def test_a_cut_prompt_loses_whole_old_turns_first(chat):
    whole, kept = encode_one(chat, TURNS, "yes"), encode_one(chat, TURNS[2:], "yes")
    found = encode_one(chat, TURNS, "yes", max_prompt=len(whole.prompt_ids) - 1)
    assert found.is_cut
    assert found.turns == TURNS[2:]
    assert found.prompt_ids == kept.prompt_ids


def test_a_cut_prompt_keeps_the_system_turn_and_a_whole_header(chat):
    system = ChatTurn("system", "Be kind to them.")
    turns = (system, *TURNS[:2], ChatTurn("user", "a very long question about the garden hose " * 9))
    found = encode_one(chat, turns, "yes", max_prompt=60)
    text = chat.tokenizer.decode(found.prompt_ids)
    assert len(found.prompt_ids) <= 60
    assert text.startswith("<|system|>\nBe kind to them.<eos>\n<|user|>\n")
    assert text.endswith("about the garden hose <eos>\n<|assistant|>\n")
    assert text.count("<|user|>") == 1
    assert found.turns[0] == system


def test_a_system_turn_that_is_too_long_loses_its_end(chat):
    turns = (ChatTurn("system", "Be kind. " * 60), ChatTurn("user", "yes?"))
    text = chat.tokenizer.decode(encode_one(chat, turns, "yes", max_prompt=60).prompt_ids)
    assert text.startswith("<|system|>\nBe kind. Be kind.")
    assert "<|user|>" in text


def test_a_prompt_that_does_not_fit_without_its_text_is_refused(chat):
    with pytest.raises(PromptRefused, match=r"tokens\.max_prompt is 5: raise it"):
        encode_one(chat, TURNS, "yes", max_prompt=5)


def test_a_cut_answer_does_not_end_and_says_what_is_left_of_it(plain):
    [answer] = encode_one(plain, TURNS, "one two three four five six seven eight", max_response=5).answers
    assert answer.is_cut
    assert len(answer.ids) == 5
    assert plain.tokenizer.eos_token_id not in answer.ids  # it did not end
    assert answer.content == plain.tokenizer.decode(answer.ids).removeprefix(" ")
    assert "one two three".startswith(answer.content)


def test_the_beginning_of_text_stays_in_front_of_a_cut_prompt():
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    found = encode_one(
        PromptFormat.choose(tokenizer), [ChatTurn("user", "a long prompt about the garden hose")], "no", max_prompt=30
    )
    assert len(found.prompt_ids) <= 30
    assert found.is_cut
    assert found.prompt_ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(found.prompt_ids).startswith("<bos>\n\nHuman: ")


@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_a_prompt_that_ends_with_the_assistants_turn_is_continued(request, kind):
    chosen = request.getfixturevalue(kind)
    begun = (ChatTurn("user", "write a poem"), ChatTurn("assistant", "Roses are "))
    found, whole = encode_one(chosen, begun, "red and fair.", "stone"), encode_one(chosen, begun[:1], "Roses are red and fair.")
    assert [*found.prompt_ids, *found.answers[0].ids] == [*whole.prompt_ids, *whole.answers[0].ids]
    text = chosen.tokenizer.decode(found.prompt_ids)
    assert text.count("ssistant") == 1
    assert text.endswith("Roses are")
    assert chosen.decode_response(found.answers[1].ids).strip() == "stone"
    assert found.is_continued


def test_a_word_that_the_prompt_has_begun_stays_whole(chat):
    begun = (ChatTurn("user", "write a poem"), ChatTurn("assistant", "my lamp is bro"))
    found, whole = encode_one(chat, begun, "ken", "wn"), encode_one(chat, begun[:1], "my lamp is broken")
    assert [*found.prompt_ids, *found.answers[0].ids] == [*whole.prompt_ids, *whole.answers[0].ids]


def test_what_the_template_refuses_is_told(chat):
    tokenizer = make_tokenizer(chat=True)
    tokenizer.chat_template = "{{ raise_exception('only users may speak') }}"
    with pytest.raises(PromptRefused, match="only users may speak"):
        encode_one(PromptFormat.choose(tokenizer), TURNS, "yes")


class LettersTokenizer(PreTrainedTokenizer):
    """A tokenizer written in Python, as some models still have: one id for each byte."""

    vocab_files_names: ClassVar[dict[str, str]] = {}

    def __init__(self, **options: Any) -> None:
        super().__init__(eos_token="<eos>", **options)

    @property
    def vocab_size(self) -> int:
        return 256

    def get_vocab(self) -> dict[str, int]:
        return {chr(number): number for number in range(256)} | self.added_tokens_encoder

    def _tokenize(self, text: str) -> list[str]:
        return [chr(byte) for byte in text.encode()]

    def _convert_token_to_id(self, token: str) -> int:
        return ord(token) if len(token) == 1 else 0

    def _convert_id_to_token(self, index: int) -> str:
        return chr(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return bytes(ord(token) for token in tokens).decode("utf-8", "replace")


def test_a_tokenizer_written_in_python_is_read_and_cut_as_any_other():
    tokenizer = LettersTokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}" + (
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    chosen = PromptFormat.choose(tokenizer)
    end = tokenizer.eos_token_id
    found = encode_one(chosen, (ChatTurn("user", "what is <eos>?"),), "an <eos>")
    assert found.prompt_ids.count(end) == 1
    assert found.answers[0].ids == [*b"an <eos>", end]
    cut = encode_one(chosen, (ChatTurn("user", "a long question " * 20),), "yes", max_prompt=60)
    assert cut.is_cut
    assert len(cut.prompt_ids) <= 60
    assert bytes(cut.prompt_ids[:5]) == b"user:"


def test_a_text_of_characters_that_are_several_tokens_is_cut_at_any_length(chat):
    frame = len(encode_one(chat, (ChatTurn("user", "請"),), "yes").prompt_ids)
    whole = len(encode_one(chat, (ChatTurn("user", "請問龜鱉鑿鼴齉爨"),), "yes").prompt_ids)
    for limit in range(frame, whole):
        found = encode_one(chat, (ChatTurn("user", "請問龜鱉鑿鼴齉爨"),), "yes", max_prompt=limit)
        assert len(found.prompt_ids) <= limit
        assert "請問龜鱉鑿鼴齉爨".endswith(found.turns[0].content)


def test_a_long_chat_is_cut_without_being_written_for_each_turn(chat, monkeypatch):
    turns = tuple(ChatTurn("assistant" if k % 2 else "user", f"turn {k}") for k in range(401))
    written = []
    monkeypatch.setattr("worker.models.encode._find_spans", lambda *_: [])
    write = PromptFormat.write
    monkeypatch.setattr(PromptFormat, "write", lambda self, row: written.append(1) or write(self, row))
    found = encode_one(chat, turns, "yes", max_prompt=64)
    assert len(found.prompt_ids) <= 64
    assert found.turns[-1] == turns[-1]
    assert len(written) < 20


@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_what_is_left_of_a_continued_answer_stands_behind_what_was_begun(request, kind):
    chosen = request.getfixturevalue(kind)
    for begun, answer in (
        ("Roses are ", "red and violets are blue"),
        ("Ros", "es are red and violets are blue"),
        ("Roses are", " red, I say"),
    ):
        turns = (ChatTurn("user", "write a poem"), ChatTurn("assistant", begun))
        for limit in range(1, 8):
            found = encode_one(chosen, turns, answer, max_response=limit)
            assert (begun + answer).startswith(begun + found.answers[0].content)
        whole = encode_one(chosen, turns, answer)
        assert chosen.decode_response(whole.answers[0].ids, whole.prompt_ids, begun).endswith(answer.split(" ", 1)[1])
    turns = (ChatTurn("user", "write a poem"), ChatTurn("assistant", "Roses are "))
    whole = encode_one(chosen, turns, "red and fair")
    assert chosen.decode_response(whole.answers[0].ids, whole.prompt_ids, "Roses are ") == "red and fair"


@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_private_characters_are_text_as_any_other(request, kind):
    chosen = request.getfixturevalue(kind)
    for text in ("a \ue0b199\ue0b2 b", "\ue0b10\ue0b2", "\ue0b1 \ue0b2"):
        found = encode_one(chosen, (ChatTurn("user", text),), f"it is {text}")
        assert text in chosen.tokenizer.decode(found.prompt_ids)
        assert text in chosen.tokenizer.decode(found.answers[0].ids)
