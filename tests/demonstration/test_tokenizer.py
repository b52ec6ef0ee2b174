import pytest
from transformers import AutoTokenizer

from worker.demonstration.data import generate_answers, generate_pairs, list_texts
from worker.demonstration.tokenizer import DESK, END, PAD, UNKNOWN, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(list_texts(), context=128)


def test_every_generated_text_comes_back_word_for_word(tokenizer):
    texts = [text for pair in generate_pairs(5, 300) for text in (pair.prompt, pair.chosen, pair.rejected)]
    texts += [text for answer in generate_answers(5, 300) for text in answer]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text


def test_padding_is_not_the_end_and_both_are_left_out_of_a_decoded_answer(tokenizer):
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    ids = tokenizer(f"It was a present.{END}{PAD}{PAD}")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "It was a present."


def test_the_chat_template_marks_who_speaks_and_leaves_the_answer_open(tokenizer):
    messages = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "It was a present."}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    head = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert whole == f"{head}It was a present.{END}"
    assert head.endswith(DESK)


def test_a_word_of_another_world_is_unknown(tokenizer):
    assert tokenizer.tokenize("Hello, submarine.") == ["▁Hello", ",", UNKNOWN, "."]


def test_a_saved_tokenizer_loads_as_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = generate_pairs(6, 1)[0].chosen
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert (loaded.chat_template, loaded.eos_token, loaded.pad_token) == (tokenizer.chat_template, END, PAD)
