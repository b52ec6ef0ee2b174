"""Keys of endpoints: opened by the studio that sealed them, and told apart from those that can't be."""

import pytest
from pydantic import SecretStr

from app.domain.answering.endpoint import NewEndpoint
from app.domain.errors import InvalidInput
from app.services.acts import STUDIO
from app.services.answering import endpoints

KEY = "sk-very-secret-0123456789"
ASKED = NewEndpoint(name="Lab", address="https://api.example.org/v1", model="small", key=SecretStr(KEY))


def test_a_key_is_opened_where_it_was_sealed(session, settings):
    endpoint = endpoints.add(session, settings, STUDIO, ASKED)
    assert endpoints.read_key(settings, endpoint) == KEY
    assert (settings.root / "secret").is_file()
    assert KEY not in repr(endpoints.prepare_trial(session, settings, STUDIO, endpoint.id))
    assert KEY not in endpoints.describe_source(settings, endpoint).model_dump_json()


def test_a_studio_with_another_secret_says_what_to_do(session, settings):
    endpoint = endpoints.add(session, settings, STUDIO, ASKED)
    (settings.root / "secret").unlink()  # as after a restore: no backup holds it
    with pytest.raises(InvalidInput, match="An admin can enter it again"):
        endpoints.read_key(settings, endpoint)
    elsewhere = settings.model_copy(update={"secret": "t" * 40})
    with pytest.raises(InvalidInput, match="STUDIO_SECRET"):
        endpoints.read_key(elsewhere, endpoint)


def test_hosts_that_share_a_secret_share_the_keys(session, settings):
    shared = settings.model_copy(update={"secret": "t" * 40})
    endpoint = endpoints.add(session, shared, STUDIO, ASKED)
    assert endpoints.read_key(shared, endpoint) == KEY
    assert not (settings.root / "secret").exists()


def test_a_key_that_was_put_at_another_address_in_the_database_is_not_opened(session, settings):
    endpoint = endpoints.add(session, settings, STUDIO, ASKED)
    endpoint.address = "https://evil.example.org/v1"
    with pytest.raises(InvalidInput, match="can't be opened"):
        endpoints.read_key(settings, endpoint)
