"""The object store: single files under keys, for hosts that share no folder: a bucket (s3://, gs://, az://) or a folder (file://).

A key is a path relative to the data folder, such as `runs/run_1/attempts/2/log.txt`. Every error is a sentence: Unavailable
when the store can't be reached or refuses us, after the client has tried a few times; NotFound when there is nothing under the
key. Nothing here names credentials: they come from the usual environment (AWS_ACCESS_KEY_ID …) and stay there.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from app.domain.errors import NotFound, StudioError, Unavailable
from app.store.files.files import disk_full_is_unavailable, write_atomic
from app.system.files import never, read_pieces, remove_tree, writing

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config
    from obstore.store import ObjectStore as Client

Check = Callable[[], None]  # called between pieces of a transfer; what it raises ends the transfer

SCHEMES = ("s3", "gs", "az", "file")
PIECE_BYTES = 8 * 2**20  # of a transfer in memory; a file of up to one is sent whole
MAX_PIECES = 10_000  # of one upload to S3
TRIES = 4
PAUSE = timedelta(seconds=0.5)  # before the second try; doubled before each further one
CONNECT = timedelta(seconds=5)
SILENCE = timedelta(seconds=30)  # of a store that has a request; a piece must be sent within it
TRYING = timedelta(seconds=60)  # after which nothing is tried again
WHOLE = timedelta(days=1)  # a file of any size has to arrive within it
RETRY_AFTER_SECONDS = 10
SECRET_URL = re.compile(r"^\w+://[^/]*@")
STATUS = re.compile(r"status code: (\d{3})")
# By what the client says, which is not repeated: it holds addresses and keys.
CAUSES = {
    r"403 Forbidden|401 Unauthorized|Permission denied|/latest/api/token":  # the last: Amazon's own machines are asked for some
        "refuses us: check its credentials (AWS_ACCESS_KEY_ID …) and the bucket's rights.",
    r"No space left": "is full: make room in it.",
    r"NoSuchBucket|os error 2\b": "is not there: make its bucket or folder, or correct STUDIO_STORE_URL.",
    r"incorrectly configured region|AuthorizationHeaderMalformed": "lies in another region: set AWS_REGION to its bucket's.",
    r"InvalidCertificate": "has a certificate that is not trusted here: name a file with its authority's in SSL_CERT_FILE.",
}  # fmt: skip

log = logging.getLogger(__name__)


class StoreMisconfigured(StudioError):
    """The setting of the store can't be understood; said at the start, not at the first run."""

    title = "The studio's store is not set up"


class ObjectDamaged(Unavailable):
    """What arrived is not what was stored."""


class Interruption(Exception):
    """Base of what a check raises to end a transfer: no error of the store."""


