"""Texts that are kept sealed: AES-256-GCM under a key made from the studio's secret, each bound to what it belongs to."""

import base64
import hmac
import os
import secrets
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from app.system.files import name_beside, sync

VERSION = "v1:"
NONCE_BYTES = 12
SECRET_BYTES = 32


class SealBroken(Exception):
    """The text was sealed under another secret, for something else, or was changed."""


class Sealer:
    """Seals texts and opens them again. `owner` is what a text belongs to: sealed for one, it opens for no other."""

    def __init__(self, secret: str) -> None:
        self._key = hmac.digest(secret.encode(), b"var-studio: sealed texts", sha256)

    def seal(self, text: str, owner: str) -> str:
        """Return the text sealed, different each time."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # OpenSSL, for the few who need it

        nonce = os.urandom(NONCE_BYTES)
        return VERSION + base64.b64encode(nonce + AESGCM(self._key).encrypt(nonce, text.encode(), owner.encode())).decode()

    def open(self, sealed: str, owner: str) -> str:
        """Raises: SealBroken."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            raw = base64.b64decode(sealed.removeprefix(VERSION), validate=True)
            return AESGCM(self._key).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], owner.encode()).decode()
        except (InvalidTag, ValueError):
            raise SealBroken from None


def find_secret(path: Path) -> str | None:
    """Return the secret that a file keeps; None without one."""
    try:
        return path.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None


def make_secret(path: Path) -> str:
    """Return the secret of a file, which is made for its user alone where it isn't there; of two makers at once one wins."""
    if (known := find_secret(path)) is not None:
        return known
    temporary = name_beside(path)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(SECRET_BYTES) + "\n")
        sync(temporary)
        with suppress(FileExistsError):
            os.link(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink()
    return make_secret(path)
