"""Every route to something that belongs to a user, asked by its owner, another member, an admin and a stranger."""

import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from app.domain.recipe import parse_recipe
from app.domain.sweep import parse_request
from app.services import accounts, recipe_templates, runs, scorings, sharing, sweeps
from app.services.comparing import comparisons
from app.store.database import now
from app.store.datasets import examples_path
from app.store.files.files import Files
from app.store.sharing import NOUNS
from app.store.tables import Answers, Comparison, Dataset, Model, PromptSet, RecipeTemplate, Run, Scoring, Sweep
from app.web import reading_requests
from tests.compared import Planted, plant_answers, plant_prompts
from tests.conftest import AUDIT
from tests.web.conftest import Studio

pytestmark = pytest.mark.long

TABLES: dict[str, type[Any]] = {
    "dataset": Dataset, "model": Model, "run": Run, "scoring": Scoring, "sweep": Sweep, "comparison": Comparison,
    "prompt_set": PromptSet, "answers": Answers, "recipe_template": RecipeTemplate,
}  # fmt: skip
ACCOUNTS = (
    "/login",
    "/vote/",
    "/api/v1/chats",
    "/playground",
    "/api/v1/endpoints",
    "/endpoints",
    "/api/v1/workers",
    "/api/v1/experiments",
    "/api/v1/users",
    "/api/v1/tokens",
    "/workers",
    "/tokens",
    "/users",
)
PATHS = {noun: f"{noun}s" for noun in TABLES} | {
    "prompt_set": "prompt-sets",
    "answers": "answers",
    "recipe_template": "recipe-templates",
}
MAPPING = {"shape": "pair", "columns": {"prompt": "a", "chosen": "b", "rejected": "c"}}
FARM = {"judge": "key_length"}
NAME = {"json": {"name": "Another"}}

