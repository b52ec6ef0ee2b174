"""The OpenAPI document: complete, in sentences, with examples that hold; and no request it allows breaks the studio."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings

from app.domain.model import ModelRequest
from app.domain.recipe import Recipe
from app.services import accounts
from app.web.api import models, runs
from app.web.api.document import reference
from tests.web.conftest import URL

QUICK = hypothesis_settings(
    max_examples=4,
    phases=[Phase.generate],
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def document(studio):
    return studio.client().get("/openapi.json").json()


def operations(document):
    return [(method, path, entry) for path, methods in document["paths"].items() for method, entry in methods.items()]


def test_every_operation_has_an_id_a_tag_and_sentences(document):
    ids = [entry["operationId"] for _, _, entry in operations(document)]
    assert len(ids) == len(set(ids)) >= 30
    for method, path, entry in operations(document):
        assert entry["tags"], f"{method} {path}"
        assert entry["summary"], f"{method} {path}"
        assert entry["description"].strip().endswith((".", "format.")), f"{method} {path}: {entry['description']}"


def test_every_operation_of_version_1_tells_what_a_problem_looks_like(document):
    for method, path, entry in operations(document):
        if path.startswith("/api/v1"):
            assert "default" in entry["responses"], f"{method} {path}"
    assert set(document["components"]["schemas"]["Problem"]["required"]) >= {"type", "title", "status", "detail"}


def test_every_answer_with_a_body_says_what_it_is(document):
    for method, path, entry in operations(document):
        for status, answer in entry["responses"].items():
            if status.startswith("2") and status not in ("202", "204"):
                assert answer.get("content"), f"{method} {path}: {status}"


@pytest.mark.parametrize("example", runs.EXAMPLES.values(), ids=runs.EXAMPLES)
def test_the_recipes_of_the_document_are_recipes(example):
    assert Recipe.model_validate(example["value"])


@pytest.mark.parametrize("example", models.EXAMPLES.values(), ids=models.EXAMPLES)
def test_the_models_of_the_document_are_requests(example):
    assert ModelRequest.model_validate(example["value"])


FIGURES = {  # answers whose fields are figures: what a figure is can't be seen in its name
    "ScorePart", "EnsembleCheck", "RewardCheck", "DrawsFacts", "ScoringFacts", "PreviewCell", "PreviewResponse", "PreviewResult",
    "Suggestion", "CostView", "SettingView", "OutcomeView", "ExperimentView", "Addition", "KeptView", "ExperimentRequest",
}  # fmt: skip


def test_every_figure_and_every_setting_is_explained(document):
    schemas = document["components"]["schemas"]
    settings = {name for name in schemas if name.endswith("Settings")} | FIGURES
    assert [
        f"{name}.{field}"
        for name in sorted(settings)
        for field, entry in schemas[name]["properties"].items()
        if not (entry.get("description") or any("$ref" in one for one in (entry, *entry.get("allOf", ()))))
    ] == []


BOUND = {"string": "maxLength", "array": "maxItems", "object": "maxProperties"}
FREE = {  # any JSON, as far as a body may have values
    "SweepRequest.recipe", "SweepRequest.fields[][]", "SweepRequest.combinations[][]", "ExperimentRequest.recipe",
    "NewRecipeTemplate.recipe", "Addition.fields[][]",
}  # fmt: skip


def find_boundless(document, schema, where: str):
    """Names of the texts, lists and objects of a body that may be of any size."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        yield from find_boundless(document, document["components"]["schemas"][name], name)
        return
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())):
        yield from find_boundless(document, part, where)
    kind, listed = schema.get("type"), "enum" in schema or "const" in schema or "format" in schema
    if kind in BOUND and not listed and "properties" not in schema and BOUND[kind] not in schema:
        yield where
    for name, part in schema.get("properties", {}).items():
        yield from find_boundless(document, part, f"{where}.{name}")
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(key), dict):
            yield from find_boundless(document, schema[key], f"{where}[]")


def test_every_text_and_list_of_a_body_has_a_largest_size(document):
    bodies = [
        (entry["operationId"], content["schema"])
        for _, _, entry in operations(document)
        for kind, content in entry.get("requestBody", {}).get("content", {}).items()
        if kind == "application/json"
    ]
    assert len(bodies) >= 8
    assert {name for where, schema in bodies for name in find_boundless(document, schema, where)} <= FREE


def test_the_page_to_read_shows_every_operation(client, document):
    page = client.get("/docs")
    assert page.status_code == 200
    for _, _, entry in operations(document):
        assert f'id="{entry["operationId"]}"' in page.text


def test_the_page_to_read_shows_the_body_and_the_answers_of_every_operation(client, document):
    text = client.get("/docs").text
    parts = {part.split('"', 1)[0]: part for part in text.split('<details class="fold" id="')[1:]}
    schemas = document["components"]["schemas"]
    for method, path, entry in operations(document):
        shown = parts[entry["operationId"]].split("</details>")[0]
        for media, content in entry.get("requestBody", {}).get("content", {}).items():
            schema = content["schema"]
            fields = schemas[schema["$ref"].split("/")[-1]] if "$ref" in schema else schema
            assert media in shown, f"{method} {path}"
            for field in fields.get("properties", {}):
                assert f"<code>{field}</code>" in shown, f"{method} {path}: {field}"
        for status, response in entry["responses"].items():
            assert f"<code>{'errors' if status == 'default' else status}</code>" in shown, f"{method} {path}: {status}"
            for content in response.get("content", {}).values():
                reference = content.get("schema", {}).get("$ref", "").split("/")[-1]
                assert f'href="#schema-{reference}"' in shown or not reference, f"{method} {path}: {reference}"
    assert set(re.findall(r'href="#schema-([^"]+)"', text)) <= set(re.findall(r'id="schema-([^"]+)"', text)) == set(schemas)


@pytest.mark.long
def test_no_request_that_the_document_allows_breaks_the_studio(studio, document):
    """Generated bodies, parameters and headers over every operation: whatever comes, no 5xx."""
    with studio.database.writing() as session:
        accounts.create_user(session, "sender", "admin")
    client, checked = studio.client(), []

    def check(case: schemathesis.Case) -> None:
        sent = requests.Request(**case.as_transport_kwargs(base_url=URL)).prepare()
        headers = {
            name: value.encode("latin-1", "replace") if isinstance(value, str) else value for name, value in sent.headers.items()
        }
        response = client.request(sent.method, sent.url, headers=headers, content=sent.body)
        checked.append(case.path)
        assert response.status_code < 500, f"{case.method} {case.formatted_path}: {response.text}"

    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        client = studio.client(studio.make_token("sender"))  # the operation before may have been to sign out
        QUICK(given(case=result.ok().as_strategy())(check))()
    assert len(checked) > 100


def test_the_document_is_worked_out_once_however_many_ask_at_once(studio, monkeypatch):
    """A hundred requests for it, by one user, kept all others waiting for half a minute; and two of them broke."""
    made = []
    work_out = reference.work_out
    monkeypatch.setattr(reference, "work_out", lambda app: made.append(1) or work_out(app))
    if hasattr(studio.app.state, "reference"):
        del studio.app.state.reference
    client = studio.client()
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(client.get, ["/openapi.json", "/docs"] * 8))
    assert {answer.status_code for answer in answers} == {200}
    assert made == [1]
    assert answers[0].headers["content-type"] == "application/json"
