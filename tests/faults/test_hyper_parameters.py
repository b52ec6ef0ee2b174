"""Every setting of a recipe, a sweep and a scoring with absurd values: refused at its own path, or legal; never a 500."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from app.domain.recipe import Recipe
from app.services import accounts
from app.store.database import Database
from app.store.tables import User
from app.web import reading_requests
from app.web.recipes import RECIPE_FIELDS
from tests import warm
from tests.faults.web_process import running_web
from tests.web.conftest import Studio, make_app, opened

JSON = {"content-type": "application/json"}
NUMBERS = {
    "-1": "-1", "0": "0", "-1e308": "-1e308", "1e308": "1e308", "1e999": "1e999", "NaN": "NaN", "Infinity": "Infinity",
    "-Infinity": "-Infinity", "2^63": str(2**63), "-2^63 - 1": str(-(2**63) - 1), "10^400": "1" + "0" * 400, "0.5": "0.5",
}  # fmt: skip
OTHERS = {
    "null": "null", "empty text": '""', "text": '"x"', "NaN as text": '"NaN"', "digits of another script": '"٣"',
    "NUL": '"a\\u0000b"', "half a surrogate pair": '"\\ud800"', "1 MB": json.dumps("n" * 10**6), "list": "[]",
    "list of lists": "[" * 500 + "]" * 500, "object": "{}", "deep object": '{"a":' * 500 + "1" + "}" * 500, "true": "true",
    "a path": '"../../etc/passwd"',
}  # fmt: skip
VALUES = {**NUMBERS, **OTHERS}
MARK = '"@@here@@"'


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, migrated_sqlite: Path) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    with opened(make_app(folder, migrated_sqlite), folder) as studio:
        yield studio


def leaves(schema: dict[str, Any], root: dict[str, Any] | None = None, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Dotted paths of all settings with their JSON schemas; parts that are settings themselves are walked into."""
    root = root or schema
    for name, inner in schema["properties"].items():
        target = root["$defs"][inner["$ref"].rsplit("/", 1)[1]] if "$ref" in inner else inner
        here = f"{path}{name}"
        yield here, {**inner, "$defs": root["$defs"]}
        if "properties" in target:
            yield from leaves(target, root, f"{here}.")


FIELDS = dict(leaves(Recipe.model_json_schema(by_alias=True)))


def with_value(body: dict[str, Any], path: str, token: str) -> str:
    """The body as JSON with a raw token at a dotted path."""
    body = json.loads(json.dumps(body))
    *parents, last = path.split(".")
    place = body
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = json.loads(MARK)
    return json.dumps(body).replace(MARK, token)


def is_legal(schema: dict[str, Any], token: str) -> bool:
    """Whether the document allows the value; no schema can speak of what JSON itself doesn't have."""
    if token in ("NaN", "Infinity", "-Infinity", "1e999"):
        return False
    return not list(jsonschema.Draft202012Validator(schema).iter_errors(json.loads(token)))


def check_answer(response: Any, path: str, token: str, legal: bool) -> str:
    """ "" when the answer is right: taken, or refused with a sentence at the field; otherwise what is wrong with it."""
    what = f"{path} = {token[:40]}: {response.status_code} {response.text[:300]}"
    if response.status_code in (200, 202):
        return "" if legal or token in ("true", "0") else f"taken: {what}"  # true may stand for 1, and 0 for false
    if response.status_code != 422 or response.headers["content-type"] != "application/problem+json":
        return what
    problem = response.json()
    named = {one["field"] for one in problem["problems"]}
    if len(response.content) > 20_000 or not problem["detail"].endswith((".", ")")):
        return f"no sentence: {what}"
    if not named and "isn't JSON" in problem["detail"]:
        return ""
    if legal:  # it doesn't go with another setting, or names nothing that is there
        return "" if named else what
    return "" if any(field == path or field.startswith(f"{path}.") for field in named) else f"elsewhere: {what}"


def test_the_recipe_has_the_settings_that_are_walked():
    assert len(FIELDS) > 60
    assert {"name", "weights.lambda", "training.seed", "policy.lora.rank", "evaluation.top_p"} <= set(FIELDS)


@pytest.mark.parametrize("path", FIELDS)
def test_a_launch_takes_or_refuses_each_setting_at_its_path(studio, path):
    client, body = studio.client(), studio.ingredients()
    wrong = []
    for token in VALUES.values():
        response = client.post("/api/v1/runs", content=with_value(body, path, token), headers=JSON)
        wrong.append(check_answer(response, path, token, is_legal(FIELDS[path], token)))
    assert [one for one in wrong if one] == []


