"""Readings over REST and on the pages: waited for, kept, reckoned anew at other lengths without a worker."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.domain.errors import InvalidInput
from app.services import previews
from app.store.tables import Model, Preview
from tests.browser.reader import NOTE, answer_reading
from tests.browser.studio import PROMPTS


@pytest.fixture
def policy(studio) -> str:
    """A policy of which nothing was read yet: the studio is that of all tests here."""
    with studio.database.writing() as session:
        session.query(Preview).delete()
    return str(studio.ingredients()["policy"]["model"])


@pytest.fixture
def worker(studio) -> Iterator[list[Any]]:
    """Answers readings until the test's end; a list of the jobs."""
    leaving, jobs = threading.Event(), []

    def work() -> None:
        while not leaving.wait(0.03):
            with studio.database.writing() as session:
                claim = previews.begin(session, studio.app.state.files, "reader", 30)
                if claim is not None:
                    jobs.append(claim.job)
                    previews.finish(session, claim.preview_id, "reader", answer_reading(claim.job))

    thread = threading.Thread(target=work)
    thread.start()
    yield jobs
    leaving.set()
    thread.join()


@pytest.fixture
def fails(studio) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Lets readings fail with an error."""
    leaving, errors = threading.Event(), []

    def work() -> None:
        while not leaving.wait(0.03):
            with studio.database.writing() as session:
                claim = previews.begin(session, studio.app.state.files, "reader", 30) if errors else None
                if claim is not None:
                    previews.fail(session, claim.preview_id, "reader", errors[0])

    thread = threading.Thread(target=work)
    thread.start()
    yield errors.append
    leaving.set()
    thread.join()


def test_a_check_shows_how_the_model_reads(studio, policy, worker):
    shown = studio.client().get(f"/api/v1/models/{policy}/check", params={"prompt": "Why so blue?"}).json()
    assert (shown["ok"], shown["problems"], shown["reading_missing"]) == (True, [], "")
    parts = {run["part"]: "".join(token["text"] for token in run["head"]) for run in shown["reading"]["view"]["runs"]}
    assert "Why so blue?" in parts["prompt"]
    assert parts["answer"] == "Because air scatters blue light more than red."
    assert shown["reading"]["notes"] == [NOTE]
    assert [message.role for message in worker[0].request.messages] == ["user", "assistant"]


def test_an_example_conversation_has_a_system_turn(studio, policy, worker):
    studio.client().get(f"/api/v1/models/{policy}/check")
    assert [message.role for message in worker[0].request.messages] == ["system", "user", "assistant"]


def test_without_a_worker_a_check_says_who_would_read(studio, policy):
    shown = studio.client().get(f"/api/v1/models/{policy}/check").json()
    assert (shown["ok"], shown["reading"]) == (True, None)
    assert shown["reading_missing"].startswith("No worker is running")


def test_a_tokenizer_that_can_not_be_loaded_fails_the_check(studio, policy, fails):
    fails({"code": "model-invalid", "detail": "The tokenizer can't be loaded: no files."})
    shown = studio.client().get(f"/api/v1/models/{policy}/check").json()
    assert shown["problems"][0]["message"] == "The tokenizer can't be loaded: no files."
    assert not shown["ok"]


def test_a_conversation_that_is_too_long_is_refused(studio, policy):
    refused = studio.client().get(f"/api/v1/models/{policy}/check", params={"prompt": "x" * 21_000})
    assert refused.status_code == 422
    assert "at most 20,000 characters" in refused.json()["detail"]


def test_lengths_are_measured_once_and_reckoned_at_every_limit(studio, policy, worker):
    address, client = "/api/v1/datasets/data_pairs/lengths", studio.client()
    first = client.get(address, params={"model": policy, "max_prompt": 104, "max_response": 369}).json()
    assert first["prompts"] == {
        "limit": 104, "share_cut": 0.59375, "median": 119, "p90": 183, "p99": 198, "longest": 199, "suggested": 224,
    }  # fmt: skip
    assert first["responses"]["suggested"] == 416
    second = client.get(address, params={"model": policy, "max_prompt": 199}).json()
    assert second["prompts"]["share_cut"] == 0.0
    assert len(worker) == 1
    assert (
        client.get(address, params={"model": policy, "max_prompt": 9000, "max_response": 512}).json()["prompts"]["limit"] == 7680
    )


def test_a_reward_models_lengths_are_of_whole_conversations(studio, policy, worker):
    with studio.database.writing() as session:
        session.add(Model(
            id="model_judge", owner_id=session.get_one(Model, policy).owner_id, name="Judge", kind="reward", source="hub",
            path="small/judge", facts={}, created_at=session.get_one(Model, policy).created_at,
        ))  # fmt: skip
    shown = (
        studio.client()
        .get("/api/v1/datasets/data_pairs/lengths", params={"model": "model_judge", "prompt_format": "plain"})
        .json()
    )
    assert shown["prompts"] is None
    assert (shown["responses"]["limit"], shown["responses"]["suggested"]) == (8192, None)
    assert shown["refused"] == [
        {"reason": "the chat template refuses it: no system turn, please", "count": 12, "lines": [3, 8, 13, 21, 34]}
    ]
    assert worker[0].request.prompt_format == "auto"


def test_an_example_is_read_at_the_limits(studio, policy, worker):
    shown = (
        studio.client()
        .get("/api/v1/datasets/data_pairs/reading", params={"model": policy, "example": 1, "max_response": 5, "reward": policy})
        .json()
    )
    assert [run["num_tokens"] for run in shown["answers"][0]["learned"]["runs"] if run["part"] == "answer"] == [5]
    assert shown["answers"][0]["read"]["runs"][0]["part"] == "read"


def test_what_is_not_there_or_not_ready_is_told(studio, policy):
    client = studio.client()
    assert client.get("/api/v1/datasets/data_pairs/lengths", params={"model": "model_none"}).status_code == 404
    assert client.get("/api/v1/datasets/none/reading", params={"model": policy}).status_code == 404
    late = client.get("/api/v1/datasets/data_pairs/lengths", params={"model": policy})
    assert late.status_code == 503
    assert late.headers["retry-after"] == "2"


def form(policy: str, **changes: str) -> dict[str, str]:
    return {"dataset": "data_pairs", "policy.model": policy, "tokens.max_prompt": "104", "tokens.max_response": "369", **changes}


def part(studio, path: str, values: dict[str, str]) -> str:
    answer = studio.browser().post(path, data=values, headers={"hx-request": "true"})
    assert answer.status_code == 200
    return " ".join(answer.text.replace("\u202f", " ").split())


def test_the_launch_form_tells_what_its_lengths_cut(studio, policy, worker):
    shown = part(studio, "/runs/new/lengths", form(policy))
    assert "<strong>59.4 %</strong> of the prompts are longer" in shown
    assert 'id="tokens-max_response-cut" hx-swap-oob="true"' in shown
    assert "Counted on all 640 examples." in shown
    kept = part(studio, "/runs/new/lengths", form(policy, **{"tokens.max_prompt": "200"}))
    assert "<strong>None</strong> of the prompts is longer" in kept
    assert len(worker) == 1


@pytest.mark.parametrize("limit", ["many", "-3", "0", "1.5"])
def test_a_limit_that_is_no_length_cuts_nothing_that_is_told(studio, policy, worker, limit):
    shown = part(studio, "/runs/new/lengths", form(policy, **{"tokens.max_prompt": limit}))
    assert "are longer" not in shown
    assert "Use 224" in shown


def test_the_window_of_the_policy_shortens_the_lengths_and_says_so(studio, policy, worker):
    shown = part(studio, "/runs/new/lengths", form(policy, **{"tokens.max_prompt": "9000"}))
    assert "longer than 7 823, which the policy’s context window leaves" in shown


def test_without_scripts_the_whole_page_comes_back_with_what_was_taken(studio, policy, worker):
    page = studio.browser().post("/runs/new/lengths", data=form(policy, **{"take.tokens.max_prompt": "224"})).text
    assert 'name="tokens.max_prompt" value="224"' in page
    assert "Counted on all 640" in page
    page = studio.browser().post("/runs/new/example", data=form(policy, **{"reading.example": "2"})).text
    assert "Example 2 of 640" in page
    assert page.count('class="token-view"') == 2


def test_the_example_of_a_launch_asks_for_its_data_first(studio):
    assert "Choose a data set and a policy first." in part(studio, "/runs/new/example", {"dataset": "", "policy.model": ""})
    assert "Choose a data set and a policy" in part(studio, "/runs/new/lengths", {"dataset": ""})


def test_what_can_not_be_read_is_told_on_the_form(studio, policy, fails):
    fails({"code": "model-invalid", "detail": "The policy can't be used with its chat template: it ends in <b>."})
    for path in ("lengths", "example"):
        assert "can&#39;t be used with its chat template: it ends in &lt;b&gt;." in part(
            studio, f"/runs/new/{path}", form(policy)
        )


def test_a_worker_that_is_late_is_asked_again(studio, policy):
    shown = part(studio, "/runs/new/lengths", form(policy))
    assert 'hx-trigger="load delay:2s"' in shown
    assert "No worker is running" in shown
    with studio.database.reading() as session:
        assert session.query(Preview).count() == 1


def test_a_models_page_shows_its_facts_and_asks_for_the_reading_itself(studio, policy, worker):
    browser = studio.browser()
    page = browser.get(f"/models/{policy}").text
    assert f'hx-get="/models/{policy}/reading"' in page
    assert worker == []
    assert "Because air" in browser.get(f"/models/{policy}/reading").text.replace('</span><span class="token" title="101">', "")
    assert PROMPTS[0][:9] in browser.get(f"/models/{policy}", params={"prompt": PROMPTS[0]}).text
    assert browser.get("/models/model_none").status_code == 404


def test_a_chat_template_without_an_end_fails_the_check(studio, policy, fails):
    sentence = "The chat template comes to no end."
    fails({"code": InvalidInput("").code, "detail": sentence, "problems": [{"field": "chat_template", "message": sentence}]})
    shown = studio.client().get(f"/api/v1/models/{policy}/check").json()
    assert (shown["ok"], shown["reading"], shown["reading_missing"]) == (False, None, sentence)
    assert [(problem["field"], problem["message"]) for problem in shown["problems"]] == [("chat_template", sentence)]
