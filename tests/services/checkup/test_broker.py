"""The doctor's look at a Redis broker."""

import pytest
from redis import Redis

from app.domain.check_result import Level
from app.services.checkup.broker import check_broker
from app.settings import Settings


@pytest.mark.box
def test_a_redis_that_may_throw_hints_away_is_warned_of(redis_url: str, settings: Settings) -> None:
    boxed = settings.model_copy(update={"broker_url": redis_url})
    assert {verdict.check: verdict.level for verdict in check_broker(boxed)} == {"broker": Level.OK, "eviction": Level.OK}
    with Redis.from_url(redis_url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
    assert check_broker(boxed)[-1].level is Level.WARNING
