import pytest

from app.domain.errors import DatasetInvalid
from app.domain.recipe import TokenSettings
from tests.worker.workshop import make_recipe
from worker.stages.examples import Lengths, fit_lengths, split


def test_every_prompt_is_wholly_on_one_side(workshop, prepare_rows):
    rows = workshop.examples(30)
    for k, row in enumerate(rows):
        row["prompt"] = rows[k % 10]["prompt"]  # each prompt three times
    prepared = prepare_rows(workshop.dataset(rows, "thrice"))
    held, kept = {e.turns for e in prepared.held_out}, {e.turns for e in prepared.train}
    assert held
    assert not held & kept
    assert len(prepared.held_out) == 6  # a fifth of 30, in whole prompts
    assert len(prepared.train) + len(prepared.held_out) == 30


def test_the_split_is_seeded_and_leaves_something_to_train_on(workshop, prepare_rows):
    examples = prepare_rows(workshop.dataset(workshop.examples())).train
    first, again, other = (split(examples, 0.3, seed)[1] for seed in (1, 1, 2))
    assert first == again != other
    assert split(examples, 0.0, 1) == (examples, [])
    assert split(examples[:1], 0.9, 1) == (examples[:1], [])


def test_limits_shrink_to_the_context_window():
    default = TokenSettings()
    assert fit_lengths(default, 128, None) == Lengths(512, 512, 128)
    assert fit_lengths(default, 128, 4096) == Lengths(512, 512, 128)
    assert fit_lengths(default, 128, 512) == Lengths(256, 256, 128)
    assert fit_lengths(TokenSettings(max_prompt=64), 128, 512) == Lengths(64, 448, 128)
    assert fit_lengths(TokenSettings(max_response=64), 500, 512) == Lengths(448, 64, 64)


def test_long_examples_are_cut_or_dropped_and_counted(workshop, prepare_rows):
    rows = workshop.examples(10)
    rows[3]["responses"][0]["content"] = "far too long " * 50
    path = workshop.dataset(rows, "long")
    cut = prepare_rows(path)
    assert cut.counts["responses cut"] == 1
    assert max(len(r.ids) for e in cut.train + cut.held_out for r in e.responses) == 48
    dropped = prepare_rows(path, make_recipe(tokens={"overlong": "drop"}))
    assert dropped.counts["over the token limits"] == 1
    assert len(dropped.train) + len(dropped.held_out) == 9


def test_pairs_that_are_equal_after_the_cut_are_counted(workshop, prepare_rows):
    rows = workshop.examples(6)
    start = "the very same beginning of both answers, again and again"
    rows[2]["responses"][0]["content"], rows[2]["responses"][1]["content"] = start + " good", start + " bad"
    prepared = prepare_rows(workshop.dataset(rows, "equal"), lengths=Lengths(64, 8, 12))
    assert (prepared.num_equal_pairs, prepared.num_pairs) == (1, 6)


def test_responses_without_the_wanted_reward_are_left_out(workshop, prepare_rows):
    rows = workshop.examples(6)
    rows[1]["responses"][0]["rating"] = None
    rows[2]["responses"][0]["rating"] = rows[2]["responses"][1]["rating"] = None
    prepared = prepare_rows(workshop.dataset(rows, "unrated"), make_recipe(reward={"source": "rating"}))
    examples = {e.example_id: e for e in prepared.train + prepared.held_out}
    assert prepared.counts["without a rating"] == 1
    assert [r.number for r in examples[1].responses] == [1]
    assert 2 not in examples


def test_only_the_first_examples_are_read_when_so_asked(workshop, prepare_rows):
    from app.domain.recipe import Recipe

    recipe = Recipe.model_validate({**make_recipe().to_dict(), "max_examples": 5})
    prepared = prepare_rows(workshop.dataset(workshop.examples()), recipe)
    assert {e.example_id for e in prepared.train + prepared.held_out} == {0, 1, 2, 3, 4}


def test_a_data_set_without_any_usable_example_says_why(workshop, prepare_rows):
    rows = workshop.examples(3)
    for row in rows:
        for response in row["responses"]:
            response["rating"] = None
    with pytest.raises(DatasetInvalid, match="without a rating: 3"):
        prepare_rows(workshop.dataset(rows, "none"), make_recipe(reward={"source": "rating"}))


def test_an_unreadable_data_set_is_one_sentence(tmp_path, prepare_rows):
    (tmp_path / "examples.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DatasetInvalid, match="can't be read"):
        prepare_rows(tmp_path / "examples.parquet")
