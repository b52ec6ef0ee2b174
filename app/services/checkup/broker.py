"""Checks of the broker, embedded or Redis."""

import sqlite3
from contextlib import closing

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import make_url

from app.domain.check_result import CheckResult, error, ok, warning
from app.settings import Settings

WAITING_HINTS = 10_000


def shown_url(url: str) -> str:
    """Return a URL without its password, and without options that may hold another."""
    return make_url(url).set(query={}).render_as_string(hide_password=True)


def check_broker(settings: Settings) -> list[CheckResult]:
    """Return whether hints can be sent. Without a broker everything still runs, only seconds later."""
    if settings.has_redis:
        return _check_redis(settings)
    if settings.broker_url:
        return [
            warning("broker", f"{shown_url(settings.broker_url)} is not a Redis, so it is not looked at.", "Use Redis or Valkey.")
        ]
    path = settings.root / "broker.db"
    if not path.exists():
        return [ok("broker", "Embedded, not made yet.")]
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
        (waiting,) = connection.execute("SELECT count(*) FROM kombu_message WHERE visible = 1").fetchone()
    sentence = f"Embedded: {path.stat().st_size / 1e6:,.1f} MB, {waiting:,} hints wait."
    if waiting > WAITING_HINTS:
        return [warning("broker", sentence, "Start a worker: it reads them and drops the old ones.")]
    return [ok("broker", sentence)]


def _check_redis(settings: Settings) -> list[CheckResult]:
    shown = shown_url(settings.broker_url)
    try:
        with Redis.from_url(settings.redis_url, socket_timeout=3, socket_connect_timeout=3) as redis:
            redis.ping()
            version = str(redis.info("server").get("redis_version", "?"))
            verdicts = [ok("broker", f"{shown} answers (version {version}).")]
            verdicts += _check_eviction(redis)
            return verdicts
    except RedisError as failure:
        remedy = "Start it, or correct STUDIO_BROKER_URL. Meanwhile workers find runs by themselves, seconds later."
        return [error("broker", f"{shown} doesn't answer ({type(failure).__name__}).", remedy)]


def _check_eviction(redis: "Redis") -> list[CheckResult]:
    try:
        policy = str(redis.config_get("maxmemory-policy").get("maxmemory-policy", ""))
        saves = str(redis.config_get("appendonly").get("appendonly", ""))
    except RedisError:  # a managed server doesn't tell
        return []
    if policy not in ("noeviction", ""):
        remedy = "CONFIG SET maxmemory-policy noeviction (and in its configuration file)."
        return [warning("eviction", f"Redis may throw hints away when its memory is full ({policy}).", remedy)]
    return [ok("eviction", f"Redis keeps what it has (noeviction, appendonly {saves or '?'}).")]