READS = [
    *(f"/api/v1/datasets/{{dataset_id}}{rest}" for rest in ("", "/preview", "/audit", "/examples", "/file")),
    "/api/v1/datasets/{dataset_id}/examples.jsonl", "/api/v1/datasets/{dataset_id}/examples.csv",
    "/api/v1/datasets/{dataset_id}/lengths", "/api/v1/datasets/{dataset_id}/reading",
    "/api/v1/models/{model_id}", "/api/v1/models/{model_id}/check",
    *(f"/api/v1/scorings/{{scoring_id}}{rest}" for rest in ("", "/check", "/preview")),
    "/api/v1/sweeps/{sweep_id}",
    *(f"/api/v1/runs/{{run_id}}{rest}" for rest in ("", "/events", "/stream", "/metrics", "/weights", "/samples", "/findings")),
    *(f"/api/v1/runs/{{run_id}}{rest}" for rest in ("/log", "/artifacts", "/artifacts/{name:path}", "/model.zip")),
    "/api/v1/models/{model_id}/model.zip", "/runs/{run_id}/clock", "/runs/{run_id}/example",
    *(f"/runs/{{run_id}}{rest}" for rest in ("", "/live", "/standing", "/steering", "/result", "/series")),
    "/runs/{run_id}/samples", "/runs/{run_id}/weights",
    *(f"/sweeps/{{sweep_id}}{rest}" for rest in ("", "/live")),
    *(f"/scorings/{{scoring_id}}{rest}" for rest in ("", "/progress", "/preview")),
    *(f"/datasets/{{dataset_id}}{rest}" for rest in ("", "/mapping")),
    *(f"/models/{{model_id}}{rest}" for rest in ("", "/reading")),
    *(f"/api/v1/comparisons/{{comparison_id}}{rest}" for rest in ("", "/prompts", "/ballot", "/votes.jsonl", "/voters")),
    "/api/v1/comparisons/{comparison_id}/vote-links", "/comparisons/{comparison_id}",
    "/comparisons/{comparison_id}/vote", "/comparisons/{comparison_id}/print", "/comparisons/{comparison_id}/links",
    "/api/v1/prompt-sets/{prompt_set_id}", "/api/v1/prompt-sets/{prompt_set_id}/prompts", "/prompt-sets/{prompt_set_id}",
    *(f"/api/v1/answers/{{answers_id}}{rest}" for rest in ("", "/answers", "/tokens/{index}")),
    *(f"/answers/{{answers_id}}{rest}" for rest in ("", "/farm")),
    "/api/v1/recipe-templates/{recipe_template_id}",
    *(f"/recipe-templates/{{recipe_template_id}}{rest}" for rest in ("", "/recipe.json")),
]  # fmt: skip
QUERIES = {
    "/lengths": "?model={model_id}",
    "/reading": "?model={model_id}",
    "weights": "?step=1",
    "samples": "?step=1",
    "/farm": "?judge=key_length",
}
# What makes something of one's own out of what one may see.
USES: dict[str, dict[str, Any]] = {
    "POST /api/v1/models/{model_id}/copy": NAME,
    "POST /models/{model_id}/copy": {"data": {"name": "Another"}},
    "POST /api/v1/runs/{run_id}/clone": {},
    **{f"POST {api}/runs/{{run_id}}/{verb}": {} for api in ("", "/api/v1") for verb in ("tune", "follow-up")},
    "POST /runs/{run_id}/keep": {},
    "POST /scorings/{scoring_id}/request": {},
    "POST /api/v1/comparisons/{comparison_id}/votes": {"json": {"place": 0, "choice": "tie"}},
    "POST /api/v1/comparisons/{comparison_id}/votes/undo": {"json": {"num_votes": 1}},
    "POST /api/v1/comparisons/{comparison_id}/dataset": {"json": {}},
    "POST /comparisons/{comparison_id}/vote": {"data": {"place": "0", "choice": "tie"}},
    "POST /comparisons/{comparison_id}/vote/undo": {"data": {"num_votes": "1"}},
    "POST /comparisons/{comparison_id}/dataset": {"data": {"judge": "votes"}},
    "POST /prompt-sets/{prompt_set_id}/ask": {"data": {"model": "model:nowhere"}},
    "POST /api/v1/answers/{answers_id}/farm": {"json": FARM},
    "POST /api/v1/answers/{answers_id}/dataset": {"json": FARM},
    "POST /answers/{answers_id}/dataset": {"data": FARM},
}
CHANGES: dict[str, dict[str, Any]] = {
    **{f"PATCH /api/v1/{path}/{{{noun}_id}}": NAME for noun, path in PATHS.items()},
    **{f"DELETE /api/v1/{path}/{{{noun}_id}}": {} for noun, path in PATHS.items()},
    "POST /api/v1/datasets/{dataset_id}/mapping": {"json": MAPPING},
    "POST /api/v1/datasets/{dataset_id}/swap": {},
    **{f"POST /api/v1/runs/{{run_id}}/{verb}": {} for verb in ("cancel", "resume", "pause", "release")},
    "POST /api/v1/runs/{run_id}/move": {"json": {"to": "front"}},
    "POST /api/v1/sweeps/{sweep_id}/variants": {"json": {"lambda": [2]}},
    **{f"POST /api/v1/sweeps/{{sweep_id}}/{verb}": {} for verb in ("stop", "resume")},
    **{f"POST /runs/{{run_id}}/{verb}": {} for verb in ("pause", "release", "cancel", "resume")},
    **{f"POST /queue/{{run_id}}/{verb}": {} for verb in ("pause", "release")},
    **{f"POST /{page}/{{run_id}}/move": {"data": {"to": "front"}} for page in ("runs", "queue")},
    **{f"POST /{page}/{{run_id}}/priority": {"data": {"priority": "-1"}} for page in ("runs", "queue")},
    "POST /runs/{run_id}/where": {"data": {"where": "anywhere"}},
    "POST /runs/{run_id}/describe": {"data": {"tags": "one", "notes": "Two."}},
    "POST /sweeps/{sweep_id}/variants": {"data": {"lambda": "2"}},
    **{f"POST /sweeps/{{sweep_id}}/{verb}": {} for verb in ("stop", "resume")},
    "POST /datasets/{dataset_id}/mapping": {"data": {"shape": "pair", "columns.prompt": "a", "columns.chosen": "b"}},
    "POST /datasets/{dataset_id}/swap": {},
    "POST /api/v1/comparisons/{comparison_id}/vote-links": {"json": {"days": 1}},
    "DELETE /api/v1/comparisons/{comparison_id}/vote-links/{link_id}": {},
    "DELETE /api/v1/comparisons/{comparison_id}/voters/{voter_id}": {},
    "POST /api/v1/comparisons/{comparison_id}/judges": {"json": {"judges": [{"kind": "length"}]}},
    "POST /comparisons/{comparison_id}/judges": {"data": {"judge": "length"}},
    "POST /comparisons/{comparison_id}/links": {"data": {"days": "1"}},
    "POST /comparisons/{comparison_id}/links/{link_id}/revoke": {},
    "POST /comparisons/{comparison_id}/voters/{voter_id}/remove": {},
    "POST /api/v1/answers/{answers_id}/judges": {"json": {"judges": [{"kind": "length"}]}},
    "POST /answers/{answers_id}/judges": {"data": {"judge": "length"}},
    **{f"POST /answers/{{answers_id}}/{verb}": {} for verb in ("again", "cancel")},
    **{f"POST /{path}/{{{noun}_id}}/delete": {} for noun, path in PATHS.items()},
    **{f"POST /{path}/{{{noun}_id}}/rename": {"data": {"name": "Another"}} for noun, path in PATHS.items()},
    **{f"POST /{path}/{{{noun}_id}}/share": {"data": {"private": "no"}} for noun, path in PATHS.items()},
}
Family = dict[str, str]


