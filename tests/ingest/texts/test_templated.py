"""Texts that already carry a chat template are noted, and stripped to messages when that is wanted; never guessed."""

import pytest

from app.ingest.rows import Dropped
from app.ingest.texts.templated import find_template, strip_template

U, A, S = ({"role": role} for role in ("user", "assistant", "system"))
COLUMNS = {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
STRIP = {"shape": "pair", "columns": COLUMNS, "options": {"strip_template": True}}

DIALOGUES = {
    "ChatML": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "Llama 3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nWhy?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "Gemma": "<bos><start_of_turn>system\nBe brief.<end_of_turn>\n<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n",
    "Phi or Zephyr": "<|system|>\nBe brief.<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\n",
    "Phi-4": "<|im_start|>system<|im_sep|>Be brief.<|im_end|><|im_start|>user<|im_sep|>Why?<|im_end|>"
    "<|im_start|>assistant<|im_sep|>",
    "Llama 4": "<|begin_of_text|><|header_start|>system<|header_end|>\n\nBe brief.<|eot|><|header_start|>user<|header_end|>\n\n"
    "Why?<|eot|><|header_start|>assistant<|header_end|>\n\n",
    "Command R": "<BOS_TOKEN><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>Be brief.<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|>"
    "<|USER_TOKEN|>Why?<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "Granite": "<|start_of_role|>system<|end_of_role|>Be brief.<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>Why?"
    "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    "Harmony": "<|start|>system<|message|>Be brief.<|end|><|start|>user<|message|>Why?<|end|><|start|>assistant<|channel|>final"
    "<|message|>",
    "GLM-4": "[gMASK]<sop><|system|>\nBe brief.<|user|>\nWhy?<|assistant|>\n",
    "OpenAssistant": "<|system|>Be brief.<|endoftext|><|prompter|>Why?<|endoftext|><|assistant|>",
    "Llama 2 or Mistral": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST]",
    "DeepSeek": "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Why?<｜Assistant｜>",
}  # fmt: skip
ENDS = {
    "ChatML": "<|im_end|>\n", "Llama 3": "<|eot_id|>", "Gemma": "<end_of_turn>\n", "Phi or Zephyr": "<|end|>\n",
    "Phi-4": "<|im_end|>", "Llama 4": "<|eot|>", "Command R": "<|END_OF_TURN_TOKEN|>", "Granite": "<|end_of_text|>\n",
    "Harmony": "<|return|>", "GLM-4": "", "OpenAssistant": "<|endoftext|>", "Llama 2 or Mistral": " </s>",
    "DeepSeek": "<｜end▁of▁sentence｜>",
}  # fmt: skip
ASKED = [("system", "Be brief."), ("user", "Why?")]


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_template_is_noted_with_its_rows_and_stripped_when_wanted(read_rows, name):
    plain = {"prompt": "Why?", "chosen": "Yes.", "rejected": "No."}
    row = {"prompt": DIALOGUES[name], "chosen": "Yes." + ENDS[name], "rejected": "No." + ENDS[name]}
    read = read_rows(plain, row)
    (note,) = read.audit.notes
    assert (note.note.partition(",")[0], note.count, note.lines) == (f"already carries a chat template ({name})", 1, [2])
    assert read.prompts()[1] == [("user", row["prompt"])]
    stripped = read_rows(row, mapping=STRIP)
    assert [[turn for turn in prompt if turn[1]] for prompt in stripped.prompts()] == [ASKED]
    assert [tuple(text.strip() for text in pair) for pair in stripped.pairs()] == [("Yes.", "No.")]
    assert stripped.audit.notes == []


