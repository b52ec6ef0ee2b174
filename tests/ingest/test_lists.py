"""Ranked lists, candidate lists and reply trees."""

import pytest

from app.domain.dataset import Shape
from app.domain.errors import MappingNeeded


def marks(example):
    return [(response["content"], response["rating"], response["preference"]) for response in example["responses"]]


def test_scored_responses_are_sorted_best_first(read_rows):
    read = read_rows({"prompt": "Hi", "responses": ["b", "c", "a"], "scores": [2, 1, 3.5]})
    assert read.shape is Shape.RANKED
    assert marks(read.examples[0]) == [("a", 3.5, 1), ("b", 2, 0), ("c", 1, -1)]
    assert read.audit.num_pairs == 1


@pytest.mark.parametrize("responses", ['["b", "c", "a"]', "['b', 'c', 'a']", "['b' 'c'\n 'a']"])
def test_lists_written_as_text_are_lists(read_rows, responses):
    columns = {"prompt": "prompt", "responses": "responses", "ratings": "scores"}
    read = read_rows(
        {"prompt": "Hi", "responses": responses, "scores": "[2, 1, 3.5]"}, mapping={"shape": "ranked", "columns": columns}
    )
    assert marks(read.examples[0]) == [("a", 3.5, 1), ("b", 2, 0), ("c", 1, -1)]


def test_answers_with_ranks_are_found_inside_objects(read_rows):
    read = read_rows({"prompt": "Hi", "answers": [{"answer": "bad", "rank": 2}, {"answer": "good", "rank": 1}]})
    assert read.mapping.columns == {"prompt": "prompt", "responses": "answers.answer", "ranks": "answers.rank"}
    assert marks(read.examples[0]) == [("good", -1, 1), ("bad", -2, -1)]


def test_several_scores_per_answer_are_not_guessed_but_can_be_mapped(read_rows):
    row = {"prompt": "Hi", "completions": [{"response": "a", "score": 1, "truth": 5}, {"response": "b", "score": 2, "truth": 3}]}
    with pytest.raises(MappingNeeded):
        read_rows(row)
    columns = {"prompt": "prompt", "responses": "completions.response", "ratings": "completions.truth"}
    assert read_rows(row, mapping={"shape": "ranked", "columns": columns}).pairs() == [("a", "b")]


def test_the_order_of_a_list_can_be_its_ranking(read_rows):
    mapping = {"shape": "ranked", "columns": {"prompt": "q", "responses": "texts"}, "options": {"best_first": True}}
    read = read_rows({"q": "Hi", "texts": ["best", "middle", "worst"]}, mapping=mapping)
    assert [mark for _, _, mark in marks(read.examples[0])] == [1, 0, -1]


def test_lists_that_do_not_fit_are_dropped(read_rows):
    row = {"prompt": "Hi", "responses": ["a", "b"], "scores": [2, 1]}
    read = read_rows(
        row,
        {**row, "scores": [1]},
        {**row, "scores": [1, None]},
        {**row, "responses": ["a"], "scores": [1]},
        {**row, "responses": ["a", "a"]},
        {**row, "responses": ["a", ""]},
        {**row, "scores": [1, 1]},
        {**row, "responses": [f"{n}" for n in range(65)], "scores": list(range(65))},
    )
    assert read.dropped == {
        "lists of different length": [2],
        "missing or unreadable rating": [3],
        "fewer than two responses": [4],
        "identical responses": [5],
        "empty response": [6],
        "too many responses": [8],
    }
    assert read.audit.facts["num_ties"] == 1


def candidates(**changes):
    dialogue = ["<|prompter|>Hi", "<|assistant|>Hello", "<|prompter|>Joke?", "<|assistant|>"]
    return {"prefix": [dialogue, dialogue], "suffix": ["yes", "no"], "reward": [-1.5, 2.0], "sft_index": 0, **changes}


def test_candidates_keep_the_rewards_and_the_choice_of_people(read_rows):
    read = read_rows(candidates())
    assert read.shape is Shape.CANDIDATES
    assert read.prompts() == [[("user", "Hi"), ("assistant", "Hello"), ("user", "Joke?")]]
    assert marks(read.examples[0]) == [("yes", -1.5, 1), ("no", 2.0, -1)]
    assert read.audit.facts["notes"] == {"best rating is not the chosen one": 1}


def test_candidates_without_a_choice_go_by_reward(read_rows):
    row = candidates()
    del row["sft_index"]
    assert read_rows(row).pairs() == [("no", "yes")]


def test_candidates_with_different_prefixes_or_a_bad_index_are_dropped(read_rows):
    other = [["<|prompter|>Hi", "<|assistant|>"], ["<|prompter|>Ho", "<|assistant|>"]]
    read = read_rows(candidates(), candidates(prefix=other), candidates(sft_index=2))
    assert read.dropped == {"prompt parts differ": [2], "missing or unknown label": [3]}


def reply(text, rank=None, role="assistant", replies=(), **more):
    return {"text": text, "role": role, "rank": rank, "replies": list(replies), **more}


def test_a_tree_gives_an_example_wherever_replies_are_ranked(read_rows):
    deeper = reply("And why?", role="prompter", replies=[reply("c", 1), reply("d", 0)])
    root = reply("Hi", role="prompter", replies=[reply("b", 1), reply("a", 0, replies=[deeper]), reply("x", 2, deleted=True)])
    read = read_rows({"message_tree_id": "t1", "prompt": root})
    assert (read.shape, read.audit.num_rows, read.audit.num_examples) == (Shape.REPLY_TREE, 1, 2)
    assert read.pairs() == [("a", "b"), ("d", "c")]
    assert read.prompts()[1] == [("user", "Hi"), ("assistant", "a"), ("user", "And why?")]


def test_trees_without_ranks_are_dropped_and_single_replies_counted(read_rows):
    ranked = [reply("a", 0, replies=[reply("More?", role="prompter", replies=[reply("only", 0)])]), reply("b", 1)]
    read = read_rows(
        {"prompt": reply("Hi", role="prompter", replies=ranked)},
        {"prompt": reply("Hi", role="prompter", replies=[reply("a"), reply("b")])},
        {"prompt": reply("Hi", role="prompter")},
    )
    assert read.dropped == {"replies without ranks": [2], "missing response": [3]}
    assert read.audit.facts["notes"] == {"skipped message: fewer than two responses": 1}
