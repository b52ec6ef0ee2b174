"""Checks of the machine: versions, disk, GPUs, rights, folders, addresses. None needs the database."""

import os
import platform
import re
import secrets
import sqlite3
import stat
import subprocess
import time
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from app.domain.check_result import CheckResult, error, ok, warning
from app.domain.errors import StudioError
from app.settings import Settings
from app.store.files.disk import DiskGauge
from app.store.files.objects import ObjectStore
from app.system.addresses import is_loopback

PACKAGES = (
    "var-studio",
    "sqlalchemy",
    "alembic",
    "celery",
    "redis",
    "psycopg",
    "pyarrow",
    "fastapi",
    "torch",
    "transformers",
    "peft",
)
WAL_BUG_FIRST, WAL_BUG_FIXED = (3, 7, 0), (3, 51, 3)
WAL_BUG_BACKPORTS = {(3, 50): 7, (3, 44): 6}  # of these lines, fixed from this patch on
NETWORK_SYSTEMS = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "ceph", "fuse.glusterfs", "lustre", "afs", "beegfs")
LOW_SHARE = 0.05
LOW_BYTES = 5 * 10**9
PROBE_BYTES = 2**20
SLOW_PROBE_SECONDS = 1.0
DRIVERS = {"12": 525, "13": 580}  # by CUDA's major version, the first of the driver's on Linux (NVIDIA, CUDA compatibility)
DRIVER_QUERY = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
GPU_QUERY = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]


def check_versions() -> list[CheckResult]:
    """Python and the packages of this process; those of a worker may be missing on a web machine."""
    found = [f"Python {platform.python_version()}"]
    missing = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    absent = f"; not installed here: {', '.join(missing)}" if missing else ""
    return [ok("versions", f"{', '.join(found)}{absent}.")]


def check_sqlite(settings: Settings, version: tuple[int, ...] = sqlite3.sqlite_version_info) -> list[CheckResult]:
    """Return whether SQLite has the bug by which a checkpoint beside a commit may lose pages (sqlite.org/wal.html, WAL-reset
    bug).
    """
    shown = ".".join(map(str, version))
    if settings.database_url and settings.broker_url:
        return [ok("sqlite", f"SQLite {shown}, which is not used here.")]
    if not has_wal_bug(version):
        return [ok("sqlite", f"SQLite {shown}, without the WAL-reset bug.")]
    return [
        warning(
            "sqlite",
            f"SQLite {shown} has the WAL-reset bug: when several processes write at the same moment, a database in "
            "WAL mode may, very rarely, be damaged.",
            "Where the system has no other SQLite (Debian 12), take a backup every night (varstudio backup), and give a "
            "studio of several users PostgreSQL (STUDIO_DATABASE_URL). A Python with SQLite 3.51.3 or newer, 3.50.7 or 3.44.6 "
            "is without it.",
        )
    ]


def has_wal_bug(version: tuple[int, ...]) -> bool:
    """From 3.7.0 to 3.51.2, but for the lines it was fixed in as well."""
    patch = WAL_BUG_BACKPORTS.get((version[0], version[1]))
    if patch is not None and version[2] >= patch:
        return False
    return WAL_BUG_FIRST <= version[:3] < WAL_BUG_FIXED


def check_disk(settings: Settings) -> list[CheckResult]:
    """Space, inodes, limits, and whether a file can be written and reaches the disk."""
    root = settings.root
    if not root.is_dir():
        return [
            warning("disk", f"The data folder {root} is not there.", "Set STUDIO_DATA_DIR, or start the studio: varstudio up.")
        ]
    facts = os.statvfs(root)
    free, size = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
    verdicts = [judge_space(free, size, settings.min_free_bytes)]
    if facts.f_files and facts.f_favail < LOW_SHARE * facts.f_files:
        remedy = "Delete many small files, or use a file system with more."
        verdicts.append(warning("inodes", f"The disk has {facts.f_favail:,} of {facts.f_files:,} inodes left.", remedy))
    return [*verdicts, check_limits(settings), probe_writing(root), *check_file_system(settings)]


