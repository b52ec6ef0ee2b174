"""The files under /static: named with a hash of their content, so that browsers may keep them for a year; packed once, not for
each who asks, as anybody may.
"""

import gzip
import hashlib
import threading
from functools import lru_cache
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.system.installation import find_folder

STATIC = find_folder("static")
FOREVER = "public, max-age=31536000, immutable"
CHECKED = "no-cache"
LEAST_BYTES, LEVEL = 1000, 6  # of what is packed, and how tightly
HIDDEN = ("node_modules", "package", ".")


@lru_cache(maxsize=256)
def content_hash(name: str, _changed_ns: int) -> str:
    """Twelve hex digits of the file's SHA-256; the time of its last change only refreshes the cache."""
    return hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]


def static_url(name: str) -> str:
    """`/static/<name>?v=<hash>`; a file that isn't there (npm's, before set-up) gets no hash."""
    try:
        return f"/static/{name}?v={content_hash(name, (STATIC / name).stat().st_mtime_ns)}"
    except FileNotFoundError:
        return f"/static/{name}"


_packing = threading.Lock()


@lru_cache(maxsize=256)
def _packed(path: Path, _changed_ns: int) -> bytes:
    return gzip.compress(path.read_bytes(), LEVEL, mtime=0)


def find_packed(path: Path, changed_ns: int) -> bytes:
    """Return a file's bytes packed, by the time of its last change; many who ask at once wait for one who packs."""
    with _packing:
        return _packed(path, changed_ns)


def takes_gzip(headers: Headers) -> bool:
    """Return whether the sender wants the whole file, and may get it packed."""
    return "gzip" in headers.get("accept-encoding", "") and "range" not in headers


async def pack(response: FileResponse, method: str) -> Response:
    """Return the answer with the file packed, when that is worth it."""
    response.headers.add_vary_header("accept-encoding")
    stat = response.stat_result
    if response.status_code != 200 or stat is None or stat.st_size < LEAST_BYTES:
        return response
    content = await run_in_threadpool(find_packed, Path(response.path), stat.st_mtime_ns)
    kept = {name: value for name, value in response.headers.items() if name not in ("content-length", "accept-ranges")}
    headers = {**kept, "content-encoding": "gzip", "content-length": str(len(content))}
    return Response(b"" if method == "HEAD" else content, headers=headers)


class StudioFiles(StaticFiles):
    """static/ without npm's own folders. With `?v=` an answer may be kept for good; without, it is checked each time."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path.startswith(HIDDEN):
            path = "nothing here"
        response = await super().get_response(path, scope)
        if isinstance(response, FileResponse) and takes_gzip(Headers(scope=scope)):
            response = await pack(response, scope["method"])
        asked = scope.get("query_string", b"").startswith(b"v=")
        response.headers["cache-control"] = FOREVER if asked else CHECKED
        return response