class ObjectStore:
    """Files under keys below `url`. Thread-safe; the client is loaded when it is first needed."""

    def __init__(self, url: str, endpoint: str = "", *, tries: int = TRIES) -> None:
        scheme, separator, root = url.partition("://")
        if not separator or SECRET_URL.match(url):
            raise StoreMisconfigured(
                "STUDIO_STORE_URL must be a URL without a user or password, such as s3://bucket/studio or file:///mnt/studio; "
                "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
            )
        if scheme not in SCHEMES:
            raise StoreMisconfigured(
                f"The store {url} is of a kind that is not known here; known are {'://, '.join(SCHEMES)}://."
            )
        if not root.strip("/"):
            raise StoreMisconfigured(
                f"STUDIO_STORE_URL is {url}, which names no bucket or folder: write one like s3://bucket/studio."
            )
        self.url, self.endpoint = url.rstrip("/"), endpoint
        self._tries = tries
        self._folder = Path(unquote(root)) if scheme == "file" else None

    def put_file(self, path: Path, key: str, check: Check = never) -> None:
        """Store the file under the key, replacing what was there. Raises FileNotFoundError when `path` isn't there."""
        with path.open("rb") as file, self._asking(key):
            check()
            size = path.stat().st_size
            piece = max(PIECE_BYTES, -(-size // MAX_PIECES))
            content = file.read() if size <= piece else read_pieces(file, piece, check)
            self._client.put(key, content, chunk_size=piece, max_concurrency=1)

    def fetch_file(self, key: str, to: Path, *, sha256: str = "", check: Check = never) -> None:
        """Bring the file to `to`, which is then whole: fetched beside it, verified where the digest is known, renamed.

        Raises NotFound; Unavailable also when what arrives is not what was stored.
        """
        digest = hashlib.sha256()
        with self._asking(key, f"The studio's store holds no {key}."), disk_full_is_unavailable(), writing(to) as temporary:
            with temporary.open("xb") as file:
                for piece in self._client.get(key).stream(min_chunk_size=PIECE_BYTES):
                    check()
                    digest.update(piece)
                    file.write(piece)
            if sha256 and digest.hexdigest() != sha256:
                raise ObjectDamaged(f"The studio's store holds {key} damaged: what arrives is not what was stored there.")

    def read(self, key: str) -> bytes | None:
        """Return the content of a small file; None when there is none."""
        try:
            with self._asking(key, "-"):
                return bytes(self._client.get(key).bytes())
        except NotFound:
            return None

    def write(self, key: str, content: bytes) -> None:
        """Store a small file: the old content or the new is there, never a part."""
        with self._asking(key):
            if self._folder:  # where the client would not wait for the disk
                write_atomic(self._folder / key, content)
            else:
                self._client.put(key, content, use_multipart=False)

    def list_names(self, key: str) -> list[str]:
        """Return the names of what lies directly below the key."""
        with self._asking(key):
            found = self._client.list_with_delimiter(key)
        paths = [*found["common_prefixes"], *(file["path"] for file in found["objects"])]
        return sorted(path.rpartition("/")[2] for path in paths)

    def remove(self, key: str) -> None:
        """Remove the file, or everything below the key; nothing there is no error."""
        with self._asking(key):
            if self._folder:  # with it goes what a writer had begun that was killed: the client does not list that
                place = self._folder / key
                remove_tree(place) if place.is_dir() else place.unlink(missing_ok=True)
            else:
                below = [file["path"] for files in self._client.list(key) for file in files]
                self._client.delete(below or [key])

    @contextmanager
    def _asking(self, key: str, missing: str = "") -> Iterator[None]:
        """Turn what the client raises into sentences. `missing`: NotFound's, where there may be nothing under the key."""
        if not key or key.startswith("/") or "\0" in key or {"..", "."} & set(key.split("/")):
            raise NotFound(f"There is nothing with the name {key!r}.")
        try:
            yield
        except (StudioError, Interruption):
            raise
        except Exception as error:  # clients raise what they like: this is the one border where all of it is caught
            if missing and isinstance(error, FileNotFoundError):
                raise NotFound(missing) from None
            failure = Unavailable(describe(self.url, error), retry_after_seconds=RETRY_AFTER_SECONDS)
            log.warning("%s (%s)", failure, type(error).__name__)
            raise failure from None

    @cached_property
    def _client(self) -> "Client":
        from obstore.store import LocalStore, from_url  # here, because a studio without a store should not pay for it

        if self._folder:
            return LocalStore(self._folder, mkdir=True, automatic_cleanup=True)
        config: S3Config = {"endpoint": self.endpoint} if self.endpoint else {}
        client: ClientConfig = {"allow_http": True, "connect_timeout": CONNECT, "read_timeout": SILENCE, "timeout": WHOLE}
        retry: RetryConfig = {
            "max_retries": self._tries - 1, "retry_timeout": TRYING,
            "backoff": {"init_backoff": PAUSE, "max_backoff": 8 * PAUSE, "base": 2},
        }  # fmt: skip
        return from_url(self.url, config=config, client_options=client, retry_config=retry)


def describe(url: str, failure: Exception) -> str:
    """Return what to do when the store doesn't answer, as a sentence without the client's own words."""
    said = str(failure)
    for pattern, cause in CAUSES.items():
        if re.search(pattern, said):
            return f"The studio's store {url} {cause}"
    answer = f" (it answers {found[1]})" if (found := STATUS.search(said)) else ""
    return f"The studio's store {url} can't be reached{answer}: try again in a few seconds."
