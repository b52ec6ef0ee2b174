"""Messages in the forms that are about: roles, calls, content parts, reasoning; what can't be read is named."""

import json

import pytest

ASK = {"role": "user", "content": "Rain in Ulm?"}
GOOD, BAD = {"role": "assistant", "content": "No."}, {"role": "assistant", "content": "Yes."}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"town": "Ulm"}}}


def pair_after(*prompt, chosen=GOOD, **more):
    return {"prompt": [*prompt], "chosen": [chosen], "rejected": [BAD], **more}


def fields_of(message):
    return json.loads(message["fields"]) if message["fields"] else {}


@pytest.mark.parametrize("call", [
    {"tool_calls": [CALL]},
    {"tool_calls": [{"id": None, **CALL}], "name": None},
    {"tool_calls": json.dumps([CALL])},
    {"tool_calls": [{"name": "weather", "arguments": '{"town": "Ulm"}'}]},
    {"function_call": {"name": "weather", "parameters": {"town": "Ulm"}}},
])  # fmt: skip
@pytest.mark.parametrize("content", [{"content": ""}, {"content": None}, {}])
def test_a_call_is_kept_in_one_form_and_is_no_empty_answer(read_rows, call, content):
    read = read_rows(pair_after(ASK, chosen={"role": "assistant", **content, **call}))
    answer = read.examples[0]["responses"][0]
    assert (answer["content"], fields_of(answer)) == ("", {"tool_calls": [CALL]})
    assert read.audit.unused == {}
    assert [note.note.partition(":")[0] for note in read.audit.notes] == ["holds tool calls"]


def test_fields_are_written_in_their_order_and_compact(read_rows):
    call = {"id": "c1", **CALL}
    read = read_rows(
        pair_after(
            ASK,
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "name": "weather", "tool_call_id": "c1", "content": "dry"},
        )
    )
    assert [turn["fields"] for turn in read.examples[0]["prompt"]] == [
        None,
        '{"tool_calls":[{"type":"function","function":{"name":"weather","arguments":{"town":"Ulm"}},"id":"c1"}]}',
        '{"tool_call_id":"c1","name":"weather"}',
    ]  # fmt: skip


@pytest.mark.parametrize("tools", [
    [{"type": "function", "function": {"name": "weather"}}], '[{"name": "weather"}]', {"name": "weather"},
    "[{'name': 'weather'}]",
])  # fmt: skip
def test_tools_are_a_list_in_one_form(read_rows, tools):
    read = read_rows(pair_after(ASK, tools=tools), pair_after(ASK, {"role": "user", "content": "!"}, tools="[]"))
    assert [row["tools"] for row in read.examples] == ['[{"type":"function","function":{"name":"weather"}}]', None]
    assert read.mapping.columns["tools"] == "tools"


def test_tools_that_are_no_list_leave_their_row_out(read_rows):
    read = read_rows(pair_after(ASK, tools="[]"), pair_after(ASK, tools="weather"))
    assert read.dropped == {"tools are no list of descriptions": [2]}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_kept_beside_its_answer(read_rows, name):
    answer = read_rows(pair_after(ASK, chosen={**GOOD, name: "Clouds?"})).examples[0]["responses"][0]
    assert (answer["content"], fields_of(answer)) == ("No.", {"reasoning_content": "Clouds?"})


@pytest.mark.parametrize(("parts", "text"), [
    ([{"type": "text", "text": "Rain "}, {"type": "text", "text": "today?"}], "Rain today?"),
    ([{"type": "text", "value": "Rain?"}], "Rain?"),
    ([{"type": "input_text", "text": {"value": "Rain?", "annotations": []}}], "Rain?"),
    (["Rain", ["?", [{"text": "!"}]]], "Rain?!"),
    ({"type": "text", "text": "Rain?"}, "Rain?"),
])  # fmt: skip
def test_content_parts_are_read_however_they_are_nested(read_rows, parts, text):
    assert read_rows(pair_after({"role": "user", "content": parts})).prompts() == [[("user", text)]]