def check_limits(settings: Settings) -> CheckResult:
    """Return whether the studio's own limits (quota, minimum free) still let anything begin."""
    gauge = DiskGauge(settings)
    if not gauge.is_limited:
        return ok("limits", "None is set for the data folder.")
    storage = gauge.look()
    if not storage.is_full:
        return ok("limits", f"There is room for {storage.room_bytes / 1e9:,.1f} GB more.")
    remedy = "Delete runs, data sets or scorings that nobody needs (the page Storage shows what takes it), or raise the limit."
    if not settings.database_url and 2 * storage.parts["database"] > storage.used_bytes:
        remedy += " Most of it is the database's own file: after deleting, stop the studio and run sqlite3 studio.db VACUUM."
    return error("limits", f"{storage.reason} Nothing new begins until there is room.", remedy)


def check_store(settings: Settings) -> list[CheckResult]:
    """Return whether the object store takes a small file and gives it back."""
    if not settings.store_url:
        return [ok("store", "None is set: all hosts share the data folder.")]
    key, content = f".probe-{secrets.token_hex(6)}", b"probe"
    try:
        store = ObjectStore(settings.store_url, settings.store_endpoint, tries=1)
        store.write(key, content)
        came_back = store.read(key) == content
        store.remove(key)
    except StudioError as failure:
        remedy = "Correct STUDIO_STORE_URL or STUDIO_STORE_ENDPOINT, or start the store: without it no run begins or saves there."
        return [error("store", failure.detail, remedy)]
    if not came_back:
        return [error("store", f"The store {store.url} lost what was just written to it.", "Look at the store's own log.")]
    return [ok("store", f"{store.url} takes files and gives them back.")]


def judge_space(free: int, size: int, min_free: int) -> CheckResult:
    sentence = f"{free / 1e9:,.1f} GB of {size / 1e9:,.1f} GB are free."
    remedy = "Free some space: the page Storage shows what takes it."
    if free < max(min_free, 10**8):
        return error("disk", sentence, remedy)
    if free < min(LOW_BYTES, LOW_SHARE * size):
        return warning("disk", sentence, remedy)
    return ok("disk", sentence)