def test_a_setting_that_is_not_there_is_named(studio):
    for path in ("weights.lamda", "training.batch-size", "x", "policy.lora.Rank", "__proto__", "training.__class__"):
        response = studio.client().post("/api/v1/runs", content=with_value(studio.ingredients(), path, "1"), headers=JSON)
        assert response.status_code == 422
        assert {one["field"] for one in response.json()["problems"]} == {path}


@pytest.mark.parametrize("path", ["weights.lambda", "training.batch_size", "training.learning_rate", "name", "policy.model"])
@pytest.mark.parametrize("address", ["/api/v1/sweeps", "/api/v1/scorings"])
def test_sweeps_and_scorings_refuse_a_setting_of_their_recipe_too(studio, address, path):
    body = studio.ingredients()
    if address.endswith("sweeps"):
        body = {"recipe": body, "lambda": [0.1, 1.0]}
    full = f"recipe.{path}" if "recipe" in body else path
    for token in VALUES.values():
        response = studio.client().post(address, content=with_value(body, full, token), headers=JSON)
        assert response.status_code in (202, 422), f"{path} = {token[:40]}: {response.text[:300]}"
        assert len(response.content) < 20_000
        if response.status_code == 422 and "isn't JSON" not in response.text:
            assert response.json()["problems"], f"{path} = {token[:40]}: {response.text[:300]}"


@pytest.mark.parametrize("path", ["lambda", "lambda.0", "fields", "fields.training.seed", "baselines", "name", "recipe"])
def test_a_sweep_refuses_absurd_grids(studio, path):
    for token in VALUES.values():
        body: dict[str, Any] = {"recipe": studio.ingredients(), "lambda": [0.1, 1.0]}
        if path == "lambda.0":
            text = json.dumps({**body, "lambda": ["@@here@@"]}).replace(MARK, token)
        elif path == "fields.training.seed":
            text = json.dumps({**body, "fields": {"training.seed": ["@@here@@"]}}).replace(MARK, token)
        else:
            text = with_value(body, path, token)
        response = studio.client().post("/api/v1/sweeps", content=text, headers=JSON)
        assert response.status_code in (202, 422), f"{path} = {token[:40]}: {response.text[:300]}"
        if response.status_code == 422 and "isn't JSON" not in response.text:
            named = {one["field"] for one in response.json()["problems"]}
            first = path.split(".")[0]
            assert any(field.startswith((first, "fields", "training", "dataset")) for field in named), response.text[:300]


QUERIES = (
    "-1",
    "0",
    "1e308",
    "NaN",
    "Infinity",
    str(2**63),
    "1" + "0" * 400,
    "x",
    "",
    "n" * 5000,
    "\0",
    "../../etc/passwd",
    "[]",
)


def test_every_query_parameter_stands_absurd_values(studio, monkeypatch):
    monkeypatch.setattr(reading_requests, "UNSERVED_SECONDS", 0.01)  # nobody reads here
    client, document = studio.client(), studio.client().get("/openapi.json").json()
    run_id = studio.launch()
    known = {"run_id": run_id, "dataset_id": "data_pairs", "model_id": "model_policy", "scoring_id": "none", "sweep_id": "none"}
    asked = 0
    for path, methods in document["paths"].items():
        if "get" not in methods or path.endswith("/stream"):
            continue
        address = path
        for parameter in methods["get"].get("parameters", []):
            if parameter["in"] == "path":
                address = address.replace("{" + parameter["name"] + "}", known.get(parameter["name"], "some"))
        queries = [parameter for parameter in methods["get"].get("parameters", []) if parameter["in"] == "query"]
        needed = {parameter["name"]: "model_policy" for parameter in queries if parameter.get("required")}
        for parameter in queries:
            for value in QUERIES:
                response = client.get(address, params={**needed, parameter["name"]: value})
                asked += 1
                is_idle = response.status_code == 503 and "No worker is running" in response.text  # who reads texts
                is_idle |= response.status_code == 429 and "wait already" in response.text  # of one user's
                assert is_idle or response.status_code in (200, 404, 409, 422), (
                    f"{address}?{parameter['name']}={value[:40]}: {response.text[:300]}"
                )
                if response.status_code == 422:
                    assert response.json()["problems"][0]["field"].split(".")[0] == parameter["name"], response.text[:300]
    assert asked > 200


TYPED = ("-1", "1e308", "NaN", "inf", str(2**63), "-Infinity", "x", "0x10", "1_000", "n" * 3_000, "1e999", "<script>")
NUMERIC = {
    path for path, schema in FIELDS.items()
    if {"integer", "number"} & {one.get("type") for one in (schema, *schema.get("anyOf", []))}
}  # fmt: skip


