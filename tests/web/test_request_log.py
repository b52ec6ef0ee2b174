"""Each request leaves one line in the log, with its id and without a secret, whatever the answer was."""

import io
import json
import logging
import subprocess
import sys

import pytest

from app import logs
from app.web.request_log import choose_id


@pytest.fixture
def lines(caplog):
    """The fields of what was logged by the requests so far, as JSON lines hold them."""
    caplog.set_level(logging.INFO)
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logging.getLogger().addHandler(handler)
    told = lambda: map(json.loads, stream.getvalue().splitlines())  # noqa: E731
    yield lambda: [line for line in told() if not line["logger"].startswith("httpx")]  # the client of the tests logs too
    logging.getLogger().removeHandler(handler)


def answered(lines):
    return [line for line in lines() if line["message"] == "answered"]


def test_a_request_is_one_line_with_route_status_time_user_and_id(studio, client, lines):
    run_id = studio.launch()
    answer = client.get(f"/api/v1/runs/{run_id}?secret=hunter2")
    line = answered(lines)[-1]
    assert (line["method"], line["path"], line["status"]) == ("GET", "/api/v1/runs/{run_id}", 200)
    assert line["milliseconds"] > 0
    assert line["user"].startswith("user_")
    assert line["request_id"] == answer.headers["x-request-id"]
    assert "hunter2" not in json.dumps(lines())
    assert line["at"].endswith("+00:00")


def test_refusals_and_unknown_addresses_leave_a_line_too(studio, lines):
    nobody = studio.client("")
    nobody.get("/api/v1/runs")
    nobody.get("/somewhere/else")
    nobody.get("/healthz", headers={"host": "evil.example"})
    nobody.request("BREW", "/api/v1/runs")
    assert [(line["method"], line["path"], line["status"]) for line in answered(lines)] == [
        ("GET", "/api/v1/runs", 401), ("GET", "unmatched", 404), ("GET", "unmatched", 400),
        ("other", "/api/v1/runs", 405),
    ]  # fmt: skip


def test_login_links_and_tokens_are_in_no_line(studio, lines):
    secret, token = studio.login_secret(), studio.make_token()
    studio.client("").post(f"/login/{secret}")
    studio.client(token).get("/api/v1/runs")
    logging.getLogger("some.library").warning("POST /login/%s with Bearer %s", secret, token)
    told = json.dumps(lines())
    assert answered(lines)
    assert secret not in told
    assert token not in told


@pytest.mark.parametrize("given", ["abc-123", "3f2a.b_c", "x" * 64])
def test_a_proxys_request_id_is_kept(studio, given):
    assert studio.client("").get("/healthz", headers={"x-request-id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", 'a"b', "<script>", "a=b", "\u00e9", "a;b"])
def test_a_request_id_that_is_no_plain_word_is_replaced(given):
    assert choose_id(given) != given
    assert choose_id(given) != choose_id(given)


def test_what_a_request_logs_on_its_way_carries_its_id(studio, lines, monkeypatch):
    from app.web.api import runs

    def fall(*_args, **_more):
        logging.getLogger("app.services.runs").warning("from below")
        raise RuntimeError("it broke")

    monkeypatch.setattr(runs.store, "get_run", fall)
    answer = studio.client().get("/api/v1/runs/run_1", headers={"x-request-id": "ours"})
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] == "ours"
    by_message = {line["message"]: line for line in lines()}
    assert by_message["from below"]["request_id"] == "ours"
    (failed,) = [line for line in lines() if "exception" in line]
    assert "RuntimeError: it broke" in failed["exception"]
    assert failed["request_id"] == "ours"


def record(message: str, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("here", logging.WARNING, "", 0, message, (), None)
    made.__dict__.update(more)
    return made


@pytest.mark.parametrize("hostile", ["two\nlines", "a\rb", "x\u2028y", "\x85z", "\x1b[31m", 'say "x" level=error', "\0"])
def test_a_line_stays_one_line_whatever_is_in_it(hostile):
    line = logs.LineFormatter().format(record(hostile))
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert json.loads(line.partition(" message=")[2]) == hostile
    assert json.loads(logs.JsonFormatter().format(record(hostile)))["message"] == hostile


def test_run_attempt_and_worker_come_from_the_record_the_context_or_the_process():
    formatter = logs.LineFormatter(worker="gpu-1")
    with logs.bound(run_id="run_a", attempt=2):
        assert "run_id=run_a attempt=2 worker=gpu-1 message=hello" in formatter.format(record("hello"))
        assert "run_id=run_b attempt=2" in formatter.format(record("hello", run_id="run_b"))
    assert "run_id" not in formatter.format(record("hello"))


def test_an_exception_is_a_field_of_its_line():
    try:
        raise ValueError("no\nway")
    except ValueError:
        made = record("failed", exc_info=sys.exc_info())
    line = logs.LineFormatter().format(made)
    assert len(line.splitlines()) == 1
    assert "ValueError: no" in json.loads(line.partition(" exception=")[2])


def test_passwords_in_addresses_are_hidden():
    text = "cannot reach postgresql+psycopg://studio:s3cr3t@db:5432/studio or redis://:pw@redis/0"
    told = logs.LineFormatter().format(record(text))
    assert "s3cr3t" not in told
    assert ":pw@" not in told
    assert "@db:5432/studio" in told


@pytest.mark.process
def test_a_process_logs_as_its_settings_say(tmp_path):
    program = (
        "import logging; from app import logs; from app.settings import Settings; s = Settings();"
        "logs.configure(s.log_format, s.log_level, worker='w');"
        "logging.getLogger('a').info('quiet'); logging.getLogger('uvicorn.error').warning('loud')"
    )
    environment = {"STUDIO_LOG_FORMAT": "json", "STUDIO_LOG_LEVEL": "warning"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    (line,) = map(json.loads, done.stderr.splitlines())
    assert (line["level"], line["logger"], line["message"], line["worker"]) == ("warning", "uvicorn.error", "loud", "w")
