"""What bodies and answers are made of, in words: the schemas of the OpenAPI document for people to read."""

from dataclasses import dataclass
from typing import Any

REF = "#/components/schemas/"
LIMITS = {
    "minimum": "at least {}", "exclusiveMinimum": "more than {}", "maximum": "at most {}", "exclusiveMaximum": "less than {}",
    "minLength": "{} or more characters", "maxLength": "at most {} characters", "minItems": "{} or more",
    "maxItems": "at most {} of them",
}  # fmt: skip


@dataclass(frozen=True)
class TypePart:
    """A piece of a type's name; with `schema` it leads to what that is."""

    text: str
    schema: str = ""


@dataclass(frozen=True)
class SchemaField:
    name: str
    kind: list[TypePart]
    required: bool
    text: str  # what it means, its limits and its default


@dataclass(frozen=True)
class SchemaShape:
    """An object and its fields."""

    id: str
    title: str
    text: str
    fields: list[SchemaField]


def list_schemas(document: dict[str, Any]) -> list[SchemaShape]:
    """Return all objects that the document names, by name."""
    schemas: dict[str, dict[str, Any]] = document["components"]["schemas"]
    return [shape_of(name, schema) for name, schema in sorted(schemas.items())]


def shape_of(name: str, schema: dict[str, Any]) -> SchemaShape:
    text = " ".join(schema.get("description", "").split())
    return SchemaShape(name, schema.get("title", name), text or in_words(schema), list_fields(schema))


def in_words(schema: dict[str, Any]) -> str:
    """Return what a schema without fields is: a choice of words, most often."""
    return "" if "properties" in schema else "".join(part.text for part in kind_of(schema))


def list_fields(schema: dict[str, Any]) -> list[SchemaField]:
    required = schema.get("required", [])
    return [
        SchemaField(name, kind_of(field), name in required, describe(field))
        for name, field in schema.get("properties", {}).items()
    ]


def kind_of(schema: dict[str, Any]) -> list[TypePart]:
    """Return the name of a type, such as `list of RunView`, in pieces."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REF)
        return [TypePart(name, name)]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return join_kinds([kind_of(one) for one in schema[key]])
    if "enum" in schema:
        return [TypePart(" or ".join(map(str, schema["enum"])))]
    if "const" in schema:
        return [TypePart(str(schema["const"]))]
    if schema.get("type") == "array":
        items = schema.get("prefixItems")
        return [
            TypePart("list of "),
            *(join_kinds([kind_of(one) for one in items]) if items else kind_of(schema.get("items", {}))),
        ]
    values = schema.get("additionalProperties")
    if isinstance(values, dict) and values:
        return [TypePart("object of "), *kind_of(values)]
    known = schema.get("contentMediaType") or schema.get("format") or schema.get("type", "anything")
    return [TypePart(str(known))]


def join_kinds(kinds: list[list[TypePart]]) -> list[TypePart]:
    """Return the choices with "or" between them, each once."""
    joined: list[TypePart] = []
    for kind in [kind for number, kind in enumerate(kinds) if kind not in kinds[:number]]:
        joined += [TypePart(" or "), *kind] if joined else kind
    return joined


def describe(field: dict[str, Any]) -> str:
    """Return what a field means, its limits and its default, as sentences."""
    told = [" ".join(field.get("description", "").split())]
    bounded = [field, *field.get("anyOf", [])]
    limits = [words.format(one[key]) for one in bounded for key, words in LIMITS.items() if key in one]
    if limits:
        told.append(f"{', '.join(dict.fromkeys(limits)).capitalize()}.")
    if field.get("default") not in (None, "", [], {}):
        told.append(f"Default: {field['default']}.")
    return " ".join(part for part in told if part)
