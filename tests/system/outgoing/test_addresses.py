"""Which addresses a request may go to."""

import pytest

from app.system.outgoing.addresses import find_refusal, is_public

PRIVATE = [
    "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "127.8.8.8", "0.0.0.0", "169.254.169.254", "224.0.0.1",
    "255.255.255.255", "240.0.0.1", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:10.0.0.1",
    "::ffff:169.254.169.254", "64:ff9b::a00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_of_the_open_internet_is_refused(address):
    assert "STUDIO_ENDPOINT_ALLOWED_HOSTS" in find_refusal("model.example", address, [])
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_a_public_address_needs_no_list(address):
    assert find_refusal("model.example", address, []) == ""
    assert is_public(address)


@pytest.mark.parametrize("entry", ["10.1.2.3", "10.0.0.0/8", "model.example", "MODEL.example."])
def test_a_listed_name_address_or_network_is_allowed(entry):
    assert find_refusal("model.example", "10.1.2.3", ["other", entry]) == ""
    assert find_refusal("another.example", "192.168.0.1", ["other", entry]) != ""


def test_a_listed_name_is_not_enough_for_the_addresses_where_clouds_keep_credentials():
    assert find_refusal("model.example", "169.254.169.254", ["model.example"]) != ""
    assert find_refusal("model.example", "169.254.169.254", ["169.254.169.254"]) == ""
