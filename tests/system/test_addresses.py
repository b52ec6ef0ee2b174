import pytest

from app.system.addresses import is_loopback


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.5", False),
        ("studio.example.org", False),
        ("", False),
    ],
)
def test_an_address_of_this_machine_alone_is_told_from_others(host: str, is_own: bool) -> None:
    assert is_loopback(host) is is_own
