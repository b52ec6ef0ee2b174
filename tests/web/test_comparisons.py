"""Comparisons over REST and in the browser: made, computed, sorted, searched, refused, deleted."""

import re
import threading

import pytest
from sqlalchemy import select

from app.domain.answering.layout import prompts_per_part
from app.services.comparing import computing
from app.store.database import now
from app.store.tables import Answers, Judgement, Run, User
from app.system.identifiers import new_id
from tests.compared import Planted, plant_answers, plant_comparison, plant_prompts, write_parts

COMPARISONS = "/api/v1/comparisons"


def owner_of(studio):
    with studio.database.reading() as session:
        return session.scalars(select(User.id).where(User.name == "admin")).one()


def plant(studio, *models, **options):
    planted = models or (Planted("Kind", 1.0), Planted("Curt"))
    return plant_comparison(studio.database, studio.app.state.files, owner_of(studio), planted, **options).id


@pytest.fixture
def comparison(studio):
    return plant(studio)


def test_a_comparison_says_who_wins_and_shows_its_figures(studio, client, comparison):
    found = client.get(f"{COMPARISONS}/{comparison}").json()
    assert found["state"] == "ready"
    assert found["verdict"].startswith("Kind beats Curt on ")
    assert [model["name"] for model in found["models"]] == ["Kind", "Curt"]
    [reward, length] = found["figures"]["judges"]
    assert (reward["kind"], length["kind"]) == ("reward", "length")
    assert reward["pairs"][0]["told_apart"]
    assert len(reward["pairs"][0]["win_rate"]) == 4
    assert found["votes"]["num_votes"] == 0
    assert comparison in [one["id"] for one in client.get(COMPARISONS).json()["items"]]


def test_answers_are_compared_by_their_ids_and_what_can_not_be_is_refused(studio, client):
    owner = owner_of(studio)
    with studio.database.writing() as session:
        mine, other = (plant_prompts(session, studio.app.state.files, owner, 4, name) for name in ("Mine", "Other"))
        one, two = (plant_answers(session, studio.app.state.files, mine, Planted(name)).id for name in ("A", "B"))
        elsewhere = plant_answers(session, studio.app.state.files, other, Planted("C")).id
    made = client.post(COMPARISONS, json={"answers": [one, two], "name": "Two"})
    assert made.status_code == 201
    assert made.json()["name"] == "Two"
    for ids, words in (([one, elsewhere], "only answers to the same prompt set"), ([one], "needs two answers or more")):
        refused = client.post(COMPARISONS, json={"answers": ids})
        assert refused.status_code == 422
        assert words in refused.json()["detail"]
    assert client.post(COMPARISONS, json={"answers": [one, "answers_none"]}).status_code == 404


def test_prompts_are_sorted_searched_and_paged(client, comparison):
    address = f"{COMPARISONS}/{comparison}/prompts"
    losses = client.get(address, params={"sort": "losses", "limit": 30}).json()
    gains = [one["gain"] for one in losses["items"]]
    assert gains == sorted(gains)
    rest = client.get(address, params={"sort": "losses", "after": losses["next"]}).json()
    assert rest["next"] is None
    assert {one["index"] for one in losses["items"] + rest["items"]} == set(range(40))
    turned = client.get(address, params={"sort": "gains", "pair": "1,0"}).json()["items"]
    assert [one["gain"] for one in turned][:30] == [-gain for gain in gains]
    [found] = client.get(address, params={"search": "question 17:"}).json()["items"]
    assert found["index"] == 17
    assert [len(drawn) for drawn in found["answers"]] == [1, 1]
    for pair in ("0,0", "0,2", "x"):
        assert client.get(address, params={"pair": pair}).status_code == 422


def test_a_comparison_is_renamed_and_deleted(client, comparison):
    assert client.patch(f"{COMPARISONS}/{comparison}", json={"name": "Mine"}).json()["name"] == "Mine"
    assert client.delete(f"{COMPARISONS}/{comparison}").status_code == 204
    assert client.get(f"{COMPARISONS}/{comparison}").status_code == 404


def test_the_page_leads_with_the_sentence_and_shows_prompts_with_losses_first(studio, comparison):
    page = studio.browser().get(f"/comparisons/{comparison}").text
    assert "Kind beats Curt on " in page
    assert "These are two different models, by the hashes of their weights" in page
    assert "Kind’s losses first" in page
    assert "&lt;b&gt;" in page  # of a prompt: texts are text
    assert "<b>" not in page
    assert page.count('class="example"') == 10
    assert 'rel="next"' in page


