"""An endpoint answers and judges under a supervisor whose runners are killed: nothing lost or doubled, and the key nowhere."""

import json
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from app.domain.answering.endpoint import NewEndpoint
from app.services.acts import STUDIO
from app.services.answering import endpoints
from app.store import portable
from tests.faults.runner.mishaps import Mishap
from tests.faults.runner.scene import Scene
from tests.faults.runner.test_answers import post
from tests.standin import Dropped, StandIn, Wrong, running

KEY = "sk-very-secret-0123456789"
KILLS = (Mishap("artifact.written", "kill", 3, 1), Mishap("artifact.written", "kill", 2, 2))
NUM_PROMPTS = 8
ALLOWED = {"endpoint_allowed_hosts": ["127.0.0.1"]}


def misbehave(number: int, asked: dict[str, Any]) -> Any:
    """Now and then busy, or gone; and it says the key back."""
    if number in (3, 25):
        return Wrong(429, headers=(("retry-after", "0"),))
    if number in (4, 26):
        return Dropped()
    text = asked["messages"][-1]["content"]
    return "Verdict: A" if "Answer A" in text else f"To {text} by {asked['seed']}, with {KEY}."


def add_endpoint(scene: Scene, stand_in: StandIn) -> str:
    asked = NewEndpoint(name="Lab", address=stand_in.address, model="small", key=SecretStr(KEY))
    with scene.database.writing() as session:
        return endpoints.add(session, scene.settings.model_copy(update=ALLOWED), STUDIO, asked).id


def find_key(scene: Scene) -> list[str]:
    """Where the key is: in a file of the studio, or in a row of its database."""
    found = [str(path) for path in Path(scene.settings.root).rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    with scene.database.reading() as session:
        for table in portable.list_tables():
            found += [table.name for line in portable.dump(session, table) if KEY.encode() in line]
    return found


def test_an_endpoint_that_misbehaves_answers_and_judges_and_its_key_is_nowhere(scene: Scene) -> None:
    prompt_set = post(scene, "prompt-sets", {"text": "".join(f"question {k}\n" for k in range(NUM_PROMPTS))}, 201)
    with running(StandIn(misbehave)) as stand_in:
        endpoint_id = add_endpoint(scene, stand_in)
        body = {
            "prompt_set": prompt_set["id"], "model": {"source": "endpoint", "endpoint": endpoint_id},
            "sampling": {"max_new_tokens": 8},
        }  # fmt: skip
        with scene.supervising(*KILLS, **ALLOWED):
            first = post(scene, "answers", body, 202)
            scene.wait_for_state(first["run_id"], "failed")  # a second kill is no accident
            assert post(scene, "answers", body, 202)["id"] == first["id"]
            scene.wait_for_state(first["run_id"], "succeeded")
        with scene.supervising(**ALLOWED):
            judge = {"kind": "llm", "endpoint": endpoint_id, "against": first["id"]}
            changed = {"sampling": {"max_new_tokens": 8, "seed": 1}, "judges": [judge]}
            second = post(scene, "answers", {**body, **changed}, 202)
            scene.wait_for_state(second["run_id"], "succeeded")
        assert {head["authorization"] for head in stand_in.headers} == {f"Bearer {KEY}"}
    assert_whole(scene, first["id"])
    facts = scene.get(f"/api/v1/answers/{second['id']}")["judgements"][0]["facts"]
    assert (facts["num_scored"], facts["mean"], facts["verdicts"]["num_unread"]) == (NUM_PROMPTS, 0.5, 0)
    for path in (f"/api/v1/runs/{first['run_id']}/events", f"/api/v1/answers/{first['id']}", "/api/v1/endpoints"):
        assert KEY not in scene.rest.get(path).text
    assert find_key(scene) == []


def assert_whole(scene: Scene, answers_id: str) -> None:
    """Every answer is there once, without the key."""
    parts = sorted(scene.files.answers_dir(answers_id).glob("part-*.jsonl"))
    rows = [json.loads(line) for path in parts for line in path.read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(NUM_PROMPTS))
    for row in rows:
        assert row["text"].startswith(f"To question {row['index']} by ")
        assert row["text"].endswith("with [key].")
