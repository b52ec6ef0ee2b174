"""`varstudio compare`, `comparisons`, `votes` and `vote-links`, against the web within this process."""

import json

import pytest
from sqlalchemy import select

from app.commands.comparing.figures import estimate
from app.domain.answering.answers import SamplingSettings
from app.store.tables import Answers, Comparison, Judgement
from app.system.numbers import signed
from tests.compared import Planted, plant_answers, plant_comparison, plant_prompts
from tests.web.conftest import URL
from tests.web.test_comparisons import owner_of

KIND, CURT = Planted("Kind", 1.0), Planted("Curt")


def plant(studio, *models: Planted, **options) -> str:
    """Return a new comparison's id."""
    planted = models or (KIND, CURT)
    return plant_comparison(studio.database, studio.app.state.files, owner_of(studio), planted, **options).id


def vote(client, comparison: str, *choices: str) -> None:
    for place, choice in enumerate(choices):
        cast = client.post(f"/api/v1/comparisons/{comparison}/votes", json={"place": place, "choice": choice})
        assert cast.status_code == 201, cast.text


def test_compare_tells_the_sentence_whose_weights_and_who_agrees(studio, told, client):
    with studio.database.writing() as session:
        prompts = plant_prompts(session, studio.app.state.files, owner_of(studio), 40)
        ids = [plant_answers(session, studio.app.state.files, prompts, model).id for model in (KIND, CURT)]
    said = told("compare", *ids)
    comparison = said.splitlines()[0]
    assert comparison.startswith("comparison_")
    assert "Kind beats Curt on " in said
    assert "These are 2 different models, by the hashes of their weights: Kind Kind00000000, Curt Curt00000000." in said
    assert "strength" not in said  # which two models have no need of
    assert "vote" not in said
    vote(client, comparison, "left", "tie", "both_bad")
    said = told("compare", comparison)
    assert "3 votes by one person, of them 1 as good and 1 both bad." in said
    assert "people's votes and Reward judge  3 " in said
    assert json.loads(told("compare", comparison, "--json"))["state"] == "ready"


def test_compare_ranks_three_models_and_says_which_two_are_one(studio, told):
    twin = Planted("Twin", 1.0, sha256=f"{'Kind':0<64}", sampling=SamplingSettings(max_new_tokens=64, temperature=0.5))
    said = told("compare", plant(studio, KIND, CURT, twin))
    assert "Not all of these are different models" in said
    ranked = told("compare", plant(studio, KIND, CURT, Planted("Brief", -1.0))).splitlines()
    start = next(place for place, line in enumerate(ranked) if "beats an average model" in line)
    rows = {model: line.split()[-1] for model in ("Kind", "Curt", "Brief") for line in ranked[start : start + 4] if model in line}
    assert rows == {"Kind": "yes", "Curt": "no", "Brief": "no"}


def test_compare_says_where_no_weights_are(studio, told):
    comparison = plant(studio, KIND, CURT)
    with studio.database.writing() as session:
        uploaded = session.get_one(Answers, session.get_one(Comparison, comparison).answers_ids[1])
        uploaded.facts = {**uploaded.facts, "model_sha256": None}
    said = told("compare", comparison)
    assert "no hash proves" in said
    assert "Curt (weights not here)" in said


def test_compare_says_who_is_still_judging(studio, told):
    comparison = plant(studio, KIND, CURT)
    assert "Not all answers are judged yet" not in told("compare", comparison)
    told("comparisons", "judge", comparison, "--pattern", "rain")
    assert "Not all answers are judged yet: Pattern rain will say more." in told("compare", comparison, "--no-wait")


def test_compare_says_of_which_answers_a_judge_has_said_nothing(studio, told):
    comparison = plant(studio, KIND, CURT, Planted("Brief"))
    with studio.database.writing() as session:
        last = session.get_one(Comparison, comparison).answers_ids[2]
        session.delete(session.scalars(select(Judgement).where(Judgement.answers_id == last, Judgement.kind == "reward")).one())
    said = told("compare", comparison)
    assert "Reward judge has not judged the answers of Brief, so it says nothing about them" in said
    assert f"varstudio comparisons judge {comparison} asks it for all." in said


@pytest.mark.parametrize("rest", [-5e-17, 5e-17, 0.0])
def test_what_sums_leave_of_a_zero_is_told_as_zero(rest):
    assert estimate([0.5, rest, 1.0], signed) == f"+0.500 ({signed(0.0)} to +1.00)"


