"""Where we run: the only reader of the environment. Every setting has a default; no setting at all is a whole studio."""

import re
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.domain.problems import problems_of

Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
SecondsOrNone = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
Days = Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, le=2**60)]
LEAST_RUNNER_BYTES = 4 * 2**30
LEAST_SECRET = 32
DATABASES = re.compile(r"sqlite:///.+|postgres(ql)?(\+psycopg)?://.+", re.DOTALL)
BROKERS = re.compile(r"(rediss?|valkey)://.+", re.DOTALL)
HOST_NAME = re.compile(r"\[[0-9a-f:.]{2,45}\]|[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?\.?")


class Settings(BaseSettings):
    """Read from variables `STUDIO_…` and from a `.env` file. Lists are comma-separated."""

    model_config = SettingsConfigDict(env_prefix="STUDIO_", env_file=".env", env_file_encoding="utf-8", extra="ignore")

    data_dir: Path = Field(Path("var"), description="Everything the studio keeps, unless a setting below says otherwise.")
    database_url: str = Field("", description="SQLAlchemy URL; empty: SQLite in data_dir.")
    broker_url: str = Field("", description="Redis or Valkey; empty: an embedded broker in data_dir.")
    store_url: str = Field("", description="s3://bucket/prefix or another store for all hosts; empty: they share data_dir.")
    store_endpoint: str = Field("", description="Where that S3 store answers; empty: AWS_ENDPOINT_URL, or Amazon.")
    secret: str = Field(
        "",
        repr=False,
        description="Seals keys of endpoints; the same on all hosts, 32 characters or more; empty: a file in data_dir.",
    )
    endpoint_allowed_hosts: Annotated[list[str], NoDecode] = Field(
        [], description="Names, addresses or networks that are not public and yet may be endpoints, with a comma between two."
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address that the web listens on.")
    port: int = Field(8400, ge=1, le=65_535, description="Port that the web listens on.")
    public_url: str = Field("", description="How users reach the web, when it is not http://host:port.")
    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        ["127.0.0.1", "localhost", "[::1]"], description="Host headers that are answered."
    )
    forwarded_allow_ips: Annotated[list[str], NoDecode] = Field(
        ["127.0.0.1", "::1"],
        validation_alias="FORWARDED_ALLOW_IPS",
        description="Reverse proxies whose X-Forwarded-For counts: addresses, networks, or * for all.",
    )
    model_roots: Annotated[list[Path], NoDecode] = Field(
        [], description="Folders that local models may be taken from, with a comma between two."
    )
    max_upload_bytes: int = Field(20 * 2**30, ge=1, le=2**60, description="Largest file that may be uploaded.")
    max_unpacked_bytes: int = Field(200 * 2**30, ge=1, le=2**60, description="Largest size of an upload after unpacking.")
    disk_quota_bytes: Bytes = Field(0, description="Most that the data folder may hold; 0: no limit.")
    min_free_bytes: Bytes = Field(0, description="Least that must stay free on its disk; 0: no limit.")
    keep_checkpoints: int = Field(
        0, ge=0, le=1_000_000, description="Newest checkpoints kept of an ended run; 0: all that its recipe kept."
    )
    checkpoints_days: Days = Field(0, description="Days after a run's end when its checkpoints are removed; 0: never.")
    logs_days: Days = Field(0, description="Days after a run's end when its logs and spools are removed; 0: never.")
    scorings_days: Days = Field(0, description="Days without use after which a scoring is removed; 0: never.")
    chats_days: Days = Field(30, description="Days after its answers that a chat of the playground is kept; 0: forever.")
    session_days: int = Field(30, ge=1, le=3650, description="How long a browser stays signed in.")
    token_days: int = Field(90, ge=0, le=3650, description="How long a new API token is good, unless one is chosen; 0: no end.")
    acts_days: Days = Field(365, description="Days that the log of sign-ins, tokens and admins' acts is kept; 0: forever.")
    log_format: Literal["logfmt", "json"] = Field("logfmt", description="Log lines as key=value, or as one JSON object each.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least grave log lines that are written.")

    server_url: str = Field("", validation_alias="STUDIO_URL", description="Command line: the studio to speak to.")
    token: str = Field("", description="Command line: the bearer token; empty: the one that `varstudio up` left in data_dir.")

    worker_name: str = Field("", max_length=60, description="Name of this worker; empty: host name and process id.")
    worker_slots: int = Field(
        0, ge=0, le=1024, description="Processes that train at once; 0: one per GPU, or one on a machine without."
    )
    heartbeat_seconds: Seconds = Field(5.0, description="How often a worker renews the leases of its runs.")
    lease_seconds: Seconds = Field(30.0, description="How long a run stays with a worker that is not heard of.")
    poll_seconds: Seconds = Field(2.0, description="How often a worker looks for queued runs without a hint.")
    silent_seconds: Seconds = Field(600.0, description="How long a runner may say nothing before a finding tells of it.")
    max_attempts: int = Field(3, ge=1, le=10_000, description="Attempts that may be lost before a run counts as failed.")
    runner_threads: int = Field(0, ge=0, le=4096, description="CPU threads of a runner; 0: all cores.")
    runner_memory_bytes: Bytes = Field(
        0, description="Memory that each process of a runner may ask the system for (no GPU's); 0: no limit, else 4 GiB or more."
    )
    warm_runner_seconds: SecondsOrNone = Field(
        600.0,
        description="How long a runner that has imported everything waits for the next run (0.4 GB); 0: every run starts cold.",
    )
    chat_idle_seconds: Seconds = Field(600.0, description="How long models of the playground stay on a device unasked.")
    grace_seconds: SecondsOrNone = Field(100.0, description="How long a stopping worker waits for runners to save.")

    @model_validator(mode="after")
    def check_lease(self) -> Self:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"STUDIO_LEASE_SECONDS is {self.lease_seconds:g}, but must be at least twice STUDIO_HEARTBEAT_SECONDS "
                f"({self.heartbeat_seconds:g}): else workers that live lose their runs between two heartbeats."
            )
        return self

    @field_validator("allowed_hosts", "endpoint_allowed_hosts", "forwarded_allow_ips", "model_roots", mode="before")
    @classmethod
    def split_list(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("allowed_hosts")
    @classmethod
    def check_hosts(cls, value: list[str]) -> list[str]:
        """Names are compared without their case, and a name with a port, an address or a pattern would match no request."""
        names = [name.lower() for name in value]
        if not names:
            raise ValueError(
                "It names no host, so nobody would be answered: leave it out, or write names like studio.example.org."
            )
        for name in names:
            if not HOST_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no host name: write names like studio.example.org, without scheme and port.")
        return names

    @field_validator("endpoint_allowed_hosts")
    @classmethod
    def check_endpoint_hosts(cls, value: list[str]) -> list[str]:
        for part in value:
            if not HOST_NAME.fullmatch(part.lower()) and not _is_network(part.strip("[]")):
                raise ValueError(
                    f"{part!r} is no host name, address or network, so it would allow nothing: write names like llm.example.org, "
                    "addresses like 10.0.0.5 or networks like 10.0.0.0/8."
                )
        return value

    @field_validator("store_endpoint")
    @classmethod
    def check_store_endpoint(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^\s/@]+(/[^\s@]*)?", value):
            raise ValueError("It is no address of an object store: write https://s3.example.org, or leave it out.")
        return value

    @field_validator("data_dir", mode="before")
    @classmethod
    def check_folder(cls, value: object) -> object:
        if str(value).strip() == "":
            raise ValueError("It is empty, so the files would lie wherever the studio is started: name a folder.")
        return value

    @field_validator("database_url")
    @classmethod
    def check_database(cls, value: str) -> str:
        """What is refused is not repeated: it may hold a password."""
        if value and not DATABASES.fullmatch(value):
            raise ValueError(
                "It is no address of a database known here: write postgresql://user:password@host/name, or leave it out."
            )
        return value

    @field_validator("broker_url")
    @classmethod
    def check_broker(cls, value: str) -> str:
        if value and not BROKERS.fullmatch(value):
            raise ValueError("It is no address of a Redis or Valkey: write redis://host:6379/0, or leave it out.")
        return value

    @field_validator("secret")
    @classmethod
    def check_secret(cls, value: str) -> str:
        if 0 < len(value) < LEAST_SECRET:
            raise ValueError(f"It is shorter than {LEAST_SECRET} characters: make one with openssl rand -hex 32.")
        return value

    @field_validator("runner_memory_bytes")
    @classmethod
    def check_memory(cls, value: int) -> int:
        if 0 < value < LEAST_RUNNER_BYTES:
            raise ValueError(f"{value} bytes are less than a runner's libraries take: allow {LEAST_RUNNER_BYTES} or more.")
        return value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def check_networks(cls, value: list[str]) -> list[str]:
        for part in value if value != ["*"] else []:
            try:
                ip_network(part)
            except ValueError as error:
                raise ValueError(f"{error}; a proxy is an address like 10.0.0.5 or a network like 10.0.0.0/8.") from None
        return value

    @cached_property
    def root(self) -> Path:
        """`data_dir`, absolute."""
        return self.data_dir.expanduser().resolve()

    @property
    def sqlalchemy_url(self) -> str:
        return self.database_url or f"sqlite:///{self.root / 'studio.db'}"

    @property
    def celery_broker_url(self) -> str:
        return self.redis_url or self.broker_url or f"sqla+sqlite:///{self.root / 'broker.db'}"

    @property
    def has_redis(self) -> bool:
        return self.broker_url.startswith(("redis://", "rediss://", "valkey://"))

    @property
    def redis_url(self) -> str:
        """The broker's address as the Redis client and Celery spell it; empty without Redis."""
        return re.sub("^valkey:", "redis:", self.broker_url) if self.has_redis else ""

    @property
    def url(self) -> str:
        return self.public_url.rstrip("/") or f"http://{self.host}:{self.port}"

    def find_public_url_fault(self) -> str:
        """Return why users can't come by `public_url`, as a sentence; empty when they can."""
        if not self.public_url:
            return ""
        try:
            public = urlsplit(self.public_url)
            is_address = public.scheme in ("http", "https") and bool(HOST_NAME.fullmatch(_bracket(public.hostname or "")))
            is_address = is_address and public.port != 0 and "@" not in public.netloc
        except ValueError:
            is_address = False
        if not is_address:
            return "STUDIO_PUBLIC_URL is not an address like https://studio.example.org."
        if public.path.strip("/") or public.query or public.fragment:
            return (
                f"STUDIO_PUBLIC_URL is {self.public_url}, but the studio can't live below a path: give it a host name of its "
                f"own, like {public.scheme}://studio.example.org, or a port of its own."
            )
        return ""


def _is_network(text: str) -> bool:
    """Return whether this is an address or a network."""
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _bracket(hostname: str) -> str:
    return f"[{hostname}]" if ":" in hostname else hostname


def explain(error: ValidationError) -> str:
    """Return what is wrong with the first setting that can't be used, as a sentence that names its variable."""
    problem = problems_of(error)[0]
    name = problem["field"].upper()
    is_variable = any(name == field.validation_alias for field in Settings.model_fields.values())
    variable = name if is_variable or not name else f"STUDIO_{name}"
    return f"{variable}: {problem['message']}" if variable else problem["message"]