def test_a_part_with_thoughts_is_reasoning(read_rows):
    parts = [{"type": "thinking", "thinking": "Clouds?"}, {"type": "text", "text": "No."}]
    answer = read_rows(pair_after(ASK, chosen={"role": "assistant", "content": parts})).examples[0]["responses"][0]
    assert (answer["content"], fields_of(answer)) == ("No.", {"reasoning_content": "Clouds?"})


def test_calls_and_results_among_the_parts_of_a_content_are_messages_as_others(read_rows):
    called = {"role": "assistant", "content": [
        {"type": "text", "text": "Let me see."}, {"type": "tool_use", "id": "c1", "name": "weather", "input": {"town": "Ulm"}},
    ]}  # fmt: skip
    given = {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "dry"}]},
        {"type": "tool_result", "tool_use_id": "c2", "is_error": True},
        {"type": "text", "text": "So?"},
    ]}  # fmt: skip
    read = read_rows(pair_after(ASK, called, given))
    _, *turns = read.examples[0]["prompt"]
    assert [(turn["role"], turn["content"], fields_of(turn)) for turn in turns] == [
        ("assistant", "Let me see.", {"tool_calls": [{**CALL, "id": "c1"}]}),
        ("tool", "dry", {"tool_call_id": "c1"}),
        ("tool", "", {"tool_call_id": "c2"}),
        ("user", "So?", {}),
    ]
    assert read.audit.unused == {"prompt[].content[].is_error": 1}


def test_an_answer_that_is_a_call_among_parts_is_no_empty_answer(read_rows):
    part = {"type": "tool_use", "name": "weather", "input": {"town": "Ulm"}}
    read = read_rows(pair_after(ASK, chosen={"role": "assistant", "content": [part]}))
    assert fields_of(read.examples[0]["responses"][0]) == {"tool_calls": [CALL]}


def test_names_of_speakers_are_noted_and_those_of_tools_are_not(read_rows):
    named = pair_after({**ASK, "name": "Ada"})
    tool = pair_after(ASK, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "name": "weather", "content": "dry"})
    notes = {note.note.partition(":")[0]: note.lines for note in read_rows(named, tool).audit.notes}
    assert notes == {"names who speaks": [1], "holds tool calls": [2]}


@pytest.mark.parametrize(("content", "text"), [
    ({"temp": 20, "text": "mild"}, '{"temp":20,"text":"mild"}'), ([{"temp": 20}, {"temp": 21}], '[{"temp":20},{"temp":21}]'),
    ([1, 2], "[1,2]"), ({}, "{}"), ([{"type": "text", "text": "mild"}], "mild"), ({"text": "mild"}, "mild"),
])  # fmt: skip
def test_a_tool_s_result_that_is_data_is_kept_as_json(read_rows, content, text):
    read = read_rows(pair_after(ASK, {"role": "tool", "content": content}))
    assert (read.prompts()[0][1], read.audit.unused) == (("tool", text), {})


MEDIA = "holds images, video or audio, and this studio trains on text"


