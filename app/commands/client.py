"""The studio over REST, as the commands speak to it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import typer

from app.commands.terminal import out
from app.domain.errors import StudioError
from app.settings import Settings

TIMEOUT_SECONDS = 60.0
THIS_MACHINE = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::"}  # noqa: S104


class CommandFailed(StudioError):
    """What a command couldn't do, as a sentence for the terminal."""

    title = "The command failed"


class Unreachable(CommandFailed):
    """The studio didn't answer, or stopped half-way: it may come back."""


def token_path(settings: Settings) -> Path:
    """Return where `varstudio up` leaves a token for this machine's user."""
    return settings.root / "cli-token"


def address_path(settings: Settings) -> Path:
    """Return where `varstudio up` leaves the address it was started at, which its options may have chosen."""
    return settings.root / "cli-address"


def find_address(settings: Settings) -> str:
    """Return where the studio of these settings listens: as they say it, else as it was last started here."""
    path = address_path(settings)
    if settings.model_fields_set & {"host", "port", "public_url"} or not path.is_file():
        return settings.url
    return path.read_text(encoding="utf-8").strip()


def find_token(settings: Settings) -> str:
    """STUDIO_TOKEN, or the token file when the studio is our own, also where STUDIO_URL says so.

    Raises: CommandFailed.
    """
    if settings.token:
        return settings.token
    path = token_path(settings)
    if not is_own(settings) or not path.is_file():
        raise CommandFailed(
            "No token: set STUDIO_TOKEN (varstudio tokens create makes one), or run this where varstudio up was started."
        )
    return path.read_text(encoding="utf-8").strip()


def is_own(settings: Settings) -> bool:
    """Return whether the studio to speak to is that of these settings: no STUDIO_URL, or one that leads to the same place."""
    own = (settings.url, f"http://{settings.host}:{settings.port}", find_address(settings))
    return not settings.server_url or place_of(settings.server_url) in map(place_of, own)


def place_of(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of an address; all names of this very machine are one."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", url, None
    return parts.scheme, "localhost" if host in THIS_MACHINE else host, port


class Client:
    """Requests to one studio; every refusal becomes CommandFailed with the studio's own sentence."""

    def __init__(self, settings: Settings) -> None:
        self.url = (settings.server_url or find_address(settings)).rstrip("/")
        self.headers = {"authorization": f"Bearer {find_token(settings)}"}

    def get(self, path: str, **params: Any) -> Any:
        chosen = {key: value for key, value in params.items() if value is not None}
        return self.send("GET", path, params=chosen).json()

    def post(self, path: str, body: Any = None, **options: Any) -> Any:
        return self.send("POST", path, **(as_json(body) if body is not None else {}), **options).json()

    def patch(self, path: str, body: Any) -> Any:
        return self.send("PATCH", path, **as_json(body)).json()

    def delete(self, path: str) -> None:
        self.send("DELETE", path)

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Raises: CommandFailed."""
        with self.explained(), self.connect() as http:
            response = http.request(method, f"/api/v1{path}", **options)
        check(response)
        return response

    @contextmanager
    def stream(self, path: str, headers: dict[str, str] | None = None, timeout_seconds: float = 60.0) -> Iterator[httpx.Response]:
        """Provide an answer that is read piece by piece.

        Raises: CommandFailed.
        """
        options: dict[str, Any] = {"headers": headers, "timeout": timeout_seconds}
        with self.explained(), self.connect() as http, http.stream("GET", f"/api/v1{path}", **options) as response:
            if response.is_error:
                response.read()
            check(response)
            yield response

    def connect(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=TIMEOUT_SECONDS)

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError:
            raise Unreachable(f"No studio answers at {self.url}. Start one with varstudio up, or set STUDIO_URL.") from None
        except (httpx.InvalidURL, UnicodeEncodeError):
            raise CommandFailed(
                "An id, or STUDIO_URL or STUDIO_TOKEN, holds characters that no address or token has: type or copy it again."
            ) from None
        except httpx.HTTPError as error:
            raise Unreachable(f"The studio at {self.url} didn't answer properly: {error or type(error).__name__}.") from error


def as_json(body: Any) -> dict[str, Any]:
    """Return what sends a body, also one with NaN or infinity, which the studio refuses by the field's name."""
    return {"content": json.dumps(body), "headers": {"content-type": "application/json"}}


def check(response: httpx.Response) -> None:
    """Raises: CommandFailed with the sentence of a problem answer; Unreachable when it may come back."""
    if not response.is_error:
        return
    try:
        problem = response.json()
        detail, problems = str(problem["detail"]), list(problem.get("problems", []))
    except (ValueError, KeyError, TypeError):
        raise CommandFailed(f"The studio answered {response.status_code} {response.reason_phrase}.") from None
    if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
        raise Unreachable(detail, problems=problems, extra=problem.get("extra"))
    raise CommandFailed(detail, problems=problems, extra=problem.get("extra"))


AsJson = Annotated[bool, typer.Option("--json", help="All that is known.")]
Mine = Annotated[bool, typer.Option("--mine", help="Only your own; otherwise all that you may see.")]
Private = Annotated[bool, typer.Option("--private", help="Only you and admins see it; otherwise all members do.")]


def add_renaming(group: typer.Typer, path: str, what: str) -> None:
    """Add `rename` to the commands of a noun, whose things are at this path of the REST API."""

    @group.command("rename", help=f"Give {what} another name.")
    def rename(key: Annotated[str, typer.Argument(metavar="ID")], name: str) -> None:
        Client(Settings()).patch(f"{path}/{key}", {"name": name})


def add_sharing(group: typer.Typer, path: str, what: str) -> None:
    """Add `private` and `share` to the commands of a noun, whose things are at this path of the REST API."""

    @group.command("private", help=f"Keep {what} to its owner and admins; what others have made of it goes on.")
    def private(key: Annotated[str, typer.Argument(metavar="ID")]) -> None:
        tell_shared(Client(Settings()).patch(f"{path}/{key}", {"private": True}))

    @group.command("share", help=f"Let all members see and use {what}.")
    def share(key: Annotated[str, typer.Argument(metavar="ID")]) -> None:
        tell_shared(Client(Settings()).patch(f"{path}/{key}", {"private": False}))


def tell_shared(thing: dict[str, Any]) -> None:
    seen = f"private: only {thing['owner']} and admins see it" if thing["private"] else "shared with all members"
    out.print(f"{thing['name']} is {seen}.", markup=False)


def owner_of(thing: dict[str, Any]) -> str:
    """Return a list's word for whose a thing is, and that it is private."""
    return f"{thing['owner']} (private)" if thing["private"] else str(thing["owner"])
