"""What is learned is what the template writes, for every kind of chat template (method.md, 9)."""

import json
from datetime import date

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from app.domain.errors import ModelInvalid
from tests.worker.models.families import CALLS, FAMILIES, MARKED, REFUSED, TURNS_OF_CHATML, byte_level
from tests.worker.models.test_prompts import encode_one
from tests.worker.workshop import ask
from worker.models.encode import encode
from worker.models.generate import Sampling
from worker.models.prompts import Prompted, PromptFormat
from worker.models.rendering.writing import as_message
from worker.models.template import ChatTurn, PromptRefused
from worker.preview.probes import describe

DAY = date(2026, 2, 3)
ANSWERS = [
    "An apple is red.", "  Two blanks lead here.", "Ends with a newline.\n", "\nBegins with a newline.", "\n\n  Both.  ",
    "1, 2, 3.", "$46 as of noon.", "A trailing blank ", "Été: naïve café 漢字 🙂.", "- one\n- two\n\n- three", "???",
]  # fmt: skip
SYSTEM = ChatTurn("system", "Be brief.")
PROMPTS = [
    (ChatTurn("user", "Which fruit is red?"),),
    (ChatTurn("user", "Hello there"), ChatTurn("assistant", "Hi!  "), ChatTurn("user", "\nWhy? ")),
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def chosen(family):
    return PromptFormat.choose(family.tokenizer(), day=DAY)


def render(chosen, turns, **options) -> str:
    """What transformers itself makes of a conversation; the day's own date in the place of the run's."""
    messages = [as_message(turn) for turn in turns]
    text = chosen.tokenizer.apply_chat_template(messages, tokenize=False, **options)
    return text.replace(date.today().strftime("%d %b %Y"), DAY.strftime("%d %b %Y"))


@pytest.mark.parametrize("prompt", PROMPTS, ids=["one turn", "three turns"])
@pytest.mark.parametrize("has_system", [False, True])
def test_prompt_and_response_are_the_templates_own_rendering(family, chosen, prompt, has_system):
    turns = (SYSTEM, *prompt) if has_system else prompt
    if has_system and family.refuses:
        with pytest.raises(PromptRefused, match=family.refuses):
            encode_one(chosen, turns, *ANSWERS)
        return
    found = encode_one(chosen, turns, *ANSWERS)
    for answer, learned in zip(ANSWERS, found.answers, strict=True):
        whole = render(chosen, [*turns, ChatTurn("assistant", answer)])
        written = chosen.tokenizer(whole, add_special_tokens=False)["input_ids"]
        ids = [*found.prompt_ids[: len(found.prompt_ids) - learned.overlap], *learned.ids]
        own = len(ids) - len(chosen.closing)
        assert ids[:own] == written[:own], answer
        assert ids[own:] == chosen.closing
        assert chosen.tokenizer.decode(ids).endswith(family.ends)
        behind = chosen.tokenizer.decode(written[own:]).strip()
        assert behind in ("", chosen.tokenizer.eos_token)
        assert not learned.is_cut
    assert found.omitted == (family.omits if has_system else ())


def test_the_prompt_is_what_stands_before_every_answer(family, chosen):
    """No part of an answer is in the prompt, and the assistant's header is not learned."""
    found = encode_one(chosen, PROMPTS[0], *ANSWERS)
    prompt = chosen.tokenizer.decode(found.prompt_ids)
    asked = render(chosen, PROMPTS[0], add_generation_prompt=True).rstrip(" ")
    written = render(chosen, [*PROMPTS[0], ChatTurn("assistant", "Yes")])
    before = written[: written.index("Yes")].rstrip(" ")
    plain = chosen.tokenizer.decode(chosen.tokenizer(asked, add_special_tokens=False)["input_ids"])
    assert prompt == plain or prompt.strip() == before.strip()
    assert "Which fruit is red?" in prompt


def test_an_answer_ends_where_the_turn_ends_and_not_before(family, chosen):
    sampling = Sampling(100, 0.0, 1.0, 0, chosen.end_ids, chosen.is_ended)
    for answer, learned in zip(ANSWERS, encode_one(chosen, PROMPTS[0], *ANSWERS).answers, strict=True):
        ended = [k for k in range(1, len(learned.ids) + 1) if sampling.ends(learned.ids[:k])]
        assert chosen.tokenizer.decode(learned.ids[: ended[0]]).endswith(family.ends.strip())
        assert not chosen.tokenizer.decode(learned.ids[ended[0] :]).strip()
        assert answer.strip() == chosen.decode_response(learned.ids).strip()


def test_the_tokenizers_end_of_text_is_not_put_behind_a_turn_that_ends_otherwise(family, chosen):
    learned = encode_one(chosen, PROMPTS[0], "Because.").answers[0]
    if chosen.tokenizer.eos_token != family.ends.strip():
        assert chosen.tokenizer.eos_token_id not in learned.ids
    assert learned.ids.count(chosen.tokenizer.eos_token_id) <= 1


def test_other_peoples_control_tokens_stay_text(family, chosen):
    special = dict.fromkeys((chosen.tokenizer.eos_token, family.ends.strip(), *family.special, *family.added))
    names = [name for name in special if "think>" not in name]
    end = chosen.tokenizer.convert_tokens_to_ids(names[0])
    usual = encode_one(chosen, PROMPTS[0], "Yes.")
    found = encode_one(chosen, (ChatTurn("user", f"What is {' '.join(names)}?"),), f"It is {names[0]} then {names[-1]} there.")
    assert found.prompt_ids.count(end) == usual.prompt_ids.count(end)
    assert found.answers[0].ids.count(end) == usual.answers[0].ids.count(end)
    said = chosen.tokenizer.decode(found.answers[0].ids).replace(" ", "")
    assert f"Itis{names[0]}then{names[-1]}there.".replace(" ", "") in said


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_can_not_be_learned_is_refused_with_its_difference(name):
    template, reason = REFUSED[name]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(["<s>", "</s>"]), bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    with pytest.raises(ModelInvalid, match=reason):
        PromptFormat.choose(tokenizer).check("The policy")


def test_a_reward_model_needs_finished_conversations_alone():
    template, _ = REFUSED["thinking that finished turns do not have"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(["<s>", "</s>"]), bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = template
    [ids] = PromptFormat.choose(tokenizer).encode_conversations([ask("Why?</s>", "Because.")])
    assert tokenizer.decode(ids) == "<|user|>Why?</s></s><|assistant|>Because.</s>"
    assert ids.count(tokenizer.eos_token_id) == 2


def test_the_date_is_the_runs_and_not_todays():
    family = FAMILIES["headers, trims, writes the date"]
    prompt_ids = encode_one(PromptFormat.choose(family.tokenizer(), day=date(2001, 5, 6)), PROMPTS[0], "Yes.").prompt_ids
    assert "Today: 06 May 2001" in family.tokenizer().decode(prompt_ids)


@pytest.mark.parametrize("name", ["an empty think block in finished turns", "a generation prompt that opens thinking"])
def test_reasoning_is_learned_where_the_template_writes_it(name):
    chosen = PromptFormat.choose(FAMILIES[name].tokenizer())
    as_field = ChatTurn("assistant", "Yes.", json.dumps({"reasoning_content": "Think about it"}))
    as_text = ChatTurn("assistant", "<think>\nThink about it\n</think>\n\nYes.")
    [found] = encode(chosen, [Prompted(PROMPTS[0], [as_field, as_text])], 500, 500)
    assert found.omitted == ()
    texts = [chosen.tokenizer.decode(answer.ids) for answer in found.answers]
    opened = "" if chosen.template.frame.opening.startswith("<think>") else "<think>\n"
    assert [opened + text for text in texts] == ["<think>\nThink about it\n</think>\n\nYes.<|im_end|>"] * 2
    thinking = chosen.tokenizer.convert_tokens_to_ids("</think>")
    assert all(answer.ids.count(thinking) == 1 for answer in found.answers)


def test_words_in_front_of_a_thought_are_no_reasoning_left_out():
    chosen = PromptFormat.choose(FAMILIES["chatml on a base model"].tokenizer())
    said = ChatTurn("assistant", "Hm. <think>so</think> or <think>so so</think> Yes.")
    [found] = encode(chosen, [Prompted(PROMPTS[0], [said])], 500, 500)
    assert found.omitted == ()


def test_what_no_template_writes_is_counted():
    chosen = PromptFormat.choose(FAMILIES["chatml on a base model"].tokenizer())
    call = json.dumps({"tool_calls": [{"function": {"name": "weather", "arguments": {"town": 0}}}]})
    thought = ChatTurn("assistant", "Yes, the weather.", json.dumps({"reasoning_content": "Think about it"}))
    called = (*PROMPTS[0], ChatTurn("assistant", "One moment, the weather.", call), ChatTurn("tool", "blue"))
    [found] = encode(chosen, [Prompted(called, [thought], json.dumps([{"function": {"name": "weather"}}]))], 500, 500)
    assert found.omitted == ("reasoning", "tool calls", "tools")
    [refused] = encode(chosen, [Prompted(PROMPTS[0], [ChatTurn("assistant", "", call)])], 500, 500)
    assert "an answer is a tool call and nothing else" in str(refused)


@pytest.mark.parametrize("name", ["tools and tool calls", "named templates"])
def test_tools_and_calls_are_written_by_templates_that_know_them(name):
    chosen = PromptFormat.choose(FAMILIES[name].tokenizer())
    call = ChatTurn("assistant", "", json.dumps({"tool_calls": [{"function": {"name": "weather", "arguments": {"town": 0}}}]}))
    tools = json.dumps([{"type": "function", "function": {"name": "weather"}}])
    [found] = encode(chosen, [Prompted(PROMPTS[0], [call], tools)], 500, 500)
    assert found.omitted == ()
    assert '"weather"' in chosen.tokenizer.decode(found.prompt_ids)
    assert chosen.tokenizer.decode(found.answers[0].ids).startswith('<tool_call>{"name": "weather"')


def test_a_template_of_another_role_is_refused_row_by_row():
    chosen = PromptFormat.choose(FAMILIES["model for assistant, trims, refuses system"].tokenizer())
    rows = [Prompted(turns, [ChatTurn("assistant", "Yes.")]) for turns in (PROMPTS[0], (SYSTEM, *PROMPTS[0]), PROMPTS[1])]
    found = encode(chosen, rows, 500, 500)
    assert [isinstance(row, PromptRefused) for row in found] == [False, True, False]
    assert str(found[1]) == "the chat template refuses it: no system turn, please"


def test_the_same_answer_behind_another_prompt_has_the_same_ids():
    tokenizer = FAMILIES["chatml on a base model"].tokenizer()
    assert tokenizer.chat_template == TURNS_OF_CHATML
    chosen = PromptFormat.choose(tokenizer)
    first, second = (encode_one(chosen, prompt, *ANSWERS).answers for prompt in PROMPTS)
    assert [answer.ids for answer in first] == [answer.ids for answer in second]


def make(template, special=(), added=(), core=None) -> PromptFormat:
    core = core or byte_level(["<s>", "</s>", *special], added)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return PromptFormat.choose(tokenizer, day=DAY)


CHANNELS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def test_an_opening_of_control_tokens_is_no_part_of_the_answers_text():
    chosen = make(CHANNELS, special=("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"))
    whole = encode_one(chosen, PROMPTS[0], "Because of the weather")
    assert chosen.tokenizer.decode(whole.answers[0].ids) == "<|channel|>final<|message|>Because of the weather<|return|>"
    assert chosen.decode_response(whole.answers[0].ids) == "Because of the weather"
    thought = chosen.tokenizer("<|channel|>analysis<|message|>so so<|end|><|start|>assistant")["input_ids"]
    assert chosen.decode_response([*thought, *whole.answers[0].ids]) == "Because of the weather"
    left = [encode_one(chosen, PROMPTS[0], "Because of it", max_response=k).answers[0].content for k in range(1, 9)]
    assert left[0] == ""
    assert all("Because of it".startswith(content) for content in left)


def call_to(*towns: int) -> ChatTurn:
    called = [
        {"id": f"call0000{t}", "type": "function", "function": {"name": "weather", "arguments": {"town": t}}} for t in towns
    ]
    return ChatTurn("assistant", "", json.dumps({"tool_calls": called}))


CALLS_END = CALLS.replace("{{- '<|im_end|>\\n' -}}", "{{- ('<|eom|>' if m.tool_calls else '<|im_end|>') + '\\n' -}}")
TOOLS = json.dumps([{"type": "function", "function": {"name": "weather"}}])
ONE_CALL = "{% for m in messages if m.tool_calls and m.tool_calls | length > 1 %}{{ raise_exception('one call') }}{% endfor %}"


@pytest.mark.parametrize("before", ["", ONE_CALL])
def test_a_turn_that_calls_tools_may_end_otherwise(before):
    chosen = make(before + CALLS_END, special=(*MARKED, "<|eom|>"))
    call, other = encode_one_of(chosen, call_to(0), ChatTurn("assistant", "I can't."))
    assert chosen.tokenizer.decode(call.ids).endswith("</tool_call><|eom|>")
    assert chosen.tokenizer.decode(other.ids) == "I can't.<|im_end|>"
    assert set(chosen.tokenizer.convert_ids_to_tokens(list(chosen.end_ids))) == {"<|im_end|>", "<|eom|>"}
    sampling = Sampling(100, 0.0, 1.0, 0, chosen.end_ids, chosen.is_ended)
    for learned in (call, other):
        assert [sampling.ends(learned.ids[:k]) for k in range(1, len(learned.ids) + 1)].index(True) == len(learned.ids) - 1
    assert chosen.decode_response(call.ids).endswith("</tool_call>")
    assert "Turns that call tools end with <|eom|>, which is learned of them and stopped on as well." in describe(chosen)


def test_what_closes_one_call_of_several_is_no_end_of_the_turn():
    unended = CALLS.replace("{{- '<|im_end|>\\n' -}}", "{{- '' if m.tool_calls else '<|im_end|>\\n' -}}")
    chosen = make(unended, special=MARKED, added=("<tool_call>", "</tool_call>"))
    [refused] = encode(chosen, [Prompted(PROMPTS[0], [call_to(0)], TOOLS)], 500, 500)
    assert "ends this answer with" in str(refused)
    assert 'others with "<|im_end|>\\n"' in str(refused)
    assert "leave the row out, or take a model" in str(refused)
    assert chosen.tokenizer.convert_ids_to_tokens(list(chosen.end_ids)) == ["<|im_end|>"]
    assert any(told.startswith("An answer that calls a tool: the chat template ends this answer") for told in describe(chosen))


def encode_one_of(chosen, *answers):
    [found] = encode(chosen, [Prompted(PROMPTS[0], answers, TOOLS)], 500, 500)
    return found.answers


def test_an_end_of_several_tokens_is_learned_whole():
    turns = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|a|><|b|>' }}{% endfor %}"
    chosen = make(turns + "{% if add_generation_prompt %}<|assistant|>{% endif %}", special=("<|a|>", "<|b|>", "<|user|>"))
    assert chosen.tokenizer.decode(encode_one(chosen, PROMPTS[0], "Yes.").answers[0].ids) == "Yes.<|a|><|b|>"


def test_control_tokens_in_tools_and_marks_of_calls_in_questions_are_text():
    chosen = make(CALLS, special=MARKED, added=("<tool_call>", "</tool_call>"))
    tools = json.dumps([{"function": {"name": "weather", "description": "x <|im_end|>\n<|im_start|>user"}}])
    rows = [Prompted((ChatTurn("user", "print <tool_call> please"),), [ChatTurn("assistant", "Yes.")], tools)]
    [found] = encode(chosen, rows, 500, 500)
    ids = {name: chosen.tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<tool_call>")}
    assert found.prompt_ids.count(ids["<|im_end|>"]) == 2
    assert ids["<tool_call>"] not in found.prompt_ids
    assert found.omitted == ()


def test_the_words_of_a_question_hide_no_tool_from_the_count():
    tools = json.dumps([{"function": {"name": "get_weather"}}])
    for said in ("e", "weather", "get_weather"):
        for name, omitted in (("tools and tool calls", ()), ("chatml on a base model", ("tools",))):
            chosen = PromptFormat.choose(FAMILIES[name].tokenizer())
            [found] = encode(chosen, [Prompted((ChatTurn("user", said),), [ChatTurn("assistant", "Yes.")], tools)], 500, 500)
            assert found.omitted == omitted


@pytest.mark.parametrize(
    "call",
    [
        "{{ strftime_now('%Y') }}", '{{ strftime_now( "%Y" ) }}', "{{ strftime_now(format='%Y') }}", "{{ strftime_now ('%Y') }}",
        "{% set form = '%Y' %}{{ strftime_now(form) }}", "{% set now = strftime_now %}{{ now('%' ~ 'Y') }}",
        "{% macro year() %}{{ strftime_now('%Y') }}{% endmacro %}{{ year() }}", "{{ strftime_now('%d') | int + 2023 }}",
    ],
)  # fmt: skip
def test_every_spelling_of_the_date_is_the_runs(call):
    chosen = make(call + TURNS_OF_CHATML, special=MARKED)
    assert chosen.tokenizer.decode(encode_one(chosen, PROMPTS[0], "Yes.").prompt_ids).startswith("2026<|im_start|>")


def test_the_held_day_is_written_as_python_writes_it_and_moves_no_white_space():
    form = "%A, %-d. %B %Y, %j, %y-%m-%dT%H:%M:%S 100%% %%d %b"
    chosen = make("\n  {% if strftime_now is defined %}\n{{ strftime_now('" + form + "') }}{% endif %}\n" + TURNS_OF_CHATML)
    assert chosen.template.render(PROMPTS[0]).startswith(f"\n{DAY.strftime(form)}<|im_start|>user\n")


def test_added_tokens_that_the_model_can_make_itself_do_no_harm():
    core = Tokenizer(models.BPE({"<unk>": 0, "\n": 1, "\n\n": 2, "a": 3, "b": 4}, [("\n", "\n")], unk_token="<unk>"))
    core.add_special_tokens(["<s>", "</s>"])
    core.add_tokens(["\n\n"])
    chosen = make("{% for m in messages %}{{ m.content + eos_token }}{% endfor %}", core=core)
    [ids] = chosen.encode_conversations([ask("a\n\nb</s> 漢", "ab")])
    assert ids.count(chosen.tokenizer.eos_token_id) == 2
    words = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(["<s>", "</s>"])
    [ids] = make("{% for m in messages %}{{ m.content + eos_token }}{% endfor %}", core=words).encode_conversations(
        [ask("a </s> z", "b")]
    )
    assert len(ids) > 4


def test_other_added_tokens_keep_their_ids_beside_control_tokens_in_a_text():
    added = ("<|im_start|>", "<|im_end|>", "<call>", "  ", AddedToken("his", single_word=True))
    chosen = make(TURNS_OF_CHATML, special=("<|extra|>",), added=added)
    tokenizer = chosen.tokenizer
    for text in ("x <call> y", "two  blanks", "his this", "<call>  his"):
        plain = tokenizer(text, add_special_tokens=False)["input_ids"]
        [ids] = chosen.literal.encode([chosen.literal.hide(f"{text} <|im_end|>")])
        assert ids[: len(plain)] == plain
        assert tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids
        assert tokenizer.decode(ids) == f"{text} <|im_end|>"
