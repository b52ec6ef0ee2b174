import shutil

import pytest

from app.domain.answering.answers import SamplingSettings
from app.domain.errors import InvalidInput, NotFound, Unavailable
from app.services.comparing import comparisons, computing
from app.services.comparing.computing import compute, compute_votes
from app.services.comparing.overview import drop_common, look
from app.store.comparing import computed as store
from app.store.comparing.comparisons import get_comparison, list_comparisons, list_contenders, name_models
from app.store.tables import Answers, Comparison, Judgement
from tests.compared import Planted, plant_answers, plant_comparison, plant_prompts


@pytest.fixture
def comparison(database, files, user):
    return plant_comparison(database, files, user.id)


def test_a_comparison_is_listed_with_its_models(database, files, user, comparison):
    with database.writing() as session:
        [row] = list_comparisons(session, user.id)
        assert (row.comparison.name, row.models, row.num_prompts) == ("Kind and Curt on Help desk", ["Kind", "Curt"], 40)
        assert row.is_ready
        assert list_comparisons(session, user.id, after=comparison.id) == []
        session.get_one(Comparison, comparison.id).private = True
        with pytest.raises(NotFound):
            get_comparison(session, "user_other", comparison.id)


def test_what_can_not_be_compared_is_refused_in_a_sentence(database, files, user):
    with database.writing() as session:
        mine, other = (plant_prompts(session, files, user.id, 3, name) for name in ("Mine", "Other"))
        one = plant_answers(session, files, mine, Planted("A"))
        elsewhere = plant_answers(session, files, other, Planted("B"))
        twin = plant_answers(session, files, mine, Planted("Twin", sha256=one.facts["model_sha256"]))
        reseeded = plant_answers(
            session,
            files,
            mine,
            Planted("Again", sha256=one.facts["model_sha256"], sampling=SamplingSettings(max_new_tokens=64, seed=7)),
        )
        cool = plant_answers(
            session, files, mine,
            Planted("Cool", sha256=one.facts["model_sha256"], sampling=SamplingSettings(max_new_tokens=64, temperature=0.5)),
        )  # fmt: skip
        refused = {
            "needs two answers or more": [one.id, one.id],
            "only answers to the same prompt set": [one.id, elsewhere.id],
            "are answers of the same model, by the hash of its weights": [one.id, twin.id],
            "asked in the same way": [one.id, reseeded.id],
        }
        for words, ids in refused.items():
            with pytest.raises(InvalidInput, match=words):
                comparisons.create(session, user.id, ids)
        with pytest.raises(InvalidInput, match="at most 8 models"):
            comparisons.create(session, user.id, [plant_answers(session, files, mine, Planted(f"M{n}")).id for n in range(9)])
        cool.private = True
        session.flush()
        with pytest.raises(NotFound):
            comparisons.create(session, "user_other", [one.id, cool.id])
        shown = comparisons.create(session, user.id, [one.id, cool.id], "Two temperatures")
        found = compute(session, files, shown)
        assert all(pair.is_same_model and not pair.told_apart for judge in found.figures.judges for pair in judge.pairs)


def test_figures_are_computed_once_for_each_state(database, files, user, comparison, monkeypatch):
    with database.reading() as session:
        first = compute(session, files, comparison)
        assert first.figures.judges[0].pairs[0].told_apart
        assert [judge.kind for judge in first.figures.judges] == ["reward", "length"]
        monkeypatch.setattr("app.services.comparing.computing.read_answers", None)  # nothing is read again
        again = compute(session, files, comparison)
        assert again == first
    monkeypatch.undo()
    with database.writing() as session:
        for answers_id in comparison.answers_ids:
            session.add(
                Judgement(
                    id=f"j{answers_id}"[:40], answers_id=answers_id, key="key_late", kind="exact", name="Late", judge={},
                    model_id=None, run_id=None, facts={}, created_at=comparison.created_at,
                )
            )  # fmt: skip
    with database.reading() as session:
        later = compute(session, files, comparison)
    assert later.folder != first.folder
    assert [path.name for path in later.folder.parent.iterdir()] == [later.folder.name]


