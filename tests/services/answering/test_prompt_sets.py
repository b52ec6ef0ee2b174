"""Prompt sets: from texts in the shapes people have, from data sets, and from what runs hold out."""

import json

import pytest

from app.domain.answering.prompt_set import DatasetPrompts, PromptSetRequest
from app.domain.errors import Conflict, InvalidInput
from app.services import runs
from app.services.answering import prompt_sets
from app.store.answering.lines import read_prompts
from tests.answered import make_prompt_set
from tests.help_desk import make_rows, write_rows


def gather(database, files, owner_id, **asked):
    with database.reading() as session:
        return prompt_sets.gather(session, files, owner_id, PromptSetRequest(**asked))


def test_a_prompt_set_is_written_once(database, files, library):
    first, again = (make_prompt_set(database, files, library.user.id) for _ in range(2))
    assert first.id == again.id
    assert [row["messages"][0]["content"] for row in read_prompts(files, first)][1] == "What is rain?"
    other = make_prompt_set(database, files, library.user.id, name="Others")
    assert (other.sha256, other.id != first.id) == (first.sha256, True)


def test_equal_prompts_count_once(database, files, library):
    made = make_prompt_set(database, files, library.user.id, "One?\nTwo?\nOne?\n\n")
    assert (made.num_prompts, made.facts["num_dropped"]) == (2, 1)


def test_text_or_a_source_is_needed(database, files, library):
    with pytest.raises(InvalidInput, match="as text, or name a data set"):
        gather(database, files, library.user.id)
    with pytest.raises(InvalidInput, match="either a data set or a run"):
        gather(database, files, library.user.id, source=DatasetPrompts())
    with pytest.raises(InvalidInput, match="no prompt in it"):
        gather(database, files, library.user.id, text=" \n ")


@pytest.fixture
def stocked(database, files, library):
    """Forty examples behind the library's data set."""
    folder = files.dataset_dir(library.dataset.id)
    folder.mkdir(parents=True)
    write_rows(make_rows(40), folder / "examples.parquet")
    with database.writing() as session:
        session.get_one(type(library.dataset), library.dataset.id).num_examples = 40
    return library


def test_a_data_sets_prompts_are_chosen_by_a_seed(database, files, stocked):
    def take(num, seed=0):
        source = DatasetPrompts(dataset=stocked.dataset.id, num_prompts=num, seed=seed)
        return gather(database, files, stocked.user.id, source=source).prompts

    everything, ten = take(100), take(10)
    assert (len(everything), len(ten)) == (40, 10)
    texts = [prompt.messages[0].content for prompt in everything]
    assert [prompt.messages[0].content for prompt in ten] == [
        text for text in texts if text in {p.messages[0].content for p in ten}
    ]
    assert {prompt.id for prompt in ten} != {prompt.id for prompt in take(10, seed=1)}
    assert all(prompt.reference for prompt in ten)  # the chosen response


def test_a_runs_held_out_prompts_are_those_it_says(database, files, stocked):
    with database.writing() as session:
        run = runs.launch(session, stocked.user.id, stocked.recipe())
    source = DatasetPrompts(run=run.id, part="validation")
    with pytest.raises(Conflict, match="does not say what it holds out"):
        gather(database, files, stocked.user.id, source=source)
    files.artifacts_dir(run.id).mkdir(parents=True)
    (files.artifacts_dir(run.id) / "held_out.json").write_text(json.dumps({"validation": [3, 7], "test": []}))
    gathered = gather(database, files, stocked.user.id, source=source)
    assert [prompt.messages[0].content[-1] for prompt in gathered.prompts] == ["3", "7"]
    assert (gathered.origin.kind, gathered.origin.part) == ("run", "validation")
    with pytest.raises(Conflict, match="has no test prompts"):
        gather(database, files, stocked.user.id, source=DatasetPrompts(run=run.id, part="test"))
