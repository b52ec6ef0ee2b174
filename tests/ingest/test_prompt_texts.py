"""Lists of prompts and outputs in the shapes that people have them in."""

import json

import pytest

from app.domain.errors import InvalidInput
from app.ingest.prompt_texts import key_of, read_outputs, read_prompts

ALPACA = [{"instruction": "Add.", "input": "2 and 3", "output": "5"}, {"instruction": "Name a colour.", "output": "Red."}]
MT_BENCH = '{"question_id": 81, "category": "writing", "turns": ["Write a poem.", "Make it rhyme."], "reference": ["a", "b"]}'


def texts(found):
    return [[message.content for message in one.messages] for one in found]


def test_plain_lines_are_prompts():
    assert texts(read_prompts("What is rain?\n\n  Why?\n")) == [["What is rain?"], ["Why?"]]


def test_alpacas_instructions_have_their_input_below():
    found = read_prompts(json.dumps(ALPACA))
    assert texts(found) == [["Add.\n\n2 and 3"], ["Name a colour."]]
    assert [one.reference for one in found] == ["5", "Red."]


def test_mt_benchs_questions_have_several_turns():
    (found,) = read_prompts(MT_BENCH)
    assert texts([found]) == [["Write a poem.", "Make it rhyme."]]
    assert (found.reference, found.tags) == ("b", ("writing",))


def test_messages_that_end_with_an_answer_have_it_for_a_reference():
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (found,) = read_prompts(json.dumps([{"messages": messages, "system": "Be kind."}]))
    assert [(message.role, message.content) for message in found.messages] == [("system", "Be kind."), ("user", "Hi")]
    assert found.reference == "Hello"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"prompt": "a"}\n{"prompt": ', "Line 2 begins like JSON"),
        ("[1]", "Entry 1 is no prompt"),
        ('[{"id": 3}]', "Entry 1 has no prompt"),
        ('{"turns": [3]}', "Entry 1 has a turn that is no text"),
        ('{"messages": [{"role": "user"}]}', "Entry 1 has a message without role and content"),
        ("[", "The text begins like JSON"),
        ('{"prompt": "a\\u0000b"}', "can't be kept"),
    ],
)
def test_what_is_no_prompt_is_named(text, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        read_prompts(text)


def test_outputs_are_known_by_their_instruction():
    listed = [{"instruction": "Name  a colour.", "output": "Blue", "generator": "gpt"}]
    (found,) = read_outputs(json.dumps(listed))
    assert (found.text, found.model) == ("Blue", "gpt")
    assert found.prompt == key_of(read_prompts("Name a colour.")[0].messages)
    with pytest.raises(InvalidInput, match="Entry 1 has no output"):
        read_outputs('[{"instruction": "a"}]')
    with pytest.raises(InvalidInput, match="no output in it"):
        read_outputs("[]")
