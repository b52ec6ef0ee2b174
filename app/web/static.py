"""The files under /static: named with a hash of their content, so that browsers may keep them for a year."""

import hashlib
from functools import lru_cache

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.system.installation import find_folder

STATIC = find_folder("static")
FOREVER = "public, max-age=31536000, immutable"
CHECKED = "no-cache"
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


class StudioFiles(StaticFiles):
    """static/ without npm's own folders. With `?v=` an answer may be kept for good; without, it is checked each time."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC)

    async def get_response(self, path: str, scope: Scope) -> Response:
        if path.startswith(HIDDEN):
            path = "nothing here"
        response = await super().get_response(path, scope)
        asked = scope.get("query_string", b"").startswith(b"v=")
        response.headers["cache-control"] = FOREVER if asked else CHECKED
        return response
