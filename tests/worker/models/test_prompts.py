import pytest

from app.domain.errors import RecipeInvalid
from tests.worker.workshop import make_tokenizer
from worker.models.prompts import PromptFormat, PromptRefused

TURNS = [("user", "my lamp is broken"), ("assistant", "Since when?"), ("user", "since today")]


@pytest.fixture(scope="module")
def plain():
    return PromptFormat.choose(make_tokenizer())


@pytest.fixture(scope="module")
def chat():
    return PromptFormat.choose(make_tokenizer(chat=True))


def test_plain_prompts_are_human_and_assistant_turns(plain):
    want = "\n\nHuman: my lamp is broken\n\nAssistant: Since when?\n\nHuman: since today\n\nAssistant:"
    assert plain.write_prompt(TURNS) == want


def test_the_chat_template_is_used_where_there_is_one(chat):
    assert chat.write_prompt(TURNS[:1]) == "<|user|>\nmy lamp is broken<eos>\n<|assistant|>\n"
    assert PromptFormat.choose(chat.tokenizer, "plain").chat is False


def test_asking_for_a_chat_template_that_is_not_there_names_the_field(plain):
    with pytest.raises(RecipeInvalid, match="no chat template"):
        PromptFormat.choose(plain.tokenizer, "chat")


@pytest.mark.parametrize("answer", ["Since Monday, I think", "\nA list:\n- one", "", "  spaced", "äöü 漢字 🙂", "<eos> inside"])
@pytest.mark.parametrize("kind", ["plain", "chat"])
def test_prompt_ids_and_response_ids_concatenate_to_the_text_with_its_end(request, kind, answer):
    chosen = request.getfixturevalue(kind)
    prompt = chosen.write_prompt(TURNS)
    (prompt_ids, _), (response_ids, cut) = chosen.encode_prompts([prompt], 500)[0], chosen.encode_responses([answer], 500)[0]
    middle = answer if chosen.chat or answer[:1].isspace() else " " + answer
    assert chosen.tokenizer.decode([*prompt_ids, *response_ids]) == prompt + middle + "<eos>"
    assert not cut


def test_a_response_behind_its_prompt_is_tokenised_as_the_whole_text_is(plain):
    prompt, answer = plain.write_prompt(TURNS), "Thank you for telling us, we will send a new one today"
    whole = plain.tokenizer(prompt + " " + answer, add_special_tokens=False)["input_ids"]
    assert plain.encode_prompts([prompt], 500)[0][0] + plain.encode_responses([answer], 500)[0][0][:-1] == whole


def test_prompts_lose_their_start_and_responses_their_end(plain):
    ids, cut = plain.encode_prompts([plain.write_prompt(TURNS)], 20)[0]
    assert cut
    assert plain.tokenizer.decode(ids).endswith("\n\nAssistant:")
    ids, cut = plain.encode_responses(["one two three four five six seven eight"], 5)[0]
    assert cut
    assert len(ids) == 5
    assert plain.tokenizer.decode(ids).startswith(" one")
    assert plain.tokenizer.eos_token_id not in ids  # it did not end


def test_the_beginning_of_text_stays_in_front_of_a_cut_prompt():
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    ids, _ = PromptFormat.choose(tokenizer).encode_prompts(["a long prompt about the garden hose"], 6)[0]
    assert len(ids) == 6
    assert ids[0] == tokenizer.bos_token_id


def test_what_the_template_refuses_is_told(chat):
    tokenizer = make_tokenizer(chat=True)
    tokenizer.chat_template = "{{ raise_exception('only users may speak') }}"
    with pytest.raises(PromptRefused, match="only users may speak"):
        PromptFormat.choose(tokenizer).write_prompt(TURNS)
