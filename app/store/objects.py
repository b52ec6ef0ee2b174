"""The object store: single files under keys, for hosts that share no folder. Any URL that fsspec knows; S3 by the extra `s3`.

A key is a path relative to the data folder, such as `runs/run_1/attempts/2/log.txt`. Every error is a sentence: Unavailable
when the store can't be reached or refuses us, after a few tries; NotFound when there is nothing under the key.
Nothing here names credentials: they come from the usual environment (AWS_ACCESS_KEY_ID …) and stay there.
"""

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from app.domain.errors import NotFound, StudioError, Unavailable
from app.store.files import disk_full_is_unavailable, write_atomic

T = TypeVar("T")
Check = Callable[[], None]  # called between pieces of a transfer; what it raises ends the transfer

PIECE_BYTES = 16 * 2**20  # of a transfer in memory; an upload of up to two is sent whole
TRIES = 4
PAUSE_SECONDS = 0.5  # before the second try; doubled before each further one
CONNECT_SECONDS, READ_SECONDS = 5, 30
RETRY_AFTER_SECONDS = 10
SECRET_URL = re.compile(r"^\w+://[^/]*@")

log = logging.getLogger(__name__)


def never() -> None:
    """A check that never ends a transfer."""


class StoreMisconfigured(StudioError):
    """The setting of the store can't be understood; said at the start, not at the first run."""

    title = "The studio's store is not set up"