class House:
    """A studio with Ada, who owns things, Eve, another member, an admin and a stranger."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        with studio.database.writing() as session:
            self.ada = accounts.create_user(session, "ada").id
        tokens = {"owner": studio.make_token("ada"), "member": studio.make_token("eve"), "admin": studio.token, "stranger": ""}
        self.people: dict[str, TestClient] = {who: studio.client(token) for who, token in tokens.items()}
        self.num_families = 0
        self.open = self.make()
        self.hidden = {noun: self.make(private=noun) for noun in TABLES}
        files: Files = studio.app.state.files
        examples = examples_path(files, studio.upload()["id"])
        for family in (self.open, *self.hidden.values()):
            target = examples_path(files, family["dataset"])
            target.parent.mkdir(parents=True)
            shutil.copy(examples, target)
            self.people["owner"].post(f"/api/v1/runs/{family['run']}/cancel")  # so that its stream ends

    def make(self, private: str = "") -> Family:
        """One of each noun that Ada owns; of these the `private` one is."""
        self.num_families += 1
        dataset, model = f"data_{self.num_families}", f"model_{self.num_families}"
        with self.studio.database.writing() as session:
            at = now(session)
            session.add(Dataset(
                id=dataset, owner_id=self.ada, name="Pairs", state="ready", filename="a.jsonl", size_bytes=9, sha256="d" * 64,
                mapping=MAPPING, audit=AUDIT.model_dump(mode="json"), num_examples=9, created_at=at,
            ))  # fmt: skip
            path = f"small/{self.num_families}"
            session.add(
                Model(id=model, owner_id=self.ada, name="Small", kind="policy", source="hub", path=path, facts={}, created_at=at)
            )
            session.flush()
            recipe = {"dataset": dataset, "policy": {"model": model}, "weights": {"lambda": 0.5}}
            family = {
                "dataset": dataset, "model": model, "run": runs.launch(session, self.ada, parse_recipe(recipe)).id,
                "scoring": scorings.request(session, self.ada, parse_recipe(recipe)).id,
                "sweep": sweeps.launch(session, self.ada, parse_request({"recipe": recipe, "lambda": [0.3, 1]})).id,
            }  # fmt: skip
            family["recipe_template"] = recipe_templates.create(session, self.ada, "Kept", recipe).id
            family |= self.compare(session)
            if private:
                sharing.set_private(session, session.get_one(TABLES[private], family[private]), True)
        return family

    def compare(self, session: Session) -> Family:
        """A comparison of two models' answers to a prompt set of its own."""
        files: Files = self.studio.app.state.files
        prompts = plant_prompts(session, files, self.ada, 3)
        answers = [plant_answers(session, files, prompts, Planted(name)).id for name in ("Kind", "Curt")]
        made = comparisons.create(session, self.ada, answers)
        return {"prompt_set": prompts.id, "answers": answers[0], "comparison": made.id}

    def ask(self, who: str, method: str, path: str, family: Family, **given: Any) -> str:
        """What becomes of a request: done, refused, hidden or "sign in"."""
        ids = {f"{noun}_id": key for noun, key in family.items()} | {"link_id": "link_1", "voter_id": "voter_1"}
        query = next((query for end, query in QUERIES.items() if path.endswith(end)), "")
        url = (path + query).replace("{name:path}", "recipe.json").format(**ids, index=0)
        response = self.people[who].request(method, url, **given)
        return verdict(response)


