"""Answers by real runners under a supervisor: killed twice, neither doubled nor lost, and trained on at once."""

import json
from typing import Any

import pytest

from app.domain.answering import layout
from tests.faults.runner.mishaps import Mishap
from tests.faults.runner.scene import Scene
from tests.waiting import wait_until

KILLS = (Mishap("artifact.written", "kill", 3, 1), Mishap("artifact.written", "kill", 2, 2))


def farm(scene: Scene, num_prompts: int, num_draws: int, max_new_tokens: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Answers whose runner is killed twice on its way, and the data set of the best against the worst."""
    text = "".join(f"the printer is broken {k}\n" for k in range(num_prompts))
    prompt_set = post(scene, "prompt-sets", {"text": text}, 201)
    body = {
        "prompt_set": prompt_set["id"], "model": {"source": "model", "model": scene.library.policy.id}, "n": num_draws,
        "sampling": {"max_new_tokens": max_new_tokens}, "judges": [{"kind": "length"}],
    }  # fmt: skip
    with scene.supervising(*KILLS):
        answers = post(scene, "answers", body, 202)
        scene.wait_for_state(answers["run_id"], "failed")  # a second kill is no accident
        assert post(scene, "answers", body, 202)["id"] == answers["id"]  # asking again goes on
        run = scene.wait_for_state(answers["run_id"], "succeeded")
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["lost", "lost", "succeeded"]
    ready = scene.get(f"/api/v1/answers/{answers['id']}")
    dataset = post(scene, f"answers/{answers['id']}/dataset", {"judge": ready["judgements"][0]["key"]}, 201)
    wait_until(lambda: scene.get(f"/api/v1/datasets/{dataset['id']}")["state"] == "ready", "the data set")
    return ready, scene.get(f"/api/v1/datasets/{dataset['id']}")


def post(scene: Scene, path: str, body: Any, status: int) -> Any:
    answer = scene.rest.post(f"/api/v1/{path}", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def assert_whole(scene: Scene, ready: dict[str, Any], num_prompts: int, num_draws: int) -> None:
    """Every answer and every score is there once."""
    folder = scene.files.answers_dir(ready["id"])
    wanted = [(index, draw) for index in range(num_prompts) for draw in range(num_draws)]
    for pattern in ("part-*.jsonl", "tokens-*.jsonl", "scores/*/part-*.jsonl"):
        rows = [json.loads(line) for path in sorted(folder.glob(pattern)) for line in path.read_text().splitlines()]
        assert [(row["index"], row["draw"]) for row in rows] == wanted
    assert (ready["facts"]["num_answers"], ready["judgements"][0]["facts"]["num_scored"]) == (len(wanted), len(wanted))


def test_a_farm_whose_runner_is_killed_twice_is_whole_and_trains(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PART_TOKENS", 64)  # runners are forked, so parts of four prompts are theirs as well
    ready, dataset = farm(scene, 12, 2, 8)
    assert_whole(scene, ready, 12, 2)
    assert dataset["audit"]["num_pairs"] == dataset["num_examples"] > 6
    with scene.supervising():
        run_id = scene.launch(dataset=dataset["id"], training={"steps": 2})
        scene.wait_for_state(run_id, "succeeded")
        compared = compare(scene, run_id)
    [pair] = compared["figures"]["judges"][0]["pairs"]
    assert (pair["num_prompts"], pair["is_same_model"], len(pair["gain"])) == (8, False, 4)
    assert compared["verdict"]


def compare(scene: Scene, run_id: str) -> dict[str, Any]:
    """The run's model against the policy that it came from, on prompts that neither has read."""
    prompt_set = post(scene, "prompt-sets", {"text": "".join(f"the lamp makes a noise {k}\n" for k in range(8))}, 201)
    models = ({"source": "run", "run": run_id}, {"source": "model", "model": scene.library.policy.id})
    shared = {"prompt_set": prompt_set["id"], "sampling": {"max_new_tokens": 8}, "judges": [{"kind": "length"}]}
    made = [post(scene, "answers", {**shared, "model": model}, 202) for model in models]
    for one in made:
        scene.wait_for_state(one["run_id"], "succeeded")
    found: dict[str, Any] = post(scene, "comparisons", {"answers": [one["id"] for one in made]}, 201)
    return found


@pytest.mark.soak
def test_a_farm_of_200_prompts_and_8_answers_killed_twice_is_whole_and_trains(scene: Scene) -> None:
    ready, dataset = farm(scene, 200, 8, 64)
    assert_whole(scene, ready, 200, 8)
    assert dataset["audit"]["num_pairs"] > 150  # of random weights, some answers are no text that can be kept
    with scene.supervising():
        run_id = scene.launch(dataset=dataset["id"], training={"steps": 8})
        scene.wait_for_state(run_id, "succeeded")
