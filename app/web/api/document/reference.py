"""The API described: the OpenAPI document, and a page to read it that needs no script."""

import json
import threading
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from app.web.api.document.schemas import REF, SchemaField, SchemaShape, TypePart, kind_of, list_fields, list_schemas
from app.web.dependencies import read_apart
from app.web.rendering.environment import Context, render

DESCRIPTION = """\
Upload preference data, launch VAR runs, and watch weights, rewards and side-by-side generations.

Send a token with every request: `Authorization: Bearer …` (make one with `varstudio tokens create`).
Every error is `application/problem+json` with a sentence in `detail` and the fields at fault in `problems`.
Lists come newest first, a page at a time: pass the `next` of a page as `after` to get the one behind it.
"""

TAGS = [
    {"name": "datasets", "description": "Preference data: uploaded, mapped, audited."},
    {"name": "models", "description": "Policies and reward models: from the hub, a folder, or a run."},
    {"name": "scorings", "description": "Scores computed once and reused: what is in them, the reward check, the λ preview."},
    {"name": "runs", "description": "VAR runs: launched, watched, cancelled, resumed."},
    {"name": "queue", "description": "Which run begins next: priority, pause, another place, another worker."},
    {"name": "recipe-templates", "description": "Settings kept under a name, to begin launches from."},
    {"name": "sweeps", "description": "One recipe over a grid of λ and other settings, and beside its baselines."},
    {"name": "prompt-sets", "description": "Prompts that models answer: lists, those of a data set, what a run holds out."},
    {"name": "answers", "description": "One model's answers to a prompt set, what judges say of them, and the data they become."},
    {"name": "comparisons", "description": "Models' answers to the same prompts side by side, by judges and people's votes."},
    {"name": "chats", "description": "The playground: models answer a conversation side by side, streamed."},
    {"name": "records", "description": "What a run has recorded: events, metrics, weights, samples, findings, log, artifacts."},
    {"name": "workers", "description": "The processes that run runs: what they have, what they do; paused by admins."},
    {"name": "accounts", "description": "Users, API tokens, signed-in browsers, and the log of what was done with them."},
    {"name": "system", "description": "The studio itself."},
]

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Operation:
    """One method of one path, as the page shows it."""

    id: str
    method: str
    path: str
    summary: str
    text: str
    parameters: list[dict[str, Any]]
    body: "BodyText | None"
    answers: list["AnswerText"]
    command: str


@dataclass(frozen=True)
class BodyText:
    """What a request carries: its media type, its type's name, its fields."""

    media: str
    kind: list[TypePart]
    fields: list[SchemaField]


@dataclass(frozen=True)
class AnswerText:
    """What comes back under one status."""

    status: str  # "default" stands for errors
    text: str
    media: str
    kind: list[TypePart]


@dataclass(frozen=True)
class OperationGroup:
    name: str
    text: str
    operations: list[Operation]


@dataclass(frozen=True, kw_only=True)
class ReferencePage(Context):
    template = "reference.html"

    text: list[str]
    groups: list[OperationGroup]
    schemas: list[SchemaShape]


@dataclass(frozen=True)
class Reference:
    """The document as it is sent, and the page that shows it."""

    document: bytes
    page: ReferencePage


_working_out = threading.Lock()


@router.get("/openapi.json")
async def show_document(request: Request) -> Response:
    reference = await read_apart(request, reference_of, request.app)
    return Response(reference.document, media_type="application/json")


@router.get("/docs")
async def show_reference(request: Request) -> HTMLResponse:
    """Every path with its parameters, its body, its answers and a command to copy; then what bodies and answers are made of."""
    return await read_apart(request, draw, request)


def draw(request: Request) -> HTMLResponse:
    return render(request, reference_of(request.app).page)


def reference_of(app: FastAPI) -> Reference:
    """Return what is told of the API, which is worked out once: it takes a second."""
    with _working_out:
        known: Reference | None = getattr(app.state, "reference", None)
        if known is None:
            known = app.state.reference = work_out(app)
        return known


def work_out(app: FastAPI) -> Reference:
    document, url = document_of(app), app.state.settings.url
    groups = [OperationGroup(tag["name"], tag["description"], list_operations(document, tag["name"], url)) for tag in TAGS]
    page = ReferencePage(text=DESCRIPTION.split("\n\n"), groups=groups, schemas=list_schemas(document))
    return Reference(json.dumps(document).encode(), page)


def document_of(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document; its problems have the media type that they are sent with."""
    document: dict[str, Any] = app.openapi()
    for entry in (entry for methods in document["paths"].values() for entry in methods.values()):
        for response in entry["responses"].values():
            content = response.get("content", {})
            for kind, media in list(content.items()):  # FastAPI gives them the type of the route's own answer
                if media.get("schema", {}).get("$ref", "").endswith("/Problem"):
                    content["application/problem+json"] = content.pop(kind)
    return document


def list_operations(document: dict[str, Any], tag: str, url: str) -> list[Operation]:
    return [
        Operation(
            id=entry["operationId"],
            method=method.upper(),
            path=path,
            summary=entry["summary"],
            text=entry.get("description", ""),
            parameters=[show_parameter(parameter) for parameter in entry.get("parameters", [])],
            body=show_body(document, entry),
            answers=[show_answer(status, response) for status, response in sorted(entry["responses"].items())],
            command=command_of(method, url + path, entry),
        )
        for path, methods in document["paths"].items()
        for method, entry in methods.items()
        if tag in entry.get("tags", [])
    ]


def show_body(document: dict[str, Any], entry: dict[str, Any]) -> BodyText | None:
    """Return what the request carries; None where it carries nothing."""
    for media, content in entry.get("requestBody", {}).get("content", {}).items():
        schema = content.get("schema", {})
        name = schema.get("$ref", "").removeprefix(REF)
        return BodyText(media, kind_of(schema) if name else [], list_fields(document["components"]["schemas"].get(name, schema)))
    return None


def show_answer(status: str, response: dict[str, Any]) -> AnswerText:
    for media, content in response.get("content", {}).items():
        schema = content.get("schema", {})
        return AnswerText(status, response["description"], media, kind_of(schema) if schema else [])
    return AnswerText(status, response["description"], "", [])


def show_parameter(parameter: dict[str, Any]) -> dict[str, Any]:
    schema = parameter.get("schema", {})
    kinds = [kind.get("type") for kind in schema.get("anyOf", [schema]) if kind.get("type") not in {None, "null"}]
    return {
        "name": parameter["name"],
        "place": parameter["in"],
        "kind": ", ".join(kinds),
        "required": parameter.get("required", False),
        "text": parameter.get("description", ""),
    }


def command_of(method: str, url: str, entry: dict[str, Any]) -> str:
    """Return the request as a curl command, with the first example of its body."""
    parts = ["curl", '-H "Authorization: Bearer $STUDIO_TOKEN"']
    if method != "get":
        parts.append(f"-X {method.upper()}")
    content = entry.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in content:
        parts.append("-F file=@pairs.jsonl -F name=pairs")
    elif example := first_example(content.get("application/json", {})):
        parts.append(f"-H 'Content-Type: application/json' \\\n  -d '{json.dumps(example)}' \\\n ")
    return " ".join([*parts, url])


def first_example(media: dict[str, Any]) -> Any:
    return next((example["value"] for example in media.get("examples", {}).values()), None)
