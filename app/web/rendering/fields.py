"""A form made from a pydantic class: one field per setting, named by its dotted path, explained by its description."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from app.domain.problems import MISSING
from app.domain.recipe import Recipe
from app.web.rendering import format
from app.web.rendering.wording import LABELS, WHAT_TO_DO, option_text

Kind = Literal["text", "number", "integer", "select", "switch"]


@dataclass(frozen=True)
class Field:
    """One input. `optional`: an empty input means none, otherwise the default. `methods`: that read it; empty: all do."""

    path: str
    label: str
    help: str
    kind: Kind
    default: Any
    optional: bool
    options: tuple[str, ...] = ()
    value: str = ""
    errors: tuple[str, ...] = ()
    methods: str = ""

    @property
    def id(self) -> str:
        return self.path.replace(".", "-")

    @property
    def choices(self) -> list[tuple[str, str]]:
        """The options with their words."""
        return [(option, option_text(self.path, option)) for option in self.options]


def fields_of(model: type[BaseModel], prefix: str = "") -> Iterator[Field]:
    """Yield every setting of the class and of the classes within it, in their order."""
    for name, info in model.model_fields.items():
        path = f"{prefix}{info.alias or name}"
        kind, options, inner = describe(info.annotation)
        if inner is not None:
            yield from fields_of(inner, f"{path}.")
        else:
            yield make_field(path, info, kind, options)


def make_field(path: str, info: FieldInfo, kind: Kind, options: tuple[str, ...]) -> Field:
    default = None if info.default is PydanticUndefined else info.default
    return Field(
        path=path,
        label=LABELS.get(path) or path.rsplit(".", 1)[-1].replace("_", " ").capitalize(),
        help=info.description or "",
        kind=kind,
        default=default,
        optional=NoneType in get_args(info.annotation),
        options=options,
        value=write(default),
    )


def describe(annotation: Any) -> tuple[Kind, tuple[str, ...], type[BaseModel] | None]:
    """Return how a type is asked for: the kind of its input, its choices, or the class whose fields stand in its place."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe(parts[0])
    if origin in (Union, UnionType):
        return describe(next(part for part in parts if part is not NoneType))
    if origin is Literal:
        return ("select" if len(parts) > 1 else "text"), tuple(map(str, parts)), None
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            return "text", (), annotation
        if hasattr(annotation, "__members__"):
            return "select", tuple(str(member.value) for member in annotation), None  # type: ignore[attr-defined]
        if issubclass(annotation, bool):
            return "switch", ("yes", "no"), None
        if issubclass(annotation, int | float):
            return ("integer" if annotation is int else "number"), (), None
    return "text", (), None


def write(value: Any) -> str:
    """Return a value as its input shows it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return format.exact(value)
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def read(field: Field, text: str) -> Any:
    """Return an input's text as pydantic takes it; numbers that aren't stay texts, so that pydantic words the fault."""
    text = text.strip()
    if field.kind == "switch":
        return {"yes": True, "no": False}.get(text, text)
    if field.path.endswith("target_modules") and text != "all-linear":
        return [part.strip() for part in text.split(",") if part.strip()]
    if field.kind in ("integer", "number"):
        try:
            return int(text) if field.kind == "integer" else float(text)
        except ValueError:
            return text
    return text


def collect(fields: list[Field], form: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested dictionary of a submitted form. Left empty, an optional field is None and another one is left out."""
    nested: dict[str, Any] = {}
    for field in fields:
        if field.path not in form:
            continue
        text = str(form[field.path])
        if not text.strip() and not (field.optional and field.default is not None):
            continue
        *parents, name = field.path.split(".")
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = read(field, text) if text.strip() else None
    return nested


def fill(field: Field, values: Mapping[str, str], problems: list[dict[str, Any]]) -> Field:
    """Return the field with what was typed into it, and what is wrong with that."""
    said = {MISSING: WHAT_TO_DO.get(field.path, "Is missing: fill it in.")}
    errors = tuple(
        said.get(problem["message"], str(problem["message"])) for problem in problems if problem.get("field") == field.path
    )
    return replace(field, value=values.get(field.path, field.value), errors=errors)


def flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a recipe as the values of its form's inputs."""
    flat: dict[str, str] = {}
    for name, inner in value.items():
        if isinstance(inner, dict):
            flat.update(flatten(inner, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = write(inner)
    return flat


RECIPE_FIELDS: list[Field] = list(fields_of(Recipe))