def verdict(response: Any) -> str:
    location = response.headers.get("location", "")
    if response.status_code == 401 or (response.status_code == 303 and location.startswith("/login")):
        return "sign in"
    if response.status_code == 403:
        assert "Ada" in response.text or "ada" in response.text, response.text[-3000:]
        return "refused"
    if response.status_code == 404 and re.search(f"There (is no ({'|'.join(NOUNS.values())})|are no answers) ", response.text):
        return "hidden"
    assert response.status_code in (200, 201, 202, 204, 303, 404, 409, 422, 503), response.text
    return "done"


@pytest.fixture(scope="module")
def house(studio: Studio) -> Iterator[House]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading_requests, "UNSERVED_SECONDS", 0.0)
        yield House(studio)


def noun_of(path: str) -> str:
    found = re.search(r"{(\w+)_id}", path)
    assert found
    return found[1]


def test_the_tables_below_name_every_route_to_what_belongs_to_a_user(studio: Studio) -> None:
    there = {
        f"{method} {route.path}"
        for route in iter_route_contexts(studio.app.routes)
        for method in getattr(route, "methods", None) or {"GET"}
        if method != "HEAD" and "{" in route.path and not route.path.startswith(ACCOUNTS)
    }
    of_all = {f"POST /{path}/{{{noun}_id}}/{verb}" for noun, path in PATHS.items() for verb in ("rename", "share")}
    told = {f"GET {path}" for path in READS} | USES.keys() | (CHANGES.keys() - of_all)
    assert told == there - {"POST /{noun}/{key}/rename", "POST /{noun}/{key}/share"}


@pytest.mark.parametrize("path", READS)
def test_what_is_shared_is_read_by_all_members_and_what_is_private_by_its_owner_and_admins(house: House, path: str) -> None:
    found = {who: house.ask(who, "GET", path, house.open) for who in house.people}
    assert found == {"owner": "done", "member": "done", "admin": "done", "stranger": "sign in"}
    found = {who: house.ask(who, "GET", path, house.hidden[noun_of(path)]) for who in house.people}
    assert found == {"owner": "done", "member": "hidden", "admin": "done", "stranger": "sign in"}


@pytest.mark.parametrize("route", CHANGES)
def test_what_is_shared_is_changed_by_its_owner_and_admins_alone(house: House, route: str) -> None:
    method, path = route.split()
    given, private = CHANGES[route], house.hidden[noun_of(path)]
    assert house.ask("stranger", method, path, house.open, **given) == "sign in"
    assert house.ask("member", method, path, house.open, **given) == "refused"
    assert house.ask("member", method, path, private, **given) == "hidden"
    assert house.ask("owner", method, path, house.make(), **given) == "done"
    assert house.ask("admin", method, path, house.make(private=noun_of(path)), **given) == "done"


@pytest.mark.parametrize("route", USES)
def test_what_is_shared_may_be_used_by_all_members(house: House, route: str) -> None:
    method, path = route.split()
    assert house.ask("stranger", method, path, house.open) == "sign in"
    assert house.ask("member", method, path, house.make(), **USES[route]) == "done"
    assert house.ask("member", method, path, house.hidden[noun_of(path)], **USES[route]) == "hidden"
