"""REST: prompt sets and answers, from a pasted list to a data set."""

import json
from itertools import count

import pytest

from app.store.files.files import Files
from tests.answered import QUESTIONS, answer_all
from tests.waiting import wait_until

SEEDS = count()  # so that every test asks something that was not asked before


@pytest.fixture
def rest(studio):
    return studio.client()


def post(client, path, body, status):
    answer = client.post(f"/api/v1{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.fixture
def prompt_set(rest):
    return post(rest, "/prompt-sets", {"name": "Questions", "text": QUESTIONS}, 201)


def ask(studio, rest, prompt_set, **changes):
    policy = studio.ingredients()["policy"]["model"]
    body = {"prompt_set": prompt_set["id"], "model": {"source": "model", "model": policy}, "n": 2, "judges": [{"kind": "length"}],
        "sampling": {"seed": next(SEEDS)}}  # fmt: skip
    return post(rest, "/answers", {**body, **changes}, 202)


def test_a_prompt_set_is_made_read_renamed_and_deleted(rest, prompt_set):
    path = f"/api/v1/prompt-sets/{prompt_set['id']}"
    assert [one["messages"][0]["content"] for one in rest.get(f"{path}/prompts?start=1&limit=2").json()] == QUESTIONS.split("\n")[
        1:3
    ]
    assert rest.patch(path, json={"name": "Other"}).json()["name"] == "Other"
    assert rest.get("/api/v1/prompt-sets").json()["items"][0]["num_prompts"] == 4
    assert rest.delete(path).status_code == 204
    assert rest.get(path).status_code == 404


def test_a_list_is_uploaded_as_a_file(rest):
    lines = "".join(json.dumps({"turns": [f"Question {k}, please?", "And why?"]}) + "\n" for k in range(3))
    answer = rest.post("/api/v1/prompt-sets/file", files={"file": ("mt_bench.jsonl", lines)})
    assert answer.status_code == 201, answer.text
    assert (answer.json()["name"], answer.json()["facts"]["num_several_turns"]) == ("mt_bench.jsonl", 3)
    refused = rest.post("/api/v1/prompt-sets/file", files={"file": ("x.txt", b"\xff\xfe\x00")})
    assert (refused.status_code, refused.json()["problems"][0]["field"]) == (422, "file")


def test_answers_are_asked_for_read_and_judged(studio, rest, prompt_set):
    asked = ask(studio, rest, prompt_set)
    assert (asked["state"], asked["n"], asked["judgements"][0]["kind"]) == ("queued", 2, "length")
    run = rest.get(f"/api/v1/runs/{asked['run_id']}").json()
    assert (run["kind"], run["answers_id"], run["recipe"], run["dataset_id"]) == ("answers", asked["id"], {}, None)
    answer_all(studio.database, Files(studio.settings.root), asked["id"])
    ready = rest.get(f"/api/v1/answers/{asked['id']}").json()
    assert (ready["state"], ready["facts"]["num_answers"]) == ("ready", 8)
    key = ready["judgements"][0]["key"]
    texts = rest.get(f"/api/v1/answers/{asked['id']}/answers?start=1&limit=1").json()
    assert [(one["index"], one["draw"], one["scores"][key]) for one in texts] == [(1, 0, 8.0), (1, 1, 16.0)]
    more = post(rest, f"/answers/{asked['id']}/judges", {"judges": [{"kind": "pattern", "pattern": "yes"}]}, 202)
    assert (more["state"], len(more["judgements"])) == ("queued", 2)
    assert rest.get("/api/v1/answers?prompt_set=" + prompt_set["id"]).json()["items"][0]["id"] == asked["id"]
    assert rest.get("/api/v1/answers?run=run_none").json()["items"] == []


def test_uploaded_outputs_are_answers_without_a_run(rest, prompt_set):
    listed = json.dumps([{"instruction": "What is rain?", "output": "Water, mostly.", "generator": "other"}])
    answer = rest.post("/api/v1/answers/file", files={"file": ("outputs.json", listed)}, data={"prompt_set": prompt_set["id"]})
    assert answer.status_code == 201, answer.text
    assert (answer.json()["state"], answer.json()["model"], answer.json()["run_id"]) == (
        "ready",
        {"source": "upload", "name": "other"},
        None,
    )
    assert "3 prompts have no output" in answer.json()["remark"]


def test_a_name_that_can_not_be_is_refused_beside_a_file_too(rest, prompt_set):
    """Found by generated requests: these were answered with 500."""
    lines, listed = "What is rain?\n", {"instruction": "What is rain?", "output": "Water, mostly."}
    for path, content, data in (
        ("prompt-sets", lines, {"name": "one\x19two"}),
        ("answers", json.dumps([listed]), {"name": "one\x19two", "prompt_set": prompt_set["id"]}),
        ("answers", json.dumps([{**listed, "generator": "one\x19two"}]), {"prompt_set": prompt_set["id"]}),
    ):
        refused = rest.post(f"/api/v1/{path}/file", files={"file": ("list.json", content)}, data=data)
        assert (refused.status_code, refused.json()["problems"][0]["field"]) == (422, "name"), refused.text


def test_best_against_worst_is_a_data_set_at_once(studio, rest, prompt_set):
    asked = ask(studio, rest, prompt_set)
    key = asked["judgements"][0]["key"]
    early = rest.post(f"/api/v1/answers/{asked['id']}/dataset", json={"judge": key})
    assert (early.status_code, "all there yet" in early.json()["detail"]) == (409, True)
    answer_all(studio.database, Files(studio.settings.root), asked["id"])
    figures = post(rest, f"/answers/{asked['id']}/farm", {"judge": key, "margin": 4}, 200)
    assert (figures["num_prompts"], figures["mean_gap"], figures["longer_wins"]) == (4, 8.0, 1.0)
    made = post(rest, f"/answers/{asked['id']}/dataset", {"judge": key}, 201)
    wait_until(lambda: rest.get(f"/api/v1/datasets/{made['id']}").json()["state"] == "ready", "the data set")
    dataset = rest.get(f"/api/v1/datasets/{made['id']}").json()
    assert (dataset["audit"]["num_pairs"], dataset["audit"]["has_rating"], dataset["audit"]["has_preference"]) == (4, True, True)
    rows = [json.loads(line) for line in rest.get(f"/api/v1/datasets/{made['id']}/file").text.splitlines()]
    assert rows[0]["source"]["answers"] == asked["id"]
    assert (rows[0]["source"]["draws"], rows[0]["source"]["model_sha256"][:3]) == ([1, 0], "sha")
    unknown = rest.post(f"/api/v1/answers/{asked['id']}/dataset", json={"judge": "nobody"})
    assert "no scores of the judge 'nobody'" in unknown.json()["detail"]
    nothing = rest.post(f"/api/v1/answers/{asked['id']}/dataset", json={"judge": key, "margin": 99})
    assert (nothing.status_code, nothing.json()["problems"][0]["field"]) == (422, "margin")


@pytest.mark.parametrize("shape", ["pairs", "ranked", "best", "rated"])
def test_every_shape_is_a_data_set_whose_mapping_is_known(studio, rest, prompt_set, shape):
    asked = ask(studio, rest, prompt_set, n=3)
    answer_all(studio.database, Files(studio.settings.root), asked["id"])
    made = post(rest, f"/answers/{asked['id']}/dataset", {"judge": asked["judgements"][0]["key"], "shape": shape}, 201)
    wait_until(lambda: rest.get(f"/api/v1/datasets/{made['id']}").json()["state"] != "processing", "the data set")
    dataset = rest.get(f"/api/v1/datasets/{made['id']}").json()
    assert dataset["state"] == "ready", dataset
    counts = {"pairs": (12, 24), "ranked": (4, 12), "best": (4, 4), "rated": (4, 12)}[shape]
    assert (dataset["audit"]["num_examples"], dataset["audit"]["num_responses"]) == counts
