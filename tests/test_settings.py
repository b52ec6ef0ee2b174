"""Settings that can't be meant are refused before anything starts, with a sentence that names the variable."""

import pytest
from pydantic import ValidationError

from app.settings import Settings, explain

REFUSED = [
    ("STUDIO_SESSION_DAYS", "0"), ("STUDIO_SESSION_DAYS", "-1"), ("STUDIO_SESSION_DAYS", "1000000000"),
    ("STUDIO_PORT", "0"), ("STUDIO_PORT", "70000"), ("STUDIO_HOST", ""), ("STUDIO_DATA_DIR", " "),
    ("STUDIO_WORKER_SLOTS", "-1"), ("STUDIO_WORKER_SLOTS", "1000000"), ("STUDIO_WORKER_NAME", "n" * 200),
    ("STUDIO_MAX_ATTEMPTS", "0"), ("STUDIO_RUNNER_THREADS", "-2"), ("STUDIO_RUNNER_MEMORY_BYTES", "1000"),
    ("STUDIO_MAX_UPLOAD_BYTES", "0"), ("STUDIO_MAX_UPLOAD_BYTES", "-5"), ("STUDIO_DISK_QUOTA_BYTES", str(10**30)),
    ("STUDIO_LOGS_DAYS", "nan"), ("STUDIO_SCORINGS_DAYS", "inf"), ("STUDIO_POLL_SECONDS", "inf"), ("STUDIO_SILENT_SECONDS", "-1"),
    ("STUDIO_GRACE_SECONDS", "nan"), ("STUDIO_KEEP_CHECKPOINTS", "-1"), ("STUDIO_HEARTBEAT_SECONDS", "0"),
    ("STUDIO_ALLOWED_HOSTS", "*"), ("STUDIO_ALLOWED_HOSTS", "https://studio.example.org"),
    ("STUDIO_ALLOWED_HOSTS", "studio.example.org:8400"), ("STUDIO_ALLOWED_HOSTS", "two names"), ("STUDIO_ALLOWED_HOSTS", ""),
    ("STUDIO_DATABASE_URL", "studio"), ("STUDIO_DATABASE_URL", "mysql://u:hunter2@host/studio"), ("STUDIO_DATABASE_URL", "sqlite://"),
    ("STUDIO_DATABASE_URL", "postgresql+asyncpg://u:hunter2@host/studio"), ("STUDIO_BROKER_URL", "localhost:6379"),
    ("STUDIO_BROKER_URL", "amqp://u:hunter2@host"),
    ("STUDIO_ENDPOINT_ALLOWED_HOSTS", "http://llm.example.org"), ("STUDIO_ENDPOINT_ALLOWED_HOSTS", "10.0.0.0/99"),
    ("STUDIO_STORE_ENDPOINT", "nonsense"), ("STUDIO_STORE_ENDPOINT", "https://u:hunter2@store.example.org"),
]  # fmt: skip
ADDRESSES = [
    "https://", "ftp://studio.example.org", "https://studio example.org", "https://studio.example.org:99999", "https://[::1",
    "https://studio.example.org:0", "https://user:secret@studio.example.org", "https://*.example.org", "studio.example.org",
    "https://studio.example.org/below", "https://studio.example.org/?a=b",
]  # fmt: skip


@pytest.mark.parametrize(("variable", "value"), REFUSED)
def test_a_setting_beyond_its_bounds_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError) as refused:
        Settings(_env_file=None)
    sentence = explain(refused.value)
    assert sentence.startswith(f"{variable}: ")
    assert sentence.endswith(".")
    assert "hunter2" not in sentence


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_nobody_can_come_by_is_refused_and_its_secrets_are_not_shown(address: str) -> None:
    fault = Settings(_env_file=None, public_url=address).find_public_url_fault()
    assert "STUDIO_PUBLIC_URL" in fault
    assert "secret" not in fault


@pytest.mark.parametrize("address", ["https://studio.example.org", "http://127.0.0.1:8400/", "http://[::1]:8400", "http://box_1"])
def test_a_usual_address_is_taken(address: str) -> None:
    assert Settings(_env_file=None, public_url=address).find_public_url_fault() == ""


def test_what_endpoints_may_be_is_taken_as_it_is_written() -> None:
    written = "llm.example.org, 10.0.0.5,10.0.0.0/8,fd00::/8,[::1],127.0.0.1"
    assert Settings(_env_file=None, endpoint_allowed_hosts=written).endpoint_allowed_hosts[1:] == [
        "10.0.0.5", "10.0.0.0/8", "fd00::/8", "[::1]", "127.0.0.1",
    ]  # fmt: skip


def test_names_of_hosts_are_compared_without_their_case() -> None:
    assert Settings(_env_file=None, allowed_hosts="Studio.Example.ORG, [::1]").allowed_hosts == ["studio.example.org", "[::1]"]
