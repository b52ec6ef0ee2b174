"""PostgreSQL and Redis from Debian's packages, on free ports, in temporary folders, as users without rights."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.box.processes import Process, own_folder, unprivileged
from tests.flow.studio import free_port
from tests.waiting import wait_until

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def find_postgresql() -> Path | None:
    """The folder of initdb and postgres; Debian keeps it out of PATH."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in folders), key=lambda path: float(path.parent.name), default=None)


def find_redis() -> str | None:
    return shutil.which("redis-server")


def start_postgresql(folder: Path, *, user: str, database: str, password: str) -> tuple[Process, int]:
    """A cluster that knows one user with a password and one database, as the image's variables ask for."""
    programs = find_postgresql()
    assert programs is not None
    account, port = unprivileged("postgres"), free_port()
    own_folder(folder, account)
    environment = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": str(folder)}
    secret = folder / "password"
    secret.write_text(password)
    if account:
        shutil.chown(secret, account)
    data = folder / "data"
    options = [f"--username={user}", f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]
    subprocess.run(
        [programs / "initdb", f"--pgdata={data}", *options], env=environment, cwd=folder, check=True, capture_output=True,
        user=account, group=account, extra_groups=[] if account else None,
    )  # fmt: skip
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)]
    process = Process("postgres", command, log=folder.parent / "postgres.log", environment=environment, cwd=folder, user=account)
    wait_until(lambda: process.alive() and "ready to accept connections" in process.text, what="the start of PostgreSQL")
    create_database(port, user=user, database=database, password=password)
    return process, port


def create_database(port: int, *, user: str, database: str, password: str) -> None:
    import psycopg
    from psycopg import sql

    with psycopg.connect(
        host="127.0.0.1", port=port, user=user, password=password, dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))


def start_redis(folder: Path, command: list[str], *, password: str) -> tuple[Process, int]:
    """Redis by the very command of docker-compose.yml, on another port and folder."""
    account, port = unprivileged("redis"), free_port()
    own_folder(folder, account)
    script = re.sub(r"redis-server - --dir \S+", f"redis-server - --dir {folder} --port {port} --bind 127.0.0.1", command[-1])
    assert str(folder) in script, f"the start of Redis is not understood: {command}"
    environment = {"PATH": PATH, "REDIS_PASSWORD": password}
    process = Process(
        "redis", [*command[:-1], script], log=folder.parent / "redis.log", environment=environment, cwd=folder, user=account
    )
    wait_until(lambda: process.alive() and "Ready to accept connections" in process.text, what="the start of Redis")
    return process, port