def test_texts_of_an_earlier_state_that_are_gone_are_told(database, files, user, comparison):
    with database.reading() as session:
        found = compute(session, files, comparison)
    shutil.rmtree(found.folder)
    for read in (lambda: found.read_texts([7]), lambda: found.search("Question")):
        with pytest.raises(Unavailable, match="computed anew"):
            read()


def test_nothing_of_a_comparison_comes_back_that_is_deleted_while_it_is_computed(database, files, user, comparison, monkeypatch):
    read = computing.read_prompts

    def delete_first(*of: object) -> object:
        with database.writing() as session:
            comparisons.delete(session, files, user.id, comparison.id)
        return read(*of)

    monkeypatch.setattr(computing, "read_prompts", delete_first)
    computing._compute_anew(database, files, comparison.id)
    assert not files.comparison_dir(comparison.id).exists()


def test_figures_wait_until_all_answers_are_there(database, files, user):
    with database.writing() as session:
        prompts = plant_prompts(session, files, user.id, 5)
        ready, making = (plant_answers(session, files, prompts, Planted(name), is_ready=name == "A") for name in ("A", "B"))
        comparison = comparisons.create(session, user.id, [ready.id, making.id])
        assert compute(session, files, comparison) is None
        contenders = list_contenders(session, comparison.answers_ids)
        assert [one.is_ready for one in contenders] == [True, False]
        assert contenders[1].has_failed  # no run makes them


def test_texts_are_read_by_prompt_and_searched(database, files, user, comparison):
    with database.reading() as session:
        found = compute(session, files, comparison)
    [line] = found.read_texts([7])
    assert line["messages"][0]["content"].startswith("Question 7:")
    assert len(line["answers"]) == 2
    assert line["answers"][0][0]["scores"].keys() == {"key_reward", "key_length"}
    assert found.search("QUESTION 17:") == {17}
    assert found.search('nothing "quoted" like this') == set()


def test_equal_texts_can_not_be_voted_on_and_missing_answers_are_left_out(database, files, user):
    with database.writing() as session:
        prompts = plant_prompts(session, files, user.id, 4)
        same = [plant_answers(session, files, prompts, Planted("A", sha256=digest * 64)) for digest in "ab"]
        comparison = comparisons.create(session, user.id, [one.id for one in same])
        assert compute(session, files, comparison).rows.contests == []


def test_names_of_models_are_told_apart(database, files, user):
    comparison = plant_comparison(database, files, user.id, [Planted("A", sha256="1" * 64), Planted("A", sha256="2" * 64)])
    with database.reading() as session:
        assert name_models(list_contenders(session, comparison.answers_ids)) == ["A (1)", "A (2)"]


def test_runs_of_one_sweep_are_called_by_what_they_differ_in(database, files, user):
    comparison = plant_comparison(database, files, user.id, [Planted("Kind · λ 0.2", 1.0), Planted("Kind · λ 1")])
    with database.reading() as session:
        found = look(session, files, comparison)
        assert (found.names, found.verdict.split(" on ")[0]) == (["λ 0.2", "λ 1"], "λ 0.2 beats λ 1")
    for names in (["Kind · λ 1", "Curt"], ["Kind", "Kinder"], ["Kind · λ 1", "Kind · "]):
        assert drop_common(names) == names


def test_a_deleted_comparison_leaves_the_answers(database, files, user, comparison):
    with database.reading() as session:
        kept = compute(session, files, comparison)
        compute_votes(session, comparison, list_contenders(session, comparison.answers_ids), kept)
    with database.writing() as session:
        comparisons.delete(session, files, user.id, comparison.id)
    assert not files.comparison_dir(comparison.id).exists()
    with database.reading() as session:
        assert session.query(Answers).count() == 2
    assert store.find_kept(files, comparison.id, "x") is None
