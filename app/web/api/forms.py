"""Bodies that come as forms with a file: they are streamed, so that what the OpenAPI document says of them is written here."""

from collections.abc import Mapping
from typing import Any


def describe_form(file: str, fields: Mapping[str, Mapping[str, Any]], *, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a route tells of its body: a file, which must be there, and fields as JSON schemas."""
    properties = {"file": {"type": "string", "format": "binary", "description": file}, **fields}
    schema = {"type": "object", "required": ["file", *required], "properties": properties}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