def test_the_page_of_three_models_has_strengths_and_a_matrix(studio):
    comparison = plant(studio, Planted("A", 1.0), Planted("B", 0.3), Planted("C"), num_prompts=60)
    page = studio.browser().get(f"/comparisons/{comparison}", params={"first": 2, "second": 1, "sort": "gains"}).text
    assert "is the strongest of 3 models by Reward judge" in page
    assert "may be best" in page
    assert "C’s gains first" in page
    assert page.count('<th scope="row">') == 3


def test_the_page_says_that_one_model_is_not_ranked_against_itself(studio):
    from app.domain.answering.answers import SamplingSettings

    cool = Planted("Cool", sha256="a" * 64, sampling=SamplingSettings(max_new_tokens=64, temperature=0.3))
    page = studio.browser().get(f"/comparisons/{plant(studio, Planted('Hot', 1.0, sha256='a' * 64), cool)}").text
    assert "are the same model, asked in two ways" in page
    assert "A model is not ranked against itself" in page
    assert "beats" not in page


def test_the_page_tells_uploaded_answers_from_those_of_an_endpoint(studio):
    comparison = plant(studio, Planted("Here", 1.0), Planted("Sent"), Planted("Served"))
    with studio.database.writing() as session:
        for name, source in (("Sent", "upload"), ("Served", "endpoint")):
            [answers] = session.scalars(select(Answers).where(Answers.model_name == name))
            answers.model, answers.facts = {"source": source, "name": name}, {**answers.facts, "model_sha256": None}
    for path, words in (("", "Sent (uploaded), Served (of an endpoint)."), ("/print", "weights not here: of an endpoint")):
        page = " ".join(studio.browser().get(f"/comparisons/{comparison}{path}").text.split())
        assert "Not all of these models are here, so that no weights prove whose answers some of these are" in page
        assert words in page


def test_a_comparison_in_the_making_shows_who_answers_and_asks_for_itself(studio, client):
    owner = owner_of(studio)
    run_id = client.post("/api/v1/runs", json=studio.ingredients()).json()["id"]
    with studio.database.writing() as session:
        prompts = plant_prompts(session, studio.app.state.files, owner, 4)
        one = plant_answers(session, studio.app.state.files, prompts, Planted("A")).id
        two = plant_answers(session, studio.app.state.files, prompts, Planted("B"), is_ready=False, run_id=run_id).id
    made = client.post(COMPARISONS, json={"answers": [one, two]}).json()
    assert (made["state"], made["verdict"], made["figures"]) == ("making", "", None)
    page = studio.browser().get(f"/comparisons/{made['id']}").text
    assert "Answers are being made" in page
    assert f'hx-get="/comparisons/{made["id"]}"' in page
    assert client.get(f"{COMPARISONS}/{made['id']}/prompts").status_code == 409
    with studio.database.writing() as session:
        session.get_one(Run, run_id).state = "failed"
    page = studio.browser().get(f"/comparisons/{made['id']}").text
    assert "Answers are missing" in page
    assert "hx-trigger" not in page[page.index('id="making"') :]
    assert "answering" in studio.browser().get("/comparisons").text


def test_a_comparison_waits_for_the_first_judge_who_ranks_and_names_who_still_judges(studio, client):
    run_id = studio.launch()
    with studio.database.writing() as session:
        files = studio.app.state.files
        prompts = plant_prompts(session, files, owner_of(studio), 8)
        rows = [plant_answers(session, files, prompts, Planted(name), run_id=run_id) for name in "AB"]
        ids = [row.id for row in rows]
        judgements = list(session.scalars(select(Judgement).where(Judgement.answers_id.in_(ids), Judgement.kind == "reward")))
        said = [judgement.facts for judgement in judgements]
        for judgement in judgements:
            judgement.facts = None
    made = client.post(COMPARISONS, json={"answers": ids}).json()
    assert (made["state"], made["figures"]) == ("making", None)
    page = studio.browser().get(f"/comparisons/{made['id']}").text
    assert "Answers are being judged" in page
    assert "when Reward judge has judged them" in page
    with studio.database.writing() as session:
        for judgement, facts in zip(judgements, said, strict=True):
            session.get_one(Judgement, judgement.id).facts = facts
        late = {"key": "late", "kind": "exact", "name": "Late judge", "judge": {}, "created_at": now(session)}
        session.add_all(Judgement(id=f"j{key}"[:40], answers_id=key, **late) for key in ids)
    assert client.get(f"{COMPARISONS}/{made['id']}").json()["state"] == "ready"
    assert "Late judge still judges" in studio.browser().get(f"/comparisons/{made['id']}").text
    with studio.database.writing() as session:
        session.get_one(Run, run_id).state = "cancelled"
    assert "still judges" not in studio.browser().get(f"/comparisons/{made['id']}").text


