"""The processes of docker-compose.yml, with its variables: PostgreSQL, Redis, migrations, one web, two workers, two runs."""

import signal

import pytest

from tests.box.box import running_box
from tests.box.journey import both_workers_took_part, travel
from tests.box.servers import find_postgresql, find_redis

pytestmark = [
    pytest.mark.box,
    pytest.mark.timeout(420),
    pytest.mark.skipif(find_postgresql() is None, reason="PostgreSQL is not installed (Debian: apt-get install postgresql)"),
    pytest.mark.skipif(find_redis() is None, reason="Redis is not installed (Debian: apt-get install redis-server)"),
]


def was_clean(statuses: dict[str, int]) -> bool:
    """Workers end with 0; uvicorn, when it is done, passes on the signal that asked it."""
    return all(status in ((0, -signal.SIGTERM) if name == "web" else (0,)) for name, status in statuses.items())


def test_two_runs_go_through_the_box_on_two_workers_and_all_stop_cleanly(tmp_path):
    with running_box() as box:
        try:
            runs = travel(box, print)
            assert len(runs) == 2
            both_workers_took_part(runs)
            assert was_clean(box.stop())
        finally:
            for name, text in box.logs().items():
                (tmp_path / f"{name}.log").write_text(text)
        assert not (box.folder / "data" / "studio.db").exists()
        for name, text in box.logs().items():
            assert "Traceback" not in text, f"{name}: {text[-4000:]}"
            for secret in box.secrets():
                assert secret not in text, name