@pytest.mark.parametrize("name", [name for name in DIALOGUES if name != "Llama 2 or Mistral"])
def test_whole_dialogues_are_split_at_the_last_answer(read_rows, name):
    sides = [DIALOGUES[name] + answer + ENDS[name] for answer in ("Yes.", "No.")]
    mapping = {"shape": "conversation_pair", "columns": {"chosen": "a", "rejected": "b"}, "options": {"strip_template": True}}
    read = read_rows({"a": sides[0], "b": sides[1]}, mapping=mapping)
    assert (read.prompts(), read.pairs()) == ([ASKED], [("Yes.", "No.")])


@pytest.mark.parametrize(("text", "messages"), [
    ("<s>[INST] a [/INST] b </s><s>[INST] c [/INST] ", [{**U, "content": "a"}, {**A, "content": "b"}, {**U, "content": "c"}]),
    ("[INST]a[/INST] Roses are", [{**U, "content": "a"}, {**A, "content": "Roses are"}]),
    ("<|im_start|>assistant\n  b \n<|im_end|>", [{**A, "content": "  b \n"}]),
    ("<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>a<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
     [{"role": "chatbot", "content": "a"}]),
    ("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
     [{**U, "content": "a"}, {**A, "content": ""}]),
    ("<|user|>\na</s>\n<|assistant|>\n", [{**U, "content": "a"}, {**A, "content": ""}]),
    ("<｜begin▁of▁sentence｜><｜User｜>a<｜Assistant｜>b<｜end▁of▁sentence｜>", [{**U, "content": "a"}, {**A, "content": "b"}]),
])  # fmt: skip
def test_turns_become_messages_with_their_text_unchanged(text, messages):
    assert strip_template(text) == messages


@pytest.mark.parametrize(("text", "plain"), [
    ("<|channel|>final<|message|>yes<|return|>", "yes"),
    ("yes<|im_end|>\n", "yes"), ("yes</s>", "yes"), ("yes<|eot_id|><|end_of_text|>", "yes"), ("yes<end_of_turn>\n<eos>", "yes"),
    ("yes<|user|>", "yes"), ("yes\n<|observation|>\n", "yes"), ("yes<|im_end|>\n<|im_start|>user\n", "yes"),
    ("yes <|endoftext|>", "yes "), ("yes", "yes"), ("a < b", "a < b"),
    *((text, text) for text in (
        "yes<|im_end|> and more", "Explain [INST] please", "I like <|im_end|> tokens", "What is <|user|> for?", "a [INST]",
        "Is <|start_header_id|>user<|end_header_id|> a header?",
    )),
    ("say <|endoftext|> loud", "say <|endoftext|> loud"),
])  # fmt: skip
def test_an_answer_loses_its_end_token_only(text, plain):
    assert strip_template(text) == plain


@pytest.mark.parametrize("text", [
    "Hello <|im_start|>user\na<|im_end|>", "yes<|im_end|>\n<|im_start|>user\nmore<|im_end|>",
    "b [/INST] c", "x [INST] a [/INST] b",
])  # fmt: skip
def test_text_outside_of_turns_leaves_its_row_out(text):
    with pytest.raises(Dropped, match="outside of the turns"):
        strip_template(text)


def test_channels_of_thoughts_leave_their_row_out():
    thought = (
        "<|start|>assistant<|channel|>analysis<|message|>Sky?<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>"
    )
    with pytest.raises(Dropped, match="channels"):
        strip_template(thought)


@pytest.mark.parametrize("text", ["", "plain", "a <b> c </b>", "1 < 2 | 3 > 2", "use [INSTALL] here", "x<|y|>z", "</s> is a tag"])
def test_plain_texts_carry_no_template(text):
    assert find_template(text) == ""


def test_lists_of_answers_are_stripped_one_by_one(read_rows):
    mapping = {
        "shape": "ranked",
        "columns": {"prompt": "p", "responses": "r", "ratings": "s"},
        "options": {"strip_template": True},
    }
    read = read_rows({"p": "[INST] a [/INST]", "r": ["b</s>", "c</s>"], "s": [2, 1]}, mapping=mapping)
    assert (read.prompts(), read.pairs()) == ([[("user", "a")]], [("b", "c")])
