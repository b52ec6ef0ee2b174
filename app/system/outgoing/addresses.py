"""Which addresses a request may go to: public ones, and those on a list of what is allowed."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

TRANSLATED = ip_network("64:ff9b::/96")  # an IPv4 address behind a translator (RFC 6052)


def find_refusal(host: str, address: str, allowed: Sequence[str]) -> str:
    """Return why no request goes to this address of a host, as a sentence; empty when one may go.

    `allowed` has host names, addresses and networks. A name allows whatever private address it stands for, but not one that is
    link-local, where clouds tell machines their credentials: such an address must be listed itself.
    """
    inner = _unwrap(ip_address(address.split("%", 1)[0]))
    kind = _name_kind(inner)
    if not kind or _is_listed(inner, allowed):
        return ""
    if kind != "link-local" and host.lower().rstrip(".") in {entry.lower().rstrip(".") for entry in allowed}:
        return ""
    said = host if host == str(inner) else f"{host} ({inner})"
    return (
        f"{said} is a {kind} address, and requests go to such addresses only where STUDIO_ENDPOINT_ALLOWED_HOSTS lists them: "
        "an admin of the machine can add the name or the address there."
    )


def is_public(address: str) -> bool:
    """Return whether the address is one of the open internet."""
    return not _name_kind(_unwrap(ip_address(address.split("%", 1)[0])))


def _unwrap(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address carries in it, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in TRANSLATED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
    return inner or address


def _name_kind(address: Address) -> str:
    """Return what an address is that is not public; empty for one that is."""
    if address.is_link_local:
        return "link-local"
    if address.is_loopback:
        return "loopback"
    if address.is_multicast or address.is_unspecified or address.is_reserved:
        return "special"
    return "" if address.is_global else "private"


def _is_listed(address: Address, allowed: Sequence[str]) -> bool:
    for entry in allowed:
        try:
            if address in ip_network(entry.strip("[]"), strict=False):
                return True
        except ValueError:
            continue  # a name
    return False
