"""PostgreSQL and Redis that tests may stop, kill and start again on the same port."""

import secrets
import shutil
import signal
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import redis

from tests.box.compose import read_compose
from tests.box.processes import Process
from tests.box.servers import start_postgresql, start_redis
from tests.waiting import END_SECONDS, wait_until


@dataclass
class Server(ABC):
    """A server process and how it was started."""

    process: Process
    port: int
    password: str
    user: str | None
    folder: Path

    def stop(self, sign: signal.Signals = signal.SIGINT) -> None:
        """SIGINT is PostgreSQL's fast shutdown; SIGKILL is SIGKILL."""
        if self.process.popen.poll() is None:
            self.process.popen.send_signal(sign)
            self.process.popen.wait(END_SECONDS)

    def start(self) -> None:
        """Again, with the same data, on the same port."""
        command = [str(part) for part in self.process.popen.args]  # type: ignore[union-attr]
        environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8", "REDIS_PASSWORD": self.password}
        self.process = Process(
            self.process.name, command, log=self.process.log, environment=environment, cwd=self.folder, user=self.user
        )
        wait_until(self.answers, what=f"the start of {self.process.name}")

    @abstractmethod
    def answers(self) -> bool:
        """Whether a client gets in."""


class Postgres(Server):
    def url(self, database: str, port: int | None = None) -> str:
        return f"postgresql://studio:{self.password}@127.0.0.1:{port or self.port}/{database}"

    def create_database(self, template: str = "template1") -> str:
        """The name of a new one, a copy of the template: empty unless given."""
        name = f"studio_{secrets.token_hex(4)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


class Redis(Server):
    next_number = 0

    def url(self, number: int, port: int | None = None) -> str:
        return f"redis://:{self.password}@127.0.0.1:{port or self.port}/{number}"

    def take_number(self) -> int:
        """A database of Redis that no other test uses."""
        self.next_number = self.next_number % 15 + 1
        if self.answers():
            redis.Redis.from_url(self.url(self.next_number)).flushdb()
        return self.next_number

    def answers(self) -> bool:
        try:
            return bool(redis.Redis.from_url(self.url(0)).ping())
        except redis.RedisError:
            return False


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    with open_folder() as folder:
        password = secrets.token_hex(8)
        process, port = start_postgresql(folder / "postgres", user="studio", database="studio", password=password)
        server = Postgres(process, port, password, account_of(process), folder / "postgres")
        try:
            yield server
        finally:
            server.stop(signal.SIGQUIT)


@contextmanager
def running_redis() -> Iterator[Redis]:
    with open_folder() as folder:
        password = secrets.token_hex(8)
        wanted = {"POSTGRES_PASSWORD": "x", "REDIS_PASSWORD": password, "COMPOSE_PROFILES": "cpu"}
        command = read_compose(wanted)["redis"]["command"]
        process, port = start_redis(folder / "redis", command, password=password)
        server = Redis(process, port, password, account_of(process), folder / "redis")
        try:
            yield server
        finally:
            server.stop(signal.SIGKILL)


def account_of(process: Process) -> str | None:
    """Who runs it, where that isn't who runs the tests."""
    owner = Path(f"/proc/{process.popen.pid}").owner()
    return owner if owner != Path("/proc/self").owner() else None


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other accounts may enter."""
    folder = Path(tempfile.mkdtemp(prefix="studio-faults-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
