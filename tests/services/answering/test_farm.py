"""Answers become data sets: of questions of several turns, the conversation up to the last turn is the prompt."""

import json

import pytest

from app.domain.answering.farm import FarmRequest, FarmShape, Omission
from app.domain.answering.layout import name_part
from app.domain.errors import InvalidInput
from app.services.answering import farm
from app.store.answering.answers import list_judgements
from app.store.datasets import source_path
from app.store.tables import Model
from tests.answered import answer_all, ask, make_prompt_set, write

SEVERAL = "\n".join(json.dumps({"turns": turns}) for turns in (["What is rain?", "And snow?"], ["Who are you?", "Since when?"]))
SAID = [  # index, draw, what was said before, what then
    (0, 0, "Water.", "Ice."), (0, 1, "Water.", "Frozen water, my dear."), (1, 0, "A lamp.", "Long."), (1, 1, "A map.", "Always."),
]  # fmt: skip


@pytest.fixture
def judged(database, files, library):
    """Answers to two questions of two turns, judged by length, and the judge's key."""
    with database.writing() as session:
        session.get_one(Model, library.policy.id).facts = {"has_chat_template": True}
    prompt_set = make_prompt_set(database, files, library.user.id, SEVERAL)
    model = {"source": "model", "model": library.policy.id}
    answers = ask(database, library.user.id, prompt_set.id, model, judges=[{"kind": "length"}])
    answer_all(database, files, answers.id, {(index, draw): text for index, draw, _, text in SAID})
    rows = [
        {
            "index": index,
            "prompt_id": str(index),
            "draw": draw,
            "text": text,
            "finished": True,
            "num_tokens": 3,
            "earlier": [before],
        }
        for index, draw, before, text in SAID
    ]
    write(files.answers_dir(answers.id) / name_part(0), rows)
    with database.reading() as session:
        return answers, list_judgements(session, [answers.id])[0].key


def test_the_conversation_up_to_the_last_turn_is_the_prompt(database, files, library, judged):
    answers, key = judged
    with database.writing() as session:
        made = farm.make(session, files, library.user.id, answers.id, FarmRequest(judge=key))
        asked = FarmRequest(judge=key)
        figures = farm.preview(session, files, library.user.id, answers.id, asked)
    (row,) = [json.loads(line) for line in source_path(files, made.id).read_text().splitlines()]
    assert [(turn["role"], turn["content"]) for turn in row["prompt"]] == [
        ("user", "What is rain?"), ("assistant", "Water."), ("user", "And snow?"),
    ]  # fmt: skip
    assert (row["chosen"], row["rejected"], row["source"]["draws"]) == ("Frozen water, my dear.", "Ice.", [1, 0])
    assert (figures.num_prompts, figures.left_out) == (1, {Omission.OWN_TURNS: 1})


def test_what_is_left_out_is_said_where_nothing_is_made(database, files, library, judged):
    answers, key = judged
    with database.writing() as session, pytest.raises(InvalidInput) as refused:
        farm.make(session, files, library.user.id, answers.id, FarmRequest(judge=key, margin=1000))
    assert "1 prompt has several turns, and each answer follows other earlier answers" in refused.value.detail
    assert "1 prompt has no two answers whose scores lie further apart than the margin" in refused.value.detail
    with database.reading() as session:
        best = farm.preview(session, files, library.user.id, answers.id, FarmRequest(judge=key, shape=FarmShape.BEST))
    assert (best.num_rows, best.left_out) == (2, {})