@pytest.mark.parametrize(("row", "reason"), [
    (pair_after({"role": "user", "content": [{"type": "image", "text": None}]}), MEDIA),
    (pair_after({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}), MEDIA),
    (pair_after({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}), MEDIA),
    (pair_after(ASK, images=["a.png"]), MEDIA),
    (pair_after({"role": "user", "content": "<image>What?"}, image="a.png"), MEDIA),
    (pair_after({"role": "user", "content": [{"type": "tool_use", "input": {}}]}), "a tool call without a function's name"),
    (pair_after({"role": "user", "content": [{"type": "server_tool_use", "input": {}}]}),
     'message with a content part that is no text, of type "server_tool_use"'),
    (pair_after({"role": "user", "content": {"temp": 20, "wind": 1}}),
     'message with a content part without a text, with the fields "temp, wind"'),
    (pair_after({"role": "user", "content": [{"type": "text", "text": None}]}),
     'message with a content part without a text, with the fields "type, text"'),
    (pair_after({"role": "user", "content": None}), "message without a content"),
    (pair_after({"role": "narrator", "content": "x"}), 'message with an unknown role "narrator"'),
    (pair_after({"role": 'a"\n' + "b" * 50, "content": "x"}), f'message with an unknown role "a··{"b" * 37}"'),
    (pair_after(ASK, chosen={"role": "assistant", "content": "", "tool_calls": [{"function": "x"}]}),
     "a tool call without a function's name"),
    (pair_after(ASK, chosen={"role": "assistant", "content": "", "tool_calls": [{"name": "a\0"}]}), "contains a NUL character"),
])  # fmt: skip
def test_what_is_no_text_is_refused_by_its_name(read_rows, row, reason):
    assert read_rows(pair_after(ASK), row).dropped == {reason: [2]}


def test_a_page_with_a_picture_s_address_or_an_empty_list_of_images_is_text(read_rows):
    read = read_rows(pair_after(ASK, images=[]), pair_after(ASK, image="a.png"), pair_after(ASK, images=None))
    assert read.audit.num_kept_rows == 3
    assert read.audit.unused == {"image": 1}


@pytest.mark.parametrize(("name", "role"), [
    ("developer", "system"), ("Human", "user"), (" bot ", "assistant"), ("model", "assistant"), ("observation", "tool"),
    ("ipython", "tool"), ("chatbot", "assistant"),
])  # fmt: skip
def test_roles_are_known_by_many_names(read_rows, name, role):
    read = read_rows(pair_after({"role": name, "content": "x"}, ASK))
    assert read.prompts() == [[(role, "x"), ("user", "Rain in Ulm?")]]


def test_developers_are_said_to_be_read_as_the_system(read_rows):
    read = read_rows(pair_after({"role": "developer", "content": "Be brief."}, ASK))
    assert [(note.note, note.count) for note in read.audit.notes] == [("developer messages, read as system messages", 1)]


def test_a_function_call_s_turn_is_the_assistant_s(read_rows):
    call = {"from": "function_call", "value": '{"name": "weather", "arguments": {"town": "Ulm"}}'}
    said = [{"from": "human", "value": "Rain?"}, call, {"from": "observation", "value": "dry"}]
    read = read_rows(
        {"conversations": said, "chosen": {"from": "gpt", "value": "No."}, "rejected": {"from": "gpt", "value": "Yes."}}
    )
    assert read.prompts() == [[("user", "Rain?"), ("assistant", ""), ("tool", "dry")]]
    assert fields_of(read.examples[0]["prompt"][1]) == {"tool_calls": [CALL]}


def test_columns_and_fields_that_are_not_used_are_counted(read_rows):
    row = pair_after(
        {**ASK, "weight": 1, "name": "Ann"}, chosen={**GOOD, "annotator": "x"}, source="web", empty="", meta={"a": 1}
    )
    read = read_rows(row, {**row, "source": None}, {**row, "rejected": [GOOD]})
    assert read.audit.unused == {"prompt[].weight": 2, "chosen[].annotator": 2, "meta": 2, "source": 1}


PART = {"type": "text", "text": "Rain?", "cache_control": {"type": "x"}}


