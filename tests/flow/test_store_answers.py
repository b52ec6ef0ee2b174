"""Answers by workers on hosts that share no folder with each other or the web: all that they share is the object store.

The models are behind a stand-in server, so the real runner answers, without torch.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.answering.endpoint import NewEndpoint
from app.services.acts import STUDIO
from app.services.answering import endpoints
from app.services.comparing import comparisons
from app.services.comparing.computing import compute
from app.settings import Settings
from app.store.answering.answers import list_judgements
from app.store.answering.lines import read_answers, read_scores
from app.store.database import Database
from app.store.files.object_folders import find_tree
from app.store.files.shared_files import SharedFiles
from app.store.tables import Answers, PromptSet
from tests.answered import ask, make_prompt_set
from tests.conftest import Library
from tests.flow.test_store_hosts import Work, kill_host
from tests.flow.test_store_hosts import place as place
from tests.flow.test_store_hosts import web as web
from tests.flow.test_store_hosts import work as work
from tests.flow.watching import wait_for_end
from tests.standin import StandIn, running
from tests.waiting import END_SECONDS, wait_until

ALLOWED = "127.0.0.1"
NUM_PROMPTS = 6
LONGEST = 16_384  # tokens of an answer: two prompts make a part
HELD = 5  # the question at which the first host is killed


class Held(StandIn):
    """Answers, but holds one question until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        super().__init__(self._answer)

    def _answer(self, number: int, asked: dict[str, Any]) -> str:
        if number == HELD:
            assert self.go.wait(END_SECONDS)
        return f"{'Long and ' * (number % 3)}kind, about {asked['messages'][-1]['content']}"


@pytest.fixture
def server() -> Iterator[Held]:
    held = Held()
    with running(held):
        yield held
        held.go.set()


def ask_endpoint(database: Database, settings: Settings, server: Held, prompt_set: PromptSet, name: str) -> Answers:
    """A model at the server is asked, and judged by length."""
    allowing = settings.model_copy(update={"endpoint_allowed_hosts": [ALLOWED]})
    asked = NewEndpoint(name=name, address=server.address, model=name, at_once=1)
    with database.writing() as session:
        endpoint = endpoints.add(session, allowing, STUDIO, asked).id
    return ask(
        database, prompt_set.owner_id, prompt_set.id, {"source": "endpoint", "endpoint": endpoint}, n=1,
        sampling={"max_new_tokens": LONGEST}, judges=[{"kind": "length"}],
    )  # fmt: skip


def stored_parts(web: SharedFiles, run_id: str) -> set[str]:
    """The parts that the first attempt has put into the store."""
    tree = find_tree(web.store, f"runs/{run_id}/attempts/1/answers")
    return {name for name in tree.files if name.startswith("part-")} if tree else set()


def test_answers_of_a_dead_host_go_on_elsewhere_and_the_web_compares_them(
    work: Work, database: Database, library: Library, web: SharedFiles, settings: Settings, server: Held, tmp_path: Path
) -> None:
    text = "\n".join(f"Question {k}?" for k in range(NUM_PROMPTS))
    prompt_set = make_prompt_set(database, web, library.user.id, text)
    first = ask_endpoint(database, settings, server, prompt_set, "Kind")
    options = {"STUDIO_ENDPOINT_ALLOWED_HOSTS": ALLOWED}
    host = work("host-a", "real", "parts=0.2", **options)
    run_id = str(first.run_id)
    wait_until(lambda: stored_parts(web, run_id) == {"part-000000.jsonl", "part-000001.jsonl"}, "two parts in the store")
    kill_host(host, tmp_path / "host-a", run_id, 1)
    server.go.set()
    work("host-b", "real", "parts=0.2", **options)
    run = wait_for_end(database, run_id)
    assert (run.state, run.attempt, run.worker_id) == ("succeeded", 2, "host-b")
    times = Counter(asked["messages"][-1]["content"] for asked in server.asked)
    assert [times[f"Question {k}?"] for k in range(NUM_PROMPTS)] == [1, 1, 1, 1, 2, 1]  # the one that was held, again
    second = ask_endpoint(database, settings, server, prompt_set, "Curt")
    assert wait_for_end(database, str(second.run_id)).state == "succeeded"
    with database.writing() as session:
        found = [session.get_one(Answers, one.id) for one in (first, second)]
        for answers in found:
            assert [row["index"] for row in read_answers(web, answers)] == list(range(NUM_PROMPTS))
            (judgement,) = list_judgements(session, [answers.id])
            assert len(read_scores(web, answers, judgement.key)) == NUM_PROMPTS
        compared = compute(session, web, comparisons.create(session, library.user.id, [one.id for one in found]))
    assert compared is not None
    assert compared.figures.num_prompts == NUM_PROMPTS
    assert stored_parts(web, run_id) == set()  # all of them are in their own place
