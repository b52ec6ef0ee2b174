"""What is made for the browser is taken in once, however often it is begun, and fills the launch form."""

from urllib.parse import parse_qsl

import pytest

from app.commands.client import Client
from app.demonstration.begin import flatten, register
from app.store.files.files import DEMONSTRATION
from tests.services.test_models import make_model
from tests.web.conftest import PAIRS, server  # noqa: F401


@pytest.fixture
def client(server):  # noqa: F811
    settings = server.studio.settings.model_copy(update={"server_url": server.url, "token": server.studio.token})
    return Client(settings)


@pytest.fixture
def folder(server):  # noqa: F811
    """As the worker's side leaves it."""
    folder = server.studio.settings.root / DEMONSTRATION / "seed-0"
    make_model(folder / "policy")
    make_model(folder / "reward", "LlamaForSequenceClassification", num_labels=1)
    (folder / "preferences.jsonl").write_text(PAIRS)
    return folder


def test_it_is_taken_in_once_and_its_recipe_can_be_launched(client, folder):
    first, again = (dict(parse_qsl(register(client, folder))) for _ in range(2))
    assert first == again
    assert [len(client.get(path)["items"]) for path in ("/datasets", "/models")] == [1, 2]
    assert (first["weights.preset"], first["weights.lambda"]) == ("length_normalised", "0.4")
    with_dots = {name: first[name] for name in ("dataset", "policy.model", "reward.model", "training.batch_size")}
    assert with_dots["training.batch_size"] == "8"
    names = {client.get(f"/models/{with_dots[f'{kind}.model']}")["kind"] for kind in ("policy", "reward")}
    assert names == {"policy", "reward"}


def test_settings_are_named_by_their_dotted_paths():
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": "f"}}}) == [("a", 1), ("b.c", 2), ("b.d.e", "f")]