@pytest.mark.parametrize(("message", "unused"), [
    ({"reasoning_content": ["Clouds?"]}, {"chosen[].reasoning_content": 1}),
    ({"reasoning": {"text": "Clouds?"}}, {"chosen[].reasoning": 1}),
    ({"reasoning_content": "Clouds?", "thinking": "Sun?"}, {"chosen[].thinking": 1}),
    ({"reasoning_content": "", "thinking": "Sun?"}, {}),
    ({"tool_calls": [CALL], "function_call": CALL["function"]}, {"chosen[].function_call": 1}),
    ({"text": "a", "value": "b"}, {"chosen[].text": 1, "chosen[].value": 1}),
    ({"from": "gpt"}, {"chosen[].from": 1}),
    ({"content": [PART, PART]}, {"chosen[].content[].cache_control": 2}),
    ({"content": {**PART, "text": {"value": "Rain?", "notes": [1]}}},
     {"chosen[].content.cache_control": 1, "chosen[].content.text.notes": 1}),
    ({"role": "function_call", "content": json.dumps(CALL), "name": "weather"}, {"chosen[].name": 1}),
    ({"role": "function_call", "content": CALL["function"]}, {}),
])  # fmt: skip
@pytest.mark.parametrize("write", [list, json.dumps])
def test_fields_of_messages_that_are_not_read_are_counted(read_rows, message, unused, write):
    read = read_rows({"prompt": [ASK], "chosen": write([{**GOOD, **message}]), "rejected": write([BAD])})
    assert (read.audit.num_kept_rows, read.audit.unused) == (1, unused)


def test_of_a_column_that_is_used_by_one_field_the_others_are_counted(read_rows):
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "scores": {"score_chosen": 2, "score_rejected": 1, "judge": "x"}}
    assert read_rows(row).audit.unused == {"scores.judge": 1}
    answers = [{"text": "a", "rank": 1, "model": "x"}, {"text": "b", "rank": 2, "model": "y"}]
    assert read_rows({"prompt": "p", "answers": answers}).audit.unused == {"answers[].model": 2}


ROSES = [{"role": "assistant", "content": "Roses are"}]


def test_the_last_message_is_learned_and_all_before_it_is_prompt(read_rows):
    answers = [[*ROSES, {"role": "assistant", "content": text}] for text in (" red", " blue")]
    read = read_rows({"prompt": [ASK], "chosen": answers[0], "rejected": answers[1]})
    assert read.prompts() == [[("user", "Rain in Ulm?"), ("assistant", "Roses are")]]
    assert read.pairs() == [(" red", " blue")]
    assert [note.note.partition(",")[0] for note in read.audit.notes] == ["the prompt ends with the assistant's turn"]


def test_answers_may_begin_with_a_call_that_both_share(read_rows):
    before = [{"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "dry"}]
    read = read_rows({"prompt": "Rain?", "chosen": [*before, GOOD], "rejected": [*before, BAD]})
    assert read.prompts() == [[("user", "Rain?"), ("assistant", ""), ("tool", "dry")]]


def test_a_greeting_before_the_question_repeats_no_prompt(read_rows):
    start = [{"role": "assistant", "content": "Hello."}, ASK]
    read = read_rows({"prompt": [ASK], "chosen": [*start, GOOD], "rejected": [*start, BAD]})
    assert read.prompts() == [[("assistant", "Hello."), ("user", "Rain in Ulm?")]]


def test_dialogues_that_differ_early_are_left_out_or_cut_where_they_do(read_rows):
    more = {"role": "user", "content": "Sure?"}
    row = {"chosen": [ASK, GOOD, more, GOOD], "rejected": [ASK, BAD, more, BAD]}
    same = {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}
    reason = "answers differ before the last one, which alone is learned"
    assert read_rows(same, row).dropped == {reason: [2]}
    columns = {"chosen": "chosen", "rejected": "rejected"}
    read = read_rows(row, mapping={"shape": "conversation_pair", "columns": columns, "options": {"first_difference": True}})
    assert (read.prompts(), read.pairs()) == ([[("user", "Rain in Ulm?")]], [("No.", "Yes.")])


def test_a_rated_answer_in_several_messages_ends_with_what_is_learned(read_rows):
    read = read_rows({"prompt": "Rain?", "response": [*ROSES, {"role": "assistant", "content": " red"}], "rating": 4})
    assert read.prompts() == [[("user", "Rain?"), ("assistant", "Roses are")]]
    assert read.examples[0]["responses"][0]["content"] == " red"
