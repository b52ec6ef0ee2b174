"""Every shape with two responses, on rows made by hand."""

import json

import pytest

from app.domain.dataset import Shape
from app.domain.errors import DatasetInvalid, MappingNeeded

ASK = {"role": "user", "content": "Why is the sky blue?"}
GOOD = {"role": "assistant", "content": "Air scatters blue light most."}
BAD = {"role": "assistant", "content": "Because."}
SKY = [("user", "Why is the sky blue?")]


def test_prompt_chosen_and_rejected_are_read_as_they_stand(read_rows):
    read = read_rows({"prompt": "Hi", "chosen": " Hello! ", "rejected": "What?", "id": 7})
    assert read.shape is Shape.PAIR
    assert read.prompts() == [[("user", "Hi")]]
    assert read.examples[0]["responses"] == [
        {"content": " Hello! ", "rating": None, "preference": 1, "fields": None},
        {"content": "What?", "rating": None, "preference": -1, "fields": None},
    ]
    assert read.examples[0]["meta"] == '{"id": 7}'
    assert read.audit.has_preference
    assert not read.audit.has_rating


def test_question_with_response_j_and_k_is_a_pair_whose_j_is_preferred(read_rows):
    read = read_rows({"question": "1+1?", "response_j": "2", "response_k": "3"})
    assert (read.shape, read.pairs()) == (Shape.PAIR, [("2", "3")])


def test_nested_scores_become_ratings(read_rows):
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b", "metadata": {"score_chosen": 9.0, "score_rejected": 8}}
    read = read_rows(row, {**row, "metadata": {"score_chosen": 5, "score_rejected": 5}}, {**row, "metadata": None})
    assert [[response["rating"] for response in example["responses"]] for example in read.examples] == [
        [9, 8],
        [5, 5],
        [None, None],
    ]
    assert read.audit.has_rating
    assert read.audit.facts["notes"] == {"rating tie": 1}


def test_two_sorts_of_scores_leave_the_ratings_out(read_rows):
    row = {"prompt": "Hi", "chosen": "a", "rejected": "b", "score_chosen": 1, "score_rejected": 0}
    read = read_rows({**row, "rating_chosen": 5, "rating_rejected": 6})
    assert not read.audit.has_rating


def test_transcripts_are_split_at_the_last_assistant_turn(read_rows):
    start = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: How are you?\n\nAssistant:"
    read = read_rows({"chosen": f"{start} Fine.", "rejected": f"{start} Go away."})
    assert read.shape is Shape.TRANSCRIPT_PAIR
    assert read.prompts() == [[("user", "Hi"), ("assistant", "Hello"), ("user", "How are you?")]]
    assert read.pairs() == [("Fine.", "Go away.")]


def test_transcripts_that_do_not_fit_are_dropped_with_their_reason(read_rows):
    good = {"chosen": "\n\nHuman: Hi\n\nAssistant: a", "rejected": "\n\nHuman: Hi\n\nAssistant: b"}
    read = read_rows(
        good,
        {**good, "rejected": "\n\nHuman: Hey\n\nAssistant: b"},
        {**good, "rejected": "\n\nHuman: Hi\n\nAssistant: "},
        {**good, "rejected": good["chosen"]},
        {**good, "rejected": "\n\nHuman: Hi\n\nAssistant: b\n\nHuman: c"},
        {"chosen": good["chosen"]},
    )
    assert read.dropped == {
        "prompt parts differ": [2],
        "empty response": [3],
        "identical responses": [4],
        "no assistant turn at the end": [5],
        "missing response": [6],
    }


def test_whole_conversations_share_their_beginning(read_rows):
    read = read_rows({"chosen": [ASK, GOOD], "rejected": [ASK, BAD]})
    assert (read.shape, read.prompts()) == (Shape.CONVERSATION_PAIR, [SKY])
    assert read.pairs() == [(GOOD["content"], BAD["content"])]


