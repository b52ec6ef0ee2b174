"""Blind votes by a user and by people who came by a link: shown without names, kept once, counted, exported, trained on."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.compared import Planted, plant_comparison
from tests.web.conftest import URL
from tests.web.test_comparisons import owner_of

COMPARISONS = "/api/v1/comparisons"
MODELS = (Planted("Secretmodel-Kind", 1.0), Planted("Secretmodel-Curt"))


@pytest.fixture
def comparison(studio):
    return plant_comparison(studio.database, studio.app.state.files, owner_of(studio), MODELS, num_prompts=12)


@pytest.fixture
def link(client, comparison):
    """The address of a vote link."""
    made = client.post(f"{COMPARISONS}/{comparison.id}/vote-links", json={"days": 7})
    assert made.status_code == 201
    return made.json()["url"]


def join(studio, link, name):
    """A browser of somebody without an account, and the address of the booth."""
    browser = studio.client("", origin=URL)
    came = browser.post(link.removeprefix(URL), data={"name": name})
    assert came.status_code == 303, came.text
    return browser, came.headers["location"]


def read_ballot(page):
    """The place and the number of votes that a page or its part names."""
    place = re.search(r'name="place" value="(\d+)"', page)
    cast = re.search(r'name="num_votes" value="(\d+)"', page)
    return int(place[1]) if place else None, int(cast[1]) if cast else 0


def vote(browser, booth, place, choice="left"):
    answer = browser.post(booth, data={"place": place, "choice": choice, "seconds": 3}, headers={"hx-request": "true"})
    assert answer.status_code == 200, answer.text
    return answer.text


def list_lines(client, comparison):
    text = client.get(f"{COMPARISONS}/{comparison.id}/votes.jsonl").text
    return [json.loads(line) for line in text.splitlines()]


def test_a_link_asks_for_a_name_then_shows_ballots_that_name_nobody(studio, comparison, link):
    nobody = studio.client("")
    asked = nobody.get(link.removeprefix(URL))
    assert asked.status_code == 200
    browser, booth = join(studio, link, "Ben")
    page = browser.get(booth).text
    assert read_ballot(page) == (0, 0)
    after = vote(browser, booth, 0)
    assert read_ballot(after) == (1, 1)
    for shown in (asked.text, page, after, booth):
        assert "Secretmodel" not in shown
        assert comparison.id not in shown
        assert not any(answers_id in shown for answers_id in comparison.answers_ids)
    assert "Sweeps" not in page  # nor any other way into the studio


def test_who_came_by_a_link_sees_nothing_else(studio, comparison, link):
    browser, booth = join(studio, link, "Ben")
    for path in ("/", f"/comparisons/{comparison.id}", f"/comparisons/{comparison.id}/vote", "/comparisons"):
        assert browser.get(path).headers["location"].startswith("/login")
    assert browser.get(f"{COMPARISONS}/{comparison.id}").status_code == 401
    assert studio.client("").get(booth).status_code == 401  # without the cookie
    assert browser.get("/vote/booth/votelink_another").status_code == 401


def test_a_vote_sent_twice_or_by_an_ordinary_form_is_one_vote(studio, client, comparison, link):
    browser, booth = join(studio, link, "Ben")
    assert vote(browser, booth, 0) == vote(browser, booth, 0)
    plain = browser.post(booth, data={"place": 1, "choice": "both_bad"})
    assert (plain.status_code, plain.headers["location"]) == (303, booth)
    assert [line["choice"] for line in list_lines(client, comparison)] == ["left", "both_bad"]


def test_undo_goes_back_one_vote_and_the_same_request_again_no_further(studio, client, comparison, link):
    browser, booth = join(studio, link, "Ben")
    for place in range(3):
        vote(browser, booth, place)
    for _ in range(2):
        undone = browser.post(f"{booth}/undo", data={"num_votes": 3}, headers={"hx-request": "true"}).text
        assert read_ballot(undone) == (2, 2)
    assert len(list_lines(client, comparison)) == 2


def test_three_people_vote_at_once_and_none_is_lost_or_doubled(studio, client, comparison, link):
    people = [join(studio, link, name) for name in ("Ann", "Ben", "Cleo")]

    def vote_all(person):
        browser, booth = person
        for place in range(12):
            vote(browser, booth, place, ("left", "right", "tie")[place % 3])
            vote(browser, booth, place, ("left", "right", "tie")[place % 3])  # the browser was not sure that it was kept
        return browser.get(booth).text

    with ThreadPoolExecutor(3) as pool:
        for page in pool.map(vote_all, people):
            assert "That was all. Thank you!" in page
    lines = list_lines(client, comparison)
    assert len(lines) == 36
    assert {(line["voter"], line["prompt_id"]) for line in lines} == {
        (name, line["prompt_id"]) for name in ("Ann", "Ben", "Cleo") for line in lines
    }
    found = client.get(f"{COMPARISONS}/{comparison.id}").json()["votes"]
    assert (found["num_votes"], found["num_voters"], found["num_shared"]) == (36, 3, 12)
    assert found["alpha"][1] <= found["alpha"][0] <= found["alpha"][2]


def test_a_revoked_link_lets_nobody_vote_and_leaves_the_votes(studio, client, comparison, link):
    browser, booth = join(studio, link, "Ben")
    vote(browser, booth, 0)
    [known] = client.get(f"{COMPARISONS}/{comparison.id}/vote-links").json()
    assert known["url"] is None
    assert client.delete(f"{COMPARISONS}/{comparison.id}/vote-links/{known['id']}").status_code == 204
    for answer in (
        browser.post(booth, data={"place": 1, "choice": "left"}),
        browser.get(booth),
        studio.client("").get(link.removeprefix(URL)),
        browser.post(link.removeprefix(URL), data={"name": "Eve"}),
    ):
        assert answer.status_code == 401
        assert "Ask whoever sent it for a new one" in answer.text
    assert len(list_lines(client, comparison)) == 1


def test_guessed_links_are_slowed_down_as_logins_are(studio):
    studio.app.state.failed_tries.failures.clear()
    stranger = studio.client("", origin=URL)
    found = [stranger.get(f"/vote/guess{n}").status_code for n in range(12)]
    assert found == [401] * 10 + [429] * 2
    studio.app.state.failed_tries.failures.clear()


def test_a_foreign_page_can_not_vote(studio, comparison, link):
    browser, booth = join(studio, link, "Ben")
    for origin in ("http://evil.example", "null"):
        refused = browser.post(booth, data={"place": 0, "choice": "left"}, headers={"origin": origin})
        assert refused.status_code == 403
    assert studio.client("", origin="http://evil.example").post(link.removeprefix(URL), data={"name": "x"}).status_code == 403


@pytest.mark.parametrize(("name", "status"), [("", 422), (" ", 422), ("x" * 81, 422), ("a\nb", 422), ("<b>Ben</b>", 303)])
def test_a_voter_needs_a_name(studio, link, name, status):
    assert studio.client("", origin=URL).post(link.removeprefix(URL), data={"name": name}).status_code == status


def test_a_user_votes_over_rest_and_in_the_browser_as_one_voter(studio, client, comparison):
    address = f"{COMPARISONS}/{comparison.id}"
    ballot = client.get(f"{address}/ballot").json()
    assert (ballot["place"], ballot["num_votes"], ballot["num_ballots"]) == (0, 0, 12)
    assert ballot["left"] != ballot["right"]
    after = client.post(f"{address}/votes", json={"place": 0, "choice": "tie"})
    assert (after.status_code, after.json()["place"]) == (201, 1)
    browser = studio.browser()
    page = browser.get(f"/comparisons/{comparison.id}/vote").text
    assert read_ballot(page) == (1, 1)
    assert "Secretmodel" not in page[page.index("<main") :]
    vote(browser, f"/comparisons/{comparison.id}/vote", 1, "right")
    assert client.post(f"{address}/votes/undo", json={"num_votes": 2}).json()["num_votes"] == 1
    assert browser.post(f"/comparisons/{comparison.id}/vote/undo", data={"num_votes": 1}).status_code == 303
    [voter] = client.get(f"{address}/voters").json()
    assert (voter["name"], voter["by_link"], voter["num_votes"]) == ("admin", False, 0)
    assert client.post(f"{address}/votes", json={"place": 99, "choice": "tie"}).status_code == 422
    assert client.delete(f"{address}/voters/{voter['id']}").status_code == 204


def test_votes_and_a_judges_order_become_data_sets_that_are_ready(studio, client, comparison, link):
    address = f"{COMPARISONS}/{comparison.id}"
    assert client.post(f"{address}/dataset", json={}).status_code == 409
    browser, booth = join(studio, link, "Ben")
    for place in range(12):
        vote(browser, booth, place, "tie" if place == 3 else "left")
    made = client.post(f"{address}/dataset", json={"judge": "votes", "name": "By people"}).json()
    by_people = client.get(f"/api/v1/datasets/{made['id']}").json()
    assert (by_people["state"], by_people["num_examples"], by_people["audit"]["num_pairs"]) == ("ready", 11, 11)
    [example, *_] = client.get(f"/api/v1/datasets/{made['id']}/examples").json()["items"]
    lines = {line["prompt"][0]["content"]: line for line in list_lines(client, comparison)}
    line = lines[example["prompt"][0]["content"]]
    preferred = {one["preference"]: one["content"] for one in example["responses"]}
    assert (preferred[1], preferred[-1]) == (line["chosen"], line["rejected"])
    by_judge = client.post(f"{address}/dataset", json={"judge": "key_reward"}).json()
    assert client.get(f"/api/v1/datasets/{by_judge['id']}").json()["num_examples"] == 12
    assert client.post(f"{address}/dataset", json={"judge": "key_length"}).status_code == 422
    assert client.post(f"{address}/dataset", json={"judge": "key_reward", "margin": 1e9}).status_code == 409
    uploaded = client.get(f"{address}/votes.jsonl").content
    again = client.post("/api/v1/datasets", files={"file": ("votes.jsonl", uploaded)}).json()
    assert (again["state"], again["num_examples"]) == ("ready", 11)


def test_the_page_makes_links_shows_voters_and_makes_a_data_set(studio, comparison, link):
    browser = studio.browser()
    page = browser.get(f"/comparisons/{comparison.id}").text
    assert "Nobody has voted yet" in page
    made = browser.post(f"/comparisons/{comparison.id}/links", data={"days": 3})
    assert made.status_code == 201
    address = re.search(r'id="vote-link">(http[^<]+)<', made.text)[1]
    later = browser.get(f"/comparisons/{comparison.id}/links")
    assert (later.status_code, "It was shown once" in later.text, address in later.text) == (200, True, False)
    voter, booth = join(studio, address, "Ben")
    vote(voter, booth, 0)
    page = browser.get(f"/comparisons/{comparison.id}").text
    assert "1 vote by one person" in page
    assert "Ben" in page
    revoke = re.search(rf'action="(/comparisons/{comparison.id}/links/[^"]+/revoke)"', page)[1]
    remove = re.search(rf'action="(/comparisons/{comparison.id}/voters/[^"]+/remove)"', page)[1]
    made = browser.post(f"/comparisons/{comparison.id}/dataset", data={"judge": "votes"})
    assert made.headers["location"].startswith("/datasets/data_")
    assert browser.post(revoke).status_code == browser.post(remove).status_code == 303
    assert "Nobody has voted yet" in browser.get(f"/comparisons/{comparison.id}").text


def test_two_voters_of_one_name_are_told_apart(studio, client, comparison, link):
    for name in ("Ann", "Ann", "Ann"):
        join(studio, link, name)
    voters = client.get(f"{COMPARISONS}/{comparison.id}/voters").json()
    assert [one["name"] for one in voters] == ["Ann", "Ann (2)", "Ann (3)"]


def test_the_secret_of_a_vote_link_is_in_no_log(studio, link, caplog):
    from app.web.security import hide_secret

    assert hide_secret(link.removeprefix(URL)) == "/vote/…"
    assert hide_secret("/vote/booth/votelink_1/undo") == "/vote/booth/votelink_1/undo"
    assert hide_secret("/login/abc") == "/login/…"
    with caplog.at_level("DEBUG"):
        studio.client("").get(link.removeprefix(URL))
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("app.")]
    assert ours
    assert link.rsplit("/", 1)[1] not in str(ours)


def test_of_several_draws_voters_see_one_and_a_judge_takes_its_best_against_its_worst(studio, client):
    comparison = plant_comparison(
        studio.database, studio.app.state.files, owner_of(studio), MODELS, num_prompts=8, num_draws=3, judges=("reward",)
    )
    address = f"{COMPARISONS}/{comparison.id}"
    ballots = []
    for place in range(8):
        ballots.append(client.get(f"{address}/ballot").json())
        client.post(f"{address}/votes", json={"place": place, "choice": "left"})
    prompts = client.get(f"{address}/prompts").json()["items"]
    by_question = {one["messages"][0]["content"]: one["answers"] for one in prompts}
    assert all(len(drawn) == 3 for answers in by_question.values() for drawn in answers)
    for judge in ("votes", "key_reward"):
        made = client.post(f"{address}/dataset", json={"judge": judge}).json()["id"]
        examples = client.get(f"/api/v1/datasets/{made}/examples").json()["items"]
        assert len(examples) == 8
        pairs = {
            one["prompt"][0]["content"]: {each["preference"]: each["content"] for each in one["responses"]} for one in examples
        }
        if judge == "votes":
            seen = {one["messages"][0]["content"]: {1: one["left"], -1: one["right"]} for one in ballots}
            assert pairs == seen
        else:
            for question, pair in pairs.items():
                scores = [{one["text"]: one["scores"][judge] for one in drawn} for drawn in by_question[question]]
                assert pair[1] in {max(found, key=found.get) for found in scores}
                assert pair[-1] in {min(found, key=found.get) for found in scores}


def test_a_question_of_several_turns_is_shown_whole_and_gives_nothing_to_train_on(studio, client):
    models = [Planted(name, has_turns=True) for name in ("A", "B")]
    comparison = plant_comparison(studio.database, studio.app.state.files, owner_of(studio), models, num_prompts=3)
    address = f"{COMPARISONS}/{comparison.id}"
    ballot = client.get(f"{address}/ballot").json()
    assert {said.split()[2] for said in (*ballot["left_earlier"], *ballot["right_earlier"])} == {"A", "B"}
    assert "First of A" in studio.browser().get(f"/comparisons/{comparison.id}").text
    client.post(f"{address}/votes", json={"place": 0, "choice": "left"})
    assert "chosen" not in list_lines(client, comparison)[0]
    assert client.post(f"{address}/dataset", json={"judge": "votes"}).status_code == 409