def probe_writing(root: Path) -> CheckResult:
    """Write a small file, wait for the disk, remove it."""
    probe = root / f".probe-{secrets.token_hex(6)}.tmp"
    start = time.monotonic()
    try:
        with probe.open("xb") as file:
            file.write(b"\0" * PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
    except OSError as failure:
        remedy = "Look at the rights of the folder, and at the disk."
        return error("writing", f"Nothing can be written to {root}: {failure.strerror}.", remedy)
    finally:
        probe.unlink(missing_ok=True)
    seconds = time.monotonic() - start
    sentence = f"1 MiB reached the disk in {seconds * 1000:,.0f} ms."
    if seconds > SLOW_PROBE_SECONDS:
        return warning("writing", sentence, "The disk is slow or busy: commits and checkpoints will wait for it.")
    return ok("writing", sentence)


def check_file_system(settings: Settings) -> list[CheckResult]:
    """SQLite in WAL mode needs memory that all its processes share: no network file system has that."""
    kind = find_file_system(settings.root)
    if kind.startswith(NETWORK_SYSTEMS) and not (settings.database_url and settings.broker_url):
        remedy = "Set STUDIO_DATABASE_URL and STUDIO_BROKER_URL, or put the data folder on a disk of this machine."
        return [
            warning("file system", f"The data folder is on a network file system ({kind}), where SQLite is not safe.", remedy)
        ]
    return [ok("file system", f"The data folder is on {kind}.")] if kind else []


def find_file_system(path: Path) -> str:
    """Return the type of the file system that holds the path; empty where the machine doesn't tell."""
    holding = [disk for disk in psutil.disk_partitions(all=True) if path.is_relative_to(disk.mountpoint)]
    return max(holding, key=lambda disk: len(disk.mountpoint)).fstype if holding else ""


def check_gpus() -> list[CheckResult]:
    """Return what nvidia-smi says of this machine."""
    try:
        answer = subprocess.run(GPU_QUERY, capture_output=True, encoding="utf-8", timeout=20, check=True).stdout
    except FileNotFoundError:
        return [ok("gpus", "None: runs on this machine use the CPU.")]
    except (OSError, subprocess.SubprocessError):
        remedy = "Run nvidia-smi by hand: the driver may have to be loaded or updated."
        return [warning("gpus", "nvidia-smi is there but gives no answer, so runs on this machine use the CPU.", remedy)]
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    return [ok("gpus", f"{len(lines)}: {'; '.join(lines)}.")]


def check_driver() -> list[CheckResult]:
    """Return whether the driver is new enough for the CUDA that torch was built for, both read without loading torch."""
    cuda = find_cuda_of_torch()
    needed = DRIVERS.get(cuda.partition(".")[0])
    if needed is None:
        return []
    try:
        answer = subprocess.run(DRIVER_QUERY, capture_output=True, encoding="utf-8", timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # said of the GPUs
    version = answer.strip().partition("\n")[0].strip()
    sentence = f"NVIDIA's driver is {version}; CUDA {cuda}, for which torch here is built, needs {needed} or newer."
    if version.partition(".")[0].isdigit() and int(version.partition(".")[0]) < needed:
        return [
            error("driver", sentence, "Update the driver on this machine (a container has its host's): runs can't use the GPUs.")
        ]
    return [ok("driver", sentence)]


def find_cuda_of_torch() -> str:
    """Return the CUDA version that the installed torch is built for; empty without torch, or where it is built for CPUs."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return ""
    try:
        found = re.search(
            r"^cuda\b[^=]*= *'([\d.]+)'", (Path(torch.origin).parent / "version.py").read_text(encoding="utf-8"), re.MULTILINE
        )
    except OSError:
        return ""
    return found[1] if found else ""


def check_rights(settings: Settings, token: Path) -> list[CheckResult]:
    """Secrets and data are for the studio's user alone."""
    verdicts = []
    if token.exists() and _mode(token) & 0o077:
        remedy = f"chmod 600 {token}, then make a new token: delete the file and start varstudio up."
        verdicts.append(error("rights", f"Other users of this machine can read the token in {token}.", remedy))
    if settings.root.is_dir() and _mode(settings.root) & 0o007:
        sentence = f"Other users of this machine can look into {settings.root}, with everybody's data."
        verdicts.append(warning("rights", sentence, f"chmod o-rwx {settings.root}"))
    env = Path(".env")
    if env.is_file() and _mode(env) & 0o007:
        verdicts.append(warning("rights", f"Other users of this machine can read {env.absolute()}.", "chmod 600 .env"))
    if not verdicts and not settings.root.is_dir():
        return [ok("rights", f"The data folder {settings.root} is not there yet, so there is nothing in it to be read.")]
    return verdicts or [ok("rights", "Secrets and data are readable by the studio's user only.")]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def check_model_roots(settings: Settings) -> list[CheckResult]:
    """Return the folders that local models may come from are there."""
    missing = [str(root) for root in settings.model_roots if not root.is_dir()]
    if missing:
        remedy = "Make them, or correct STUDIO_MODEL_ROOTS (several folders are written with a comma between two)."
        return [warning("model roots", f"Not there: {', '.join(missing)}.", remedy)]
    return [ok("model roots", f"{len(settings.model_roots)} folders." if settings.model_roots else "None is set.")]


def check_addresses(settings: Settings) -> list[CheckResult]:
    """Return how users reach the web fits where it listens."""
    if fault := settings.find_public_url_fault():
        return [error("addresses", fault, "Correct it: neither the web nor varstudio up starts before.")]
    public = urlsplit(settings.url)
    default_hosts = Settings.model_fields["allowed_hosts"].default
    if not is_loopback(settings.host) and not settings.public_url and settings.allowed_hosts == default_hosts:
        remedy = "Set STUDIO_PUBLIC_URL or STUDIO_ALLOWED_HOSTS, or listen on 127.0.0.1."
        return [error("addresses", f"The web listens on {settings.host}, but answers only to this machine's own names.", remedy)]
    if public.scheme == "http" and not is_loopback(public.hostname or ""):
        remedy = "Put a reverse proxy with TLS before the web, and set STUDIO_PUBLIC_URL to its https address."
        return [warning("addresses", "Users reach the web without encryption.", remedy)]
    return [
        ok(
            "addresses",
            f"The web listens on {settings.host}:{settings.port}, and users reach it at {public.scheme}://{public.netloc.rpartition('@')[2]}.",
        )
    ]