@pytest.mark.parametrize("prompt", ["Why is the sky blue?", [ASK]])
def test_an_explicit_prompt_may_be_text_or_messages(read_rows, prompt):
    whole = read_rows(
        {"prompt": prompt, "chosen": [ASK, GOOD], "rejected": [ASK, BAD], "score_chosen": 8.0, "score_rejected": 2.0}
    )
    answers = read_rows({"prompt": prompt, "chosen": [GOOD], "rejected": [BAD]})
    assert whole.shape is answers.shape is Shape.CONVERSATION_PAIR
    assert whole.prompts() == answers.prompts() == [SKY]
    assert whole.audit.has_rating


def test_answers_without_any_prompt_need_a_mapping(read_rows):
    with pytest.raises(MappingNeeded):
        read_rows({"chosen": [GOOD], "rejected": [BAD]})


def test_a_conversation_that_ends_with_the_user_is_dropped(read_rows):
    read = read_rows({"chosen": [ASK, GOOD], "rejected": [ASK, BAD]}, {"chosen": [ASK, GOOD, ASK], "rejected": [ASK, BAD]})
    assert read.dropped == {"no assistant turn at the end": [2]}


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [({"from": "gpt", "value": "Yes."}, {"from": "gpt", "value": "No."}), ("Yes.", "No.")],
)
def test_sharegpt_answers_may_be_messages_or_text(read_rows, chosen, rejected):
    said = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Is it?"}]
    read = read_rows({"conversations": said, "chosen": chosen, "rejected": rejected})
    assert read.shape is Shape.SHAREGPT_PAIR
    assert read.prompts() == [[("system", "Be brief."), ("user", "Is it?")]]
    assert read.pairs() == [("Yes.", "No.")]


def test_alpaca_puts_the_input_below_the_instruction(read_rows):
    row = {"instruction": "Correct this.", "input": "freind", "output": "friend", "rejected": "fiend", "chosen": "friend"}
    read = read_rows(row, {**row, "input": ""}, {**row, "instruction": " ", "input": ""})
    assert read.shape is Shape.ALPACA_PAIR
    assert read.prompts() == [[("user", "Correct this.\n\nfreind")], [("user", "Correct this.")]]
    assert read.dropped == {"empty prompt": [3]}


def test_history_and_system_come_before_the_prompt(read_rows):
    row = {"system": "Be kind.", "instruction": "And now?", "history": [["Hi", "Hello"]], "chosen": "a", "rejected": "b"}
    read = read_rows(row)
    assert read.prompts() == [[("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "And now?")]]


def test_votes_are_counted_and_ties_are_kept(read_rows):
    row = {"instruction": "Say hi", "input": "", "response1": "hi", "response2": "ho"}
    read = read_rows(
        *({**row, "annotator1": a, "annotator2": b, "annotator3": c} for a, b, c in [(2, 2, 1), (1, 1, 1), (0, 0, 2)])
    )
    assert (read.shape, read.pairs()) == (Shape.TWO_RESPONSES, [("ho", "hi"), ("hi", "ho"), ("hi", "ho")])
    assert [response["preference"] for response in read.examples[2]["responses"]] == [0, 0]
    assert read.audit.num_pairs == 2
    assert read.audit.facts["num_ties"] == 1
    assert read.audit.facts["notes"]["votes disagree"] == 2


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("output_1", "output_2"), (1, 2)),
        (("response_a", "response_b"), ("A", "B")),
        (("response_a", "response_b"), ("response_a", "response_b")),
        (("response_0", "response_1"), (0, 1)),
    ],
)
def test_a_label_that_names_its_response_is_understood(read_rows, names, labels):
    row = {"prompt": "Hi", names[0]: "first", names[1]: "second"}
    read = read_rows(*({**row, "label": label} for label in labels))
    assert read.pairs() == [("first", "second"), ("second", "first")]