@pytest.mark.parametrize("text", TYPED, ids=[text[:12] for text in TYPED])
def test_the_form_tells_every_number_that_is_none_beside_its_input(studio, text):
    """All numbers of the form at once: each input that can't take the text is marked, and nothing is launched."""
    browser, before = studio.browser(), studio.client().get("/api/v1/runs?limit=1").json()
    shown = [field.path for field in RECIPE_FIELDS if field.path in NUMERIC]
    values = {"dataset": "data_pairs", "policy.model": "model_policy", "weights.lambda": "0.5", "method": "var"}
    response = browser.post("/runs/new", data={**values, **dict.fromkeys(shown, text)})
    assert response.status_code == 422
    assert len(shown) > 25
    assert studio.client().get("/api/v1/runs?limit=1").json() == before
    assert response.text.count('aria-invalid="true"') > 10
    assert "<script>" not in response.text.split("<main")[1].replace("<script src", "").replace(
        '<script type="application/json"', ""
    )


def test_the_form_stands_a_name_of_a_megabyte_and_settings_it_does_not_know(studio):
    browser = studio.browser()
    values = {"dataset": "data_pairs", "policy.model": "model_policy", "weights.lambda": "0.5", "method": "var"}
    for extra in (
        {"name": "n" * 10**6},
        {"name": "a\0b"},
        {"method": "magic"},
    ):
        response = browser.post("/runs/new", data={**values, **extra})
        assert response.status_code in (413, 422), f"{str(extra)[:40]}: {response.status_code}"
    ignored = browser.post("/runs/new", data={**values, "training.__class__": "x", "no.such": "1"})
    assert ignored.status_code in (303, 422)


def bounded(max_examples: int) -> hypothesis_settings:
    return hypothesis_settings(
        max_examples=max_examples, phases=[Phase.generate], deadline=None, database=None, derandomize=max_examples < 10,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip


CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    with running_web(tmp_path_factory.mktemp("web"), popen=warm.Popen) as web:
        yield web


def walk_document(web, sign_in: Callable[[], dict[str, str]], judge: Any, max_examples: int) -> int:
    """Generated requests for every operation of the document, sent to a real process; how many.

    Before each operation the sender signs in anew: the one before may have been to sign out.
    """
    document, sent, headers = web.http.get("/openapi.json").json(), 0, {}

    def check(case: schemathesis.Case) -> None:
        nonlocal sent
        sent += 1
        case.headers = {name: value for name, value in (case.headers or {}).items() if name.lower() != "authorization"}
        judge(case, case.call(base_url=web.url, headers=headers, timeout=20))

    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        headers = sign_in()
        bounded(max_examples)(given(case=result.ok().as_strategy())(check))()  # a time-out raises
    return sent


def judge_as_writer(case: schemathesis.Case, response: Any) -> None:
    case.validate_response(response, checks=CHECKS)


REFUSED = (400, 401, 404, 405, 413, 415)


def judge_as_nobody(case: schemathesis.Case, response: Any) -> None:
    open_door = case.path == "/healthz"
    assert open_door or response.status_code in REFUSED, f"{case.method} {case.path}: {response.status_code}"


@pytest.mark.parametrize("max_examples", [3, pytest.param(200, marks=pytest.mark.soak)])
def test_whatever_the_document_allows_is_answered_as_it_says(web, max_examples):
    database = Database(web.settings)
    with database.writing() as session:
        writer = accounts.create_user(session, f"writer{max_examples}", "admin").id

    def sign_in() -> dict[str, str]:
        with database.writing() as session:
            return {"authorization": f"Bearer {accounts.create_token(session, session.get_one(User, writer), 'test')}"}

    assert walk_document(web, sign_in, judge_as_writer, max_examples) > 80
    database.close()


@pytest.mark.parametrize("max_examples", [2, pytest.param(50, marks=pytest.mark.soak)])
def test_whatever_the_document_allows_is_refused_to_who_is_not_signed_in(web, max_examples):
    assert walk_document(web, dict, judge_as_nobody, max_examples) > 50


def test_no_unsound_header_or_address_breaks_the_studio(web):
    for headers in (
        {"authorization": "Bearer " + "x" * 20_000},
        {"cookie": "studio_session=" + "y" * 9000},
        {"accept": "\u00ff"},
    ):
        with requests.Session() as session:
            encoded = {name: value.encode("latin-1") for name, value in headers.items()}
            assert session.get(f"{web.url}/api/v1/runs", headers=encoded, timeout=30).status_code in (400, 401, 431)
    for path in (
        "/%00",
        "/runs/%00",
        "/api/v1/runs/%ff%fe",
        "/api/v1/runs/" + "a" * 9000,
        "/static/%2e%2e/%2e%2e/etc/passwd",
        "//etc",
        "/..%2f..%2f",
    ):
        answer = web.http.get(path)
        assert answer.status_code < 500, f"{path[:40]}: {answer.status_code}"
        assert "root:x" not in answer.text