def test_what_differs_in_the_recipes_and_the_curves_stand_over_each_other(studio, client):
    from app.store.metrics import write_metrics

    owner, recipe = owner_of(studio), studio.ingredients()
    runs = [client.post("/api/v1/runs", json={**recipe, "weights": {"lambda": value}}).json()["id"] for value in (0.25, 0.75)]
    with studio.database.writing() as session:
        prompts = plant_prompts(session, studio.app.state.files, owner, 8)
        ids = []
        for run_id, name in zip(runs, "AB", strict=True):
            write_metrics(session, run_id, {("loss", step): 1.0 / (step + 1) for step in range(5)})
            ids.append(plant_answers(session, studio.app.state.files, prompts, Planted(name), model_run_id=run_id).id)
    made = client.post(COMPARISONS, json={"answers": ids}).json()["id"]
    page = studio.browser().get(f"/comparisons/{made}").text
    assert "what their recipes don’t have in common" in page
    assert {">0.25</td>", ">0.75</td>"} <= set(re.findall(r">[^<]*</td>", page))
    assert page.count("<polyline") == 2


def test_the_page_to_print_says_how_it_was_made(studio, comparison):
    page = studio.browser().get(f"/comparisons/{comparison}/print").text
    assert "Kind beats Curt on " in page
    assert "How it was made" in page
    assert page.count('class="example"') == 8


def test_a_colleagues_comparison_is_seen_and_not_changed_and_a_private_one_is_not_there(studio, client, comparison):
    from app.services import accounts

    with studio.database.writing() as session:
        accounts.create_user(session, "eve-compares")
    eve = studio.client(studio.make_token("eve-compares"))
    seen = (f"{COMPARISONS}/{comparison}", f"{COMPARISONS}/{comparison}/prompts", f"{COMPARISONS}/{comparison}/ballot")
    for address in seen:
        assert eve.get(address).status_code == 200
    for changed in (f"{COMPARISONS}/{comparison}/vote-links", f"/comparisons/{comparison}/links"):
        assert eve.post(changed, json={} if "api" in changed else None).status_code == 403
    assert eve.delete(f"{COMPARISONS}/{comparison}").status_code == 403
    assert client.patch(f"{COMPARISONS}/{comparison}", json={"private": True}).status_code == 200
    for address in seen:
        assert eve.get(address).status_code == 404


@pytest.fixture
def many(studio, monkeypatch):
    """A comparison that counts as large, and what lets its figures be computed."""
    go = threading.Event()
    work = computing._compute

    def wait_and_compute(*arguments):
        assert threading.current_thread().name != "computation" or go.wait(60)
        return work(*arguments)

    monkeypatch.setattr(computing, "SMALL", 0)
    monkeypatch.setattr(computing, "_compute", wait_and_compute)
    yield plant(studio), go
    go.set()
    computing.computations.wait()


def test_many_figures_are_computed_beside_the_requests(studio, client, many):
    comparison, go = many
    browser = studio.browser()
    assert client.get(f"{COMPARISONS}/{comparison}").json()["state"] == "computing"
    page = browser.get(f"/comparisons/{comparison}").text
    assert "Figures are being computed" in page
    assert 'hx-trigger="every 1s"' in page
    for address in (f"{COMPARISONS}/{comparison}/prompts", f"{COMPARISONS}/{comparison}/ballot"):
        early = client.get(address)
        assert (early.status_code, "are being computed" in early.json()["detail"], early.headers["retry-after"]) == (
            503,
            True,
            "5",
        )
    assert browser.get(f"/comparisons/{comparison}/print").status_code == 503
    go.set()
    computing.computations.wait()
    assert client.get(f"{COMPARISONS}/{comparison}").json()["state"] == "ready"
    assert "What it says" in browser.get(f"/comparisons/{comparison}").text


def test_a_small_comparison_does_not_wait_for_a_large_one(studio, client, many, monkeypatch):
    comparison, _ = many
    assert client.get(f"{COMPARISONS}/{comparison}").json()["state"] == "computing"
    with monkeypatch.context() as patch:
        patch.setattr(computing, "SMALL", 2000)
        assert client.get(f"{COMPARISONS}/{plant(studio)}").json()["state"] == "ready"