def test_labels_0_and_1_for_responses_1_and_2_are_not_guessed(read_rows):
    rows = [{"prompt": "Hi", "response_1": "first", "response_2": "second", "label": label} for label in (0, 1)]
    with pytest.raises(MappingNeeded):
        read_rows(*rows)
    columns = {"prompt": "prompt", "response_a": "response_1", "response_b": "response_2", "label": "label"}
    options = {"first": "0", "second": "1", "tie": ""}
    read = read_rows(*rows, mapping={"shape": "two_responses", "columns": columns, "options": options})
    assert read.pairs() == [("first", "second"), ("second", "first")]


def test_a_label_may_be_graded(read_rows):
    rows = [{"prompt": "Hi", "a": "first", "b": "second", "overall": n} for n in (-2, 0, 3)]
    columns = {"prompt": "prompt", "response_a": "a", "response_b": "b", "label": "overall"}
    options = {"first": "-3,-2,-1", "second": "1,2,3"}
    read = read_rows(*rows, mapping={"shape": "two_responses", "columns": columns, "options": options})
    assert read.pairs() == [("first", "second"), ("first", "second"), ("second", "first")]
    assert read.audit.facts["num_ties"] == 1


def test_two_ratings_decide_without_a_label(read_rows):
    columns = {"prompt": "q", "response_a": "a", "response_b": "b", "rating_a": "ra", "rating_b": "rb"}
    read = read_rows(
        {"q": "Hi", "a": "x", "b": "y", "ra": 1, "rb": "2.5"}, mapping={"shape": "two_responses", "columns": columns}
    )
    assert read.pairs() == [("y", "x")]
    assert read.examples[0]["responses"][0] == {"content": "y", "rating": 2.5, "preference": 1, "fields": None}


def test_a_file_whose_labels_are_all_unknown_is_refused(read_rows):
    columns = {"prompt": "q", "response_a": "a", "response_b": "b", "label": "l"}
    with pytest.raises(DatasetInvalid, match=r"The one row .* missing or unknown label \(first in line 1\)"):
        read_rows({"q": "Hi", "a": "x", "b": "y", "l": "purple"}, mapping={"shape": "two_responses", "columns": columns})


def test_two_whole_conversations_bring_their_prompt(read_rows):
    columns = {"response_a": "conversation_a", "response_b": "conversation_b", "label": "winner"}
    row = {"conversation_a": [ASK, GOOD], "conversation_b": [ASK, BAD], "winner": "model_b"}
    options = {"first": "model_a", "second": "model_b", "tie": "tie,tie (bothbad)"}
    read = read_rows(row, mapping={"shape": "two_responses", "columns": columns, "options": options})
    assert (read.prompts(), read.pairs()) == ([SKY], [(BAD["content"], GOOD["content"])])


LISTED = {
    "shape": "pair",
    "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    "options": {"lists": "pairs"},
}


@pytest.mark.parametrize("write", [json.dumps, repr])
def test_lists_written_as_text_are_noted_until_they_are_read_as_lists(read_rows, write):
    rows = [
        {"prompt": "p", "chosen": write(["a", "b"]), "rejected": write(["c"])},
        {"prompt": "q", "chosen": "[a]", "rejected": write(["a"])},
    ]
    (note,) = read_rows(*rows).audit.notes
    assert note.note.startswith("responses are lists of texts written as text, and learned as they stand: set lists")
    assert note.lines == [1]
    read = read_rows(rows[0], mapping=LISTED)
    assert (read.pairs(), read.audit.notes) == ([("a", "c"), ("b", "c")], [])


def test_of_lists_only_the_pairs_that_are_alike_are_left_out(read_rows):
    rows = [{"prompt": "p", "chosen": ["a", "b"], "rejected": ["c", "a"]}, {"prompt": "q", "chosen": ["a"], "rejected": ["a"]}]
    read = read_rows(*rows, mapping=LISTED)
    assert read.pairs() == [("a", "c"), ("b", "c"), ("b", "a")]
    assert read.dropped == {"identical responses": [2]}
    assert read.audit.facts["notes"]["skipped pair: identical responses"] == 1