class ObjectStore:
    """Files under keys below `url`. Thread-safe; the client is loaded when it is first needed."""

    def __init__(self, url: str, endpoint: str = "", *, tries: int = TRIES, pause_seconds: float = PAUSE_SECONDS) -> None:
        if "://" not in url or SECRET_URL.match(url):
            raise StoreMisconfigured(
                "STUDIO_STORE_URL must be a URL without a user or password, such as s3://bucket/studio or file:///mnt/studio; "
                "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        self.url, self.endpoint = url.rstrip("/"), endpoint
        self._tries, self._pause_seconds = tries, pause_seconds
        self._scheme, self._root = self.url.split("://", 1)
        self._client: Any = None

    def put_file(self, path: Path, key: str, check: Check = never) -> None:
        """Store the file under the key, replacing what was there. Raises FileNotFoundError when `path` isn't there."""
        size, place = path.stat().st_size, self._place(key)

        def put(client: Any) -> None:
            check()
            client.put_file(str(path), place, callback=_watch(check), **self._transfer)
            stored = client.info(place)["size"]
            if stored != size:
                raise OSError(f"{stored} bytes arrived of {size}")

        self._try(put, local=path)

    def fetch_file(self, key: str, to: Path, *, sha256: str = "", size: int | None = None, check: Check = never) -> None:
        """Bring the file to `to`, which is then whole: fetched beside it, verified where the digest is known, renamed.

        Raises NotFound; Unavailable also when what arrives is not what was stored.
        """
        place = self._place(key)
        to.parent.mkdir(parents=True, exist_ok=True)
        temporary = to.with_name(f".{to.name}.{secrets.token_hex(6)}.part")

        def fetch(client: Any) -> None:
            check()
            with disk_full_is_unavailable():
                client.get_file(place, str(temporary), callback=_watch(check), **self._transfer)
            if (size is not None and temporary.stat().st_size != size) or (sha256 and hash_file(temporary, check) != sha256):
                raise Damaged(f"The studio's store holds {key} damaged: what arrives is not what was stored there.")

        try:
            self._try(fetch, missing=f"The studio's store holds no {key}.")
            temporary.replace(to)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, key: str) -> bytes | None:
        """The content of a small file; None when there is none."""
        place = self._place(key)
        try:
            found: bytes = self._try(lambda client: client.cat_file(place), missing="-")
        except NotFound:
            return None
        return found

    def write(self, key: str, content: bytes) -> None:
        """Store a small file: the old content or the new is there, never a part."""
        if self._scheme == "file":  # elsewhere one request replaces the object as a whole
            path = Path(self._place(key))
            self._try(lambda _: write_atomic(path, content))
        else:
            place = self._place(key)
            self._try(lambda client: client.pipe_file(place, content))

    def list_names(self, key: str) -> list[str]:
        """What lies directly below the key, by name; empty when there is nothing."""

        place = self._place(key)

        def names(client: Any) -> list[str]:
            client.invalidate_cache()
            found = client.ls(place, detail=False)
            return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)

        try:
            return self._try(names, missing="-")
        except NotFound:
            return []

    def exists(self, key: str) -> bool:
        place = self._place(key)
        return self._try(lambda client: bool(client.exists(place)))

    def remove(self, key: str) -> None:
        """Remove the file, or everything below the key; nothing there is no error."""

        place = self._place(key)

        def remove(client: Any) -> None:
            client.invalidate_cache()
            if client.exists(place):
                client.rm(place, recursive=True)

        try:
            self._try(remove, missing="-")
        except NotFound:
            return

    @property
    def _transfer(self) -> dict[str, int]:
        return {"chunksize": PIECE_BYTES, "max_concurrency": 1} if self._scheme == "s3" else {}

    def _place(self, key: str) -> str:
        if not key or key.startswith("/") or "\0" in key or {"..", "."} & set(key.split("/")):
            raise NotFound(f"There is nothing with the name {key!r}.")
        return f"{self._root}/{key}"

    def _try(self, action: Callable[[Any], T], *, local: Path | None = None, missing: str = "") -> T:
        """The action's result, tried a few times. `local`: a file of ours that may be missing; `missing`: NotFound's sentence."""
        for number in range(1, self._tries + 1):
            try:
                return action(self._connect())
            except FileNotFoundError as error:
                if local is not None and not local.exists():
                    raise
                if missing:
                    raise NotFound(missing) from None
                failure: Exception = error
            except (StudioError, Interruption) as error:
                if not isinstance(error, Damaged) or number == self._tries:
                    raise
                failure = error
            except Exception as error:  # clients raise what they like: this is the one border where all of it is caught
                failure = error
            # Never the client's own text: it may repeat addresses and keys.
            log.warning("the store at %s: %s (try %d of %d)", self.url, type(failure).__name__, number, self._tries)
            if number < self._tries:
                time.sleep(self._pause_seconds * 2 ** (number - 1))
        raise Unavailable(describe(self.url, failure), retry_after_seconds=RETRY_AFTER_SECONDS) from None

    def _connect(self) -> Any:
        if self._client is None:
            import fsspec  # here, because a studio without a store should not pay for it

            options: dict[str, Any] = {"auto_mkdir": True} if self._scheme == "file" else {}
            if self._scheme == "s3":
                config = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": {"max_attempts": 1}}
                options = {"endpoint_url": self.endpoint or None, "use_listings_cache": False, "config_kwargs": config}
            try:
                self._client = fsspec.filesystem(self._scheme, skip_instance_cache=True, **options)
            except (ImportError, ValueError):
                sentence = f"The store {self.url} needs a package that is not installed: pip install 'var-studio[s3]' for S3."
                raise StoreMisconfigured(sentence) from None
            self._client.retries = 2  # of s3fs itself, within each of our tries
        return self._client


class Damaged(Unavailable):
    """What arrived is not what was stored."""


class Interruption(Exception):
    """Base of what a check raises to end a transfer: no error of the store, so nothing is tried again."""


def describe(url: str, failure: Exception) -> str:
    """What to do when the store doesn't answer, as a sentence without the client's own words."""
    if isinstance(failure, PermissionError) or "Credentials" in type(failure).__name__:
        return f"The studio's store {url} refuses us: check its credentials (AWS_ACCESS_KEY_ID …) and the bucket's rights."
    if isinstance(failure, FileNotFoundError):
        return f"The studio's store {url} is not there: make its bucket or folder, or correct STUDIO_STORE_URL."
    return f"The studio's store {url} can't be reached ({type(failure).__name__}): try again in a few seconds."


def hash_file(path: Path, check: Check = never) -> str:
    """The file's sha256, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**20):
            check()
            digest.update(piece)
    return digest.hexdigest()


def _watch(check: Check) -> Any:
    from fsspec.callbacks import Callback

    class Watch(Callback):  # type: ignore[misc]
        """Asks the check at every piece that was sent or received."""

        def relative_update(self, inc: int = 1) -> None:
            check()

    return Watch()