def test_the_page_asks_a_further_judge_for_all_answers_and_leads_to_them(studio, comparison):
    browser = studio.browser()
    page = browser.get(f"/comparisons/{comparison}").text
    answers = studio.client().get(f"{COMPARISONS}/{comparison}").json()["models"]
    assert all(f'href="/answers/{one["answers"]}"' in page for one in answers)
    assert f'action="/comparisons/{comparison}/judges"' in page
    assert "has not judged" not in page
    asked = browser.post(f"/comparisons/{comparison}/judges", data={"judge": ["exact"], "pattern": "[0-9]+"})
    assert asked.headers["location"] == f"/comparisons/{comparison}"
    with studio.database.reading() as session:
        wanted = select(Judgement).where(Judgement.answers_id.in_([one["answers"] for one in answers]), Judgement.facts.is_(None))
        kinds = [(one.answers_id, one.kind) for one in session.scalars(wanted)]
    assert sorted(kinds) == sorted((one["answers"], kind) for one in answers for kind in ("exact", "pattern"))
    assert "still judge" in browser.get(f"/comparisons/{comparison}").text
    nobody = browser.post(f"/comparisons/{comparison}/judges", data={})
    assert nobody.status_code == 422
    assert "Choose at least one judge" in nobody.text


def test_the_page_says_of_which_answers_a_judge_has_said_nothing(studio):
    comparison = plant(studio, Planted("A", 1.0), Planted("B"), Planted("C"))
    last = studio.client().get(f"{COMPARISONS}/{comparison}").json()["models"][2]["answers"]
    with studio.database.writing() as session:
        session.delete(session.scalars(select(Judgement).where(Judgement.answers_id == last, Judgement.kind == "reward")).one())
    assert studio.client().get(f"{COMPARISONS}/{comparison}").json()["unjudged"] == {"Reward judge": ["C"]}
    page = studio.browser().get(f"/comparisons/{comparison}").text
    assert "Reward judge has not judged the answers of C, so it says nothing about" in page
    assert "Length judge has not judged" not in page


def test_who_compared_the_answers_of_two_models_is_a_judge_of_their_comparison(studio, client):
    """A model that wins 30, ties 4 and loses 6 of 40 prompts against the other."""
    files = studio.app.state.files
    with studio.database.writing() as session:
        prompts = plant_prompts(session, files, owner_of(studio), 40)
        won, other = (plant_answers(session, files, prompts, Planted(name), judges=("length",)) for name in ("Won", "Other"))
        judgement = Judgement(
            id=new_id("judgement"), answers_id=won.id, key="key_pair", kind="llm", name="Reader against Other",
            judge={"kind": "llm", "endpoint": "endpoint_1", "against": other.id}, created_at=now(session),
            facts={"num_scored": 40, "num_prompts": 40, "mean": 0.8, "se": 0.05},
        )  # fmt: skip
        session.add(judgement)
        said = [1.0] * 30 + [0.5] * 4 + [0.0] * 6
        scores = [{"index": index, "draw": 0, "score": score} for index, score in enumerate(said)]
        write_parts(files.scores_dir(won.id, "key_pair"), scores, prompts_per_part(1, 64))
        ids = [won.id, other.id]
    found = client.post(COMPARISONS, json={"answers": ids}).json()
    reader = next(one for one in found["figures"]["judges"] if one["key"] == "key_pair")
    (pair,) = reader["pairs"]
    assert (pair["num_wins"], pair["num_losses"], pair["num_prompts"]) == (30, 6, 40)
    assert pair["win_rate"][0] == 0.8
    assert found["verdict"].startswith("Won beats Other on 80 % of 40 prompts")
    page = studio.browser().get(f"/comparisons/{found['id']}").text
    assert "By Reader against Other" in page
    assert "Reader against Other has not judged" not in page


def test_a_measure_stands_behind_the_judges_who_rank(studio, comparison):
    page = studio.browser().get(f"/comparisons/{comparison}").text
    assert page.index("By Reward judge") < page.index("a measure, which ranks nobody")


def test_a_picture_has_axes_and_what_a_figure_means_stands_beside_it(studio, comparison):
    page = " ".join(studio.browser().get(f"/comparisons/{comparison}").text.split())
    assert re.search(r'<text [^>]*text-anchor="end">\+[\d.]+ characters</text>', page)
    assert re.search(r">gain \+[\d.]+</text>", page)
    assert "ρ length is how far a judge’s score rises with the length" in page
    assert "so that the two can differ" in page
    assert "Bradley and Terry" not in page  # of two models there are no strengths
