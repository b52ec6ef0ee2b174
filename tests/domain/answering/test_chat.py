"""Chats as they are asked for: short names of models."""

import pytest

from app.domain.answering.answers import RegisteredModel, RunModel
from app.domain.answering.chat import ChatRequest, write_short


@pytest.mark.parametrize(
    ("short", "choice"),
    [
        ("model_1", RegisteredModel(model="model_1")),
        ("run_1", RunModel(run="run_1")),
        ("run_1@120", RunModel(run="run_1", step=120)),
    ],
)
def test_a_model_has_a_short_name(short: str, choice: RegisteredModel | RunModel) -> None:
    request = ChatRequest.model_validate({"models": [short], "messages": [{"role": "user", "content": "Hello?"}]})
    assert request.models == [choice]
    assert write_short(choice) == short
    assert ChatRequest.model_validate(request.model_dump(mode="json")) == request
