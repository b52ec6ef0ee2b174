"""Connections to checked addresses, whose reading ends in time.

A name is resolved once, its addresses are judged, and the connection goes to a judged address itself: a name that stands for
another address a moment later changes nothing. TLS and the Host header keep the name. What a proxy of the environment is called
doesn't matter: none is used.
"""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpcore

from app.system.outgoing.addresses import find_refusal, is_public

POLL_SECONDS = 0.2
Options = Iterable[Any] | None


class AddressRefused(Exception):
    """Where the request would go is not allowed; the message is a sentence."""


class RequestWatch(threading.local):
    """What ends the request of this thread: its deadline, and whatever `check` raises."""

    deadline: float = float("inf")

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check

    def seconds_left(self) -> float:
        """Raises httpcore.ReadTimeout after the deadline, and what `check` raises."""
        self.check()
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the whole took too long")
        return left


class WatchedStream(httpcore.NetworkStream):
    """A connection that looks at its watch while it waits for bytes."""

    def __init__(self, inner: httpcore.NetworkStream, watch: RequestWatch) -> None:
        self._inner, self._watch = inner, watch

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while True:
            left = min(self._watch.seconds_left(), end - time.monotonic())
            if left <= 0:
                raise httpcore.ReadTimeout("nothing came")
            try:
                return self._inner.read(max_bytes, timeout=min(POLL_SECONDS, left))
            except httpcore.ReadTimeout:
                continue

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, timeout=min(self._watch.seconds_left(), timeout or float("inf")))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return WatchedStream(self._inner.start_tls(ssl_context, server_hostname, timeout), self._watch)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class CheckedNetwork(httpcore.NetworkBackend):
    """Connects to addresses that may be spoken to; without `may_be_clear`, to no public one."""

    def __init__(self, watch: RequestWatch, allowed: Sequence[str], *, may_be_clear: bool = True) -> None:
        self._watch, self._allowed, self._may_be_clear = watch, tuple(allowed), may_be_clear
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Options = None,
    ) -> httpcore.NetworkStream:  # fmt: skip
        """Raises AddressRefused, httpcore.ConnectError, httpcore.ConnectTimeout."""
        end = time.monotonic() + (timeout or 60.0)
        failure: Exception = httpcore.ConnectError("the name has no address")
        addresses = resolve(host, port)
        for address in addresses:
            self.judge(host, address)
        for address in addresses:
            left = min(end - time.monotonic(), self._watch.seconds_left())
            if left <= 0:
                break
            try:
                stream = self._inner.connect_tcp(address, port, timeout=left, local_address=local_address)
                return WatchedStream(stream, self._watch)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def judge(self, host: str, address: str) -> None:
        """Raises AddressRefused. One address that is refused refuses the name: it may not choose among them."""
        if refusal := find_refusal(host, address, self._allowed):
            raise AddressRefused(refusal)
        if not self._may_be_clear and is_public(address):
            raise AddressRefused(f"The key would go to {host} over the open internet in the clear: use an https address.")

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Options = None
    ) -> httpcore.NetworkStream:
        raise AddressRefused("No request goes to a file of this machine.")

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a name, each once. Raises httpcore.ConnectError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(f"the name {host} is not known here") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
