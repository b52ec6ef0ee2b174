import pytest

from app.domain.errors import DatasetInvalid, ModelInvalid
from app.domain.recipe import TokenSettings
from tests.worker.models.families import NO_SYSTEM
from tests.worker.workshop import make_recipe, make_tokenizer
from worker.models.prompts import PromptFormat
from worker.running.failures import explain
from worker.stages.examples import Lengths, fit_lengths, prepare
from worker.stages.split import split


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
    assert cut.notes.counts["responses cut"] == 1
    assert max(len(r.ids) for e in cut.train + cut.held_out for r in e.responses) == 48
    dropped = prepare_rows(path, make_recipe(tokens={"overlong": "drop"}))
    assert dropped.notes.counts["over the token limits"] == 1
    assert cut.notes.tell_left_out() == (0, 10, "")
    assert dropped.notes.tell_left_out() == (1, 10, "over the token limits: 1 (row 4)")
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
    assert prepared.notes.counts["without a rating"] == 1
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


def test_rows_that_a_template_refuses_are_named_with_its_own_sentence(workshop, tmp_path):
    rows = workshop.examples(8)
    for k in (2, 5):
        rows[k]["prompt"] = [{"role": "system", "content": "Be brief."}, *rows[k]["prompt"]]
    tokenizer = make_tokenizer(chat=True)
    tokenizer.chat_template = NO_SYSTEM + tokenizer.chat_template
    path, refusing, taking = (
        workshop.dataset(rows, "system"),
        PromptFormat.choose(tokenizer),
        PromptFormat.choose(make_tokenizer()),
    )
    told = {}
    for name, policy_format, reward_formats in (("policy", refusing, []), ("reward", taking, [taking, refusing])):
        prepared = prepare(make_recipe(), path, policy_format, Lengths(64, 48, 12), lambda *_: None, reward_formats)
        assert len(prepared.train) + len(prepared.held_out) == 6
        told[name] = prepared.notes.tell()
    assert "the chat template refuses it: no system turn, please: 2 (rows" in told["policy"]
    assert "of the reward model, the chat template refuses it: no system turn, please: 2 (rows" in told["reward"]


def test_a_template_that_takes_too_much_for_one_rows_text_fails_the_run_at_once_and_names_the_row(workshop):
    rows = workshop.examples(8)
    rows[5]["prompt"][0]["content"] += " Mind the trap."
    tokenizer = make_tokenizer(chat=True)
    tokenizer.chat_template = "{% if 'trap' in messages[0].content %}{{ 'x' * 10 ** 10 }}{% endif %}" + tokenizer.chat_template
    tokenizer.name_or_path = "models/trapped"
    path, trapped, plain = workshop.dataset(rows, "trap"), PromptFormat.choose(tokenizer), PromptFormat.choose(make_tokenizer())
    trapped.check("The policy")  # harmless for the texts of a check
    for policy_format, reward_formats in ((trapped, []), (plain, [trapped])):
        with pytest.raises(ModelInvalid) as failure:
            prepare(make_recipe(), path, policy_format, Lengths(64, 48, 12), lambda *_: None, reward_formats)
        told = explain(failure.value)
        assert told.reason.startswith(
            "The chat template in models/trapped needs more than 512 MiB of memory to write the conversation of row 6 that "
        )
        assert "Take the model's own template or leave the row out" in told.reason
        assert not told.retry


def test_a_data_set_that_is_refused_whole_says_why(workshop):
    rows = workshop.examples(3)
    for row in rows:
        row["prompt"] = [{"role": "system", "content": "Be brief."}, *row["prompt"]]
    tokenizer = make_tokenizer(chat=True)
    tokenizer.chat_template = NO_SYSTEM + tokenizer.chat_template
    with pytest.raises(DatasetInvalid, match="no system turn, please: 3"):
        prepare(
            make_recipe(), workshop.dataset(rows, "refused"), PromptFormat.choose(tokenizer), Lengths(64, 48, 12), lambda *_: None
        )


def test_the_share_of_cut_texts_is_kept(workshop, prepare_rows):
    rows = workshop.examples(10)
    rows[3]["responses"][0]["content"] = "far too long " * 50
    rows[4]["prompt"][0]["content"] = "a question without an end " * 50
    notes = prepare_rows(workshop.dataset(rows, "shares")).notes
    assert (notes.cut_prompts, notes.cut_responses) == ((1, 10), (1, 20))


def test_the_reward_is_asked_for_what_is_left_of_a_cut_response(workshop, prepare_rows):
    rows = workshop.examples(10)
    rows[3]["responses"][0]["content"] = "far too long " * 50
    prepared = prepare_rows(workshop.dataset(rows, "left"))
    [cut] = [e for e in prepared.train + prepared.held_out if e.example_id == 3]
    assert len(cut.responses[0].content) < 100
    assert ("far too long " * 50).startswith(cut.responses[0].content)
    assert cut.responses[1].content == rows[3]["responses"][1]["content"]
