"""Models as they are asked for: where one is, and what it shall serve as."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.domain.texts import Line

ModelKind = Literal["policy", "reward"]
ModelOrigin = Literal["hub", "folder", "run"]


class ModelRequest(BaseModel):
    """Where a model is: `hub` with `name` and perhaps `revision`, `folder` with `path`, or `run` with `run_id`."""

    model_config = ConfigDict(extra="forbid")

    kind: ModelKind = Field(description="policy: a causal language model. reward: a sequence classifier with one label.")
    source: ModelOrigin
    name: Line = Field("", max_length=200, description="The hub's name of the model; otherwise what people call it.")
    path: str = Field("", max_length=1000, description="Full path of a folder below STUDIO_MODEL_ROOTS.")
    run_id: Line = Field("", max_length=80, description="A succeeded run, whose policy is taken.")
    revision: Line | None = Field(None, max_length=120, description="Branch, tag or commit on the hub.")
