"""Endpoints: OpenAI-compatible servers whose models answer and judge. An admin names them; everybody asks them."""

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from app.domain.dataset import Frozen
from app.domain.problems import fault
from app.domain.texts import Line

MOST_AT_ONCE = 64
SENDABLE = re.compile(r"[!-~]*")  # what a header may hold: printable ASCII without blanks


def check_address(address: str) -> str:
    """Return the address as it is asked, without a slash or the path of chat completions at its end."""
    address = address.strip()
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise fault("", "This is no address: write one like https://api.example.org/v1.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not SENDABLE.fullmatch(address):
        raise fault("", "This is no address of the web: write one like https://api.example.org/v1.")
    if "@" in parts.netloc:
        raise fault("", "The address holds a user's name or password, which everybody would see: leave it out and give a key.")
    if parts.query or parts.fragment:
        raise fault("", "The address must end with its path: leave out what begins with ? or #.")
    return address.rstrip("/").removesuffix("/chat/completions")


def check_key(value: Any) -> Any:
    """Refuse a key that can't be sent, in words that do not repeat it."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if value is not None and (not isinstance(text, str) or not SENDABLE.fullmatch(text.strip()) or len(text) > 4096):
        raise fault("", "This key can't be sent: a key is printable characters without blanks, 4096 at most.")
    return text.strip() if isinstance(text, str) else value


def origin_of(address: str) -> str:
    """Return where an address leads, without its path: a key belongs there and goes nowhere else."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or {'http': 80, 'https': 443}[parts.scheme]}"


Name = Annotated[Line, Field(min_length=1, max_length=120)]
Address = Annotated[Line, Field(min_length=1, max_length=500), AfterValidator(check_address)]
ModelName = Annotated[Line, Field(min_length=1, max_length=200)]
Key = Annotated[SecretStr, Field(max_length=4096), BeforeValidator(check_key)]
AtOnce = Annotated[int, Field(ge=1, le=MOST_AT_ONCE)]
TokensPerMinute = Annotated[int, Field(ge=1, le=1_000_000_000)]


class NewEndpoint(BaseModel):
    """An endpoint to add."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: Name = Field(description="What people call it.")
    address: Address = Field(description="Where it is, without /chat/completions.", examples=["https://api.example.org/v1"])
    model: ModelName = Field(description="The model's name there.", examples=["small-instruct"])
    key: Key = Field(SecretStr(""), description="Sent with each request; never shown again. Empty: none is sent.")
    at_once: AtOnce = Field(4, description="Requests that one run has on their way at a time.")
    tokens_per_minute: TokensPerMinute | None = Field(None, description="Of one run, prompts and answers; null: no limit.")


class EndpointChange(BaseModel):
    """What is to be different; only what is named is changed."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: Name | None = None
    address: Address | None = Field(None, description="At another host or port the key must be given again.")
    model: ModelName | None = None
    key: Key | None = Field(None, description="Another key; empty: none from now on.")
    at_once: AtOnce | None = None
    tokens_per_minute: TokensPerMinute | None = Field(None, description="null: no limit, where it is named.")


class EndpointSource(Frozen):
    """What a runner is told of an endpoint; the key comes to it by another way."""

    id: str
    name: str
    address: str
    model: str
    has_key: bool = False
    at_once: int = 4
    tokens_per_minute: int | None = None
    allowed_hosts: tuple[str, ...] = ()
