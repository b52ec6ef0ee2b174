"""REST: what things are called. The body with which each noun is renamed."""

from typing import Annotated

from fastapi import Body
from pydantic import BaseModel, ConfigDict, Field


class NameChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=200, description="One line; recorded events keep the old name.")


RENAMED = {"name": {"summary": "Another name", "value": {"name": "Kind help desk, second try"}}}
NameBody = Annotated[NameChange, Body(openapi_examples=RENAMED)]
