"""Sealed texts: opened by who has the secret, for what they belong to, and by nobody else."""

import base64
import stat

import pytest

from app.system.sealing import SealBroken, Sealer, find_secret, make_secret

SECRET = "s" * 40


def test_a_sealed_text_opens_again_and_shows_nothing():
    sealed = Sealer(SECRET).seal("sk-secret-key", "endpoint_1")
    assert "sk-secret" not in sealed
    assert b"sk-secret" not in base64.b64decode(sealed.removeprefix("v1:"))
    assert Sealer(SECRET).open(sealed, "endpoint_1") == "sk-secret-key"


def test_the_same_text_is_sealed_differently_each_time():
    sealer = Sealer(SECRET)
    assert sealer.seal("same", "one") != sealer.seal("same", "one")


def test_another_secret_another_owner_or_a_changed_text_opens_nothing():
    sealed = Sealer(SECRET).seal("sk-secret-key", "endpoint_1")
    for sealer, text, owner in [
        (Sealer("t" * 40), sealed, "endpoint_1"),
        (Sealer(SECRET), sealed, "endpoint_2"),
        (Sealer(SECRET), sealed[:-4] + "AAAA", "endpoint_1"),
        (Sealer(SECRET), "v1:", "endpoint_1"),
        (Sealer(SECRET), "no base 64", "endpoint_1"),
    ]:
        with pytest.raises(SealBroken):
            sealer.open(text, owner)


def test_a_secret_is_made_once_for_its_user_alone(tmp_path):
    path = tmp_path / "secret"
    assert find_secret(path) is None
    made = make_secret(path)
    assert len(made) == 64
    assert make_secret(path) == find_secret(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]
