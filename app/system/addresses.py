"""Addresses: of this machine or of others."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Return whether only this machine's own programs can come by this host name or address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