def test_compare_says_when_nobody_makes_the_answers(studio, refused):
    with studio.database.writing() as session:
        prompts = plant_prompts(session, studio.app.state.files, owner_of(studio), 4)
        ids = [
            plant_answers(session, studio.app.state.files, prompts, Planted(name), is_ready=name == "A").id for name in ("A", "B")
        ]
    assert "resume their run" in refused("compare", *ids)


def test_a_comparison_is_kept_private_shared_again_renamed_and_deleted(studio, told, client):
    with studio.database.writing() as session:
        prompts = plant_prompts(session, studio.app.state.files, owner_of(studio), 4)
        ids = [plant_answers(session, studio.app.state.files, prompts, Planted(name)).id for name in ("A", "B")]
    comparison = told("compare", *ids, "--name", "Mine alone", "--private").splitlines()[0]
    assert client.get(f"/api/v1/comparisons/{comparison}").json()["private"]
    assert "admin (private)" in told("comparisons", "list", "--mine")
    assert told("comparisons", "share", comparison) == "Mine alone is shared with all members.\n"
    assert "only admin and admins see it" in told("comparisons", "private", comparison)
    told("comparisons", "rename", comparison, "A against B")
    assert "A against B" in told("comparisons", "list")
    told("comparisons", "delete", comparison)
    assert client.get(f"/api/v1/comparisons/{comparison}").status_code == 404


def test_a_comparisons_prompts_are_read(studio, told, refused):
    comparison = plant(studio, num_prompts=6)
    said = told("comparisons", "prompts", comparison, "--limit", "1").splitlines()
    assert said[0].startswith("Prompt ")
    assert [line.split(":")[0].strip() for line in said[1:]] == ["user", "Kind", "Curt"]
    gains = [one["gain"] for one in json.loads(told("comparisons", "prompts", comparison, "--json"))]
    assert gains == sorted(gains)
    assert "Name two of the 2 models" in refused("comparisons", "prompts", comparison, "--pair", "0,7")


def test_judges_are_asked_about_all_answers_of_a_comparison(studio, told, refused, client):
    comparison = plant(studio, num_prompts=4)
    assert "varstudio compare shows" in told("comparisons", "judge", comparison, "--pattern", "kind", "--judge", "exact")
    for model in client.get(f"/api/v1/comparisons/{comparison}").json()["models"]:
        found = client.get(f"/api/v1/answers/{model['answers']}").json()
        assert {one["kind"] for one in found["judgements"]} == {"reward", "length", "pattern", "exact"}
    assert "Say who judges" in refused("comparisons", "judge", comparison)


def test_votes_are_downloaded_become_a_data_set_and_a_voter_is_removed(studio, told, refused, client, tmp_path):
    comparison = plant(studio, num_prompts=6)
    vote(client, comparison, "left", "right", "left")
    path = tmp_path / "votes.jsonl"
    assert told("votes", "download", comparison, "--to", str(path)) == f"{path}\n"
    assert len(path.read_text(encoding="utf-8").splitlines()) == 3
    for judge in ("votes", "Reward judge", "key_rew"):
        dataset = told("votes", "dataset", comparison, "--judge", judge, "--name", f"By {judge}").strip()
        assert client.get(f"/api/v1/datasets/{dataset}").json()["name"] == f"By {judge}"
    assert "Take one of: votes, Reward judge." in refused("votes", "dataset", comparison, "--judge", "nobody")
    voter = told("votes", "voters", comparison).splitlines()[1].split()
    assert voter[1:4] == ["admin", "no", "3"]
    told("votes", "remove", comparison, voter[0])
    assert len(told("votes", "voters", comparison).splitlines()) == 1


@pytest.mark.parametrize("command", [("vote-link",), ("vote-links", "create")])
def test_a_vote_link_is_made_listed_and_revoked(studio, told, refused, command):
    comparison = plant(studio, num_prompts=4)
    assert told(*command, comparison, "--days", "3").startswith(f"{URL}/vote/")
    listed = told("vote-links", "list", comparison).splitlines()
    assert len(listed[1].split()) == 3
    told("vote-links", "revoke", comparison, listed[1].split()[0])
    assert len(told("vote-links", "list", comparison).splitlines()[1].split()) == 4
    assert "vote link" in refused("vote-links", "revoke", comparison, "link_none")
