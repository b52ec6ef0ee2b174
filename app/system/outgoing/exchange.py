"""One request with a JSON body and its whole answer: no redirect is followed, nothing unpacked, nothing waited for forever."""

import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import httpcore

from app.system.files import never
from app.system.outgoing.connections import CheckedNetwork, RequestWatch

PLAIN = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "var-studio"}


@cache
def _trusted() -> ssl.SSLContext:
    import httpx  # brings a terminal's libraries along: only with a first request

    return httpx.create_ssl_context()


@dataclass(frozen=True)
class ExchangeLimits:
    """How long and how large an exchange may be."""

    connect_seconds: float = 10.0
    first_byte_seconds: float = 120.0
    whole_seconds: float = 600.0
    most_bytes: int = 8 * 2**20


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]  # names in small letters
    body: bytes


class ExchangeFailed(Exception):
    """There is no answer. The message is a sentence; `is_passing`: the same request may go well later."""

    def __init__(self, message: str, *, is_passing: bool) -> None:
        super().__init__(message)
        self.is_passing = is_passing


class Exchanger:
    """Requests to one server, over connections that stay open between them; from several threads at once."""

    def __init__(
        self, *, allowed_hosts: Sequence[str], at_once: int, limits: ExchangeLimits, check: Callable[[], None] = never,
        is_secure: bool, has_secret: bool,
    ) -> None:  # fmt: skip
        self._limits, self._watch = limits, RequestWatch(check)
        self._pool = httpcore.ConnectionPool(
            ssl_context=_trusted() if is_secure else None, max_connections=at_once, keepalive_expiry=30.0,
            network_backend=CheckedNetwork(self._watch, allowed_hosts, may_be_clear=is_secure or not has_secret),
        )  # fmt: skip

    def close(self) -> None:
        self._pool.close()

    def post(self, url: str, headers: dict[str, str], body: bytes) -> Reply:
        """Return the answer, whatever its status. Raises ExchangeFailed, AddressRefused, and what the check raises."""
        limits = self._limits
        self._watch.deadline = time.monotonic() + limits.whole_seconds
        timeout = {
            "connect": limits.connect_seconds, "read": limits.first_byte_seconds, "write": limits.whole_seconds,
            "pool": limits.whole_seconds,
        }  # fmt: skip
        sent = [*PLAIN.items(), *headers.items()]
        try:
            with self._pool.stream("POST", url, headers=sent, content=body, extensions={"timeout": timeout}) as response:
                return Reply(response.status, _decode(response.headers), self._read(response))
        except httpcore.ConnectTimeout:
            raise ExchangeFailed(f"It could not be reached within {limits.connect_seconds:g} s.", is_passing=True) from None
        except httpcore.TimeoutException:
            raise ExchangeFailed("It did not answer in time.", is_passing=True) from None
        except httpcore.ConnectError as error:
            raise _explain_connect(error) from error
        except (httpcore.NetworkError, httpcore.RemoteProtocolError) as error:
            raise ExchangeFailed("The connection was lost before the answer was whole.", is_passing=True) from error
        except (httpcore.UnsupportedProtocol, httpcore.LocalProtocolError, httpcore.ProxyError) as error:
            raise ExchangeFailed("Its address, or its key, can't be sent as it is written.", is_passing=False) from error

    def _read(self, response: httpcore.Response) -> bytes:
        parts, size = [], 0
        for part in response.iter_stream():
            self._watch.seconds_left()
            size += len(part)
            if size > self._limits.most_bytes:
                raise ExchangeFailed(
                    f"Its answer is larger than {self._limits.most_bytes / 2**20:g} MiB, so it was not read.", is_passing=False
                )
            parts.append(part)
        return b"".join(parts)


def _decode(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}


def _explain_connect(error: httpcore.ConnectError) -> ExchangeFailed:
    told = str(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return ExchangeFailed(
                "Its certificate is not one that this machine trusts (SSL_CERT_FILE names other authorities).", is_passing=False
            )
        cause = cause.__cause__ or cause.__context__
    if "is not known here" in told:
        return ExchangeFailed(f"No connection: {told}.", is_passing=True)
    return ExchangeFailed("No connection: nothing listens there, or it is not let through.", is_passing=True)
