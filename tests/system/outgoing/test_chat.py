"""An endpoint is asked: good answers, and every way in which a server misbehaves. Waits are counted, not waited for."""

import threading
import time
from collections.abc import Iterator

import httpcore
import pytest

from app.system.outgoing import connections
from app.system.outgoing.chat import ChatClient, ChatServer, EndpointFailed, Question
from app.system.outgoing.exchange import ExchangeLimits
from app.system.outgoing.pace import Clock, Pace, Retries, read_retry_after
from tests.standin import Dropped, Held, StandIn, Wrong, complete, running

KEY = "sk-very-secret-0123456789"
QUESTION = Question([{"role": "user", "content": "Why?"}], max_tokens=20, temperature=0.5, top_p=0.9, seed=7)


class Counted(Clock):
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.at, self.waits = 0.0, []

    def now(self) -> float:
        return self.at

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.at += seconds


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with running(StandIn()) as stand_in:
        yield stand_in


@pytest.fixture
def clock() -> Counted:
    return Counted()


def ask(stand_in: StandIn, clock: Clock, *, question: Question = QUESTION, limits: ExchangeLimits | None = None, **changes):
    options = {"name": "Lab", "address": stand_in.address, "model": "small", "key": KEY, "allowed_hosts": ["127.0.0.1"]}
    client = ChatClient(
        ChatServer(**{**options, **changes}), limits=limits, retries=Retries(num_tries=3), clock=clock
    )  # fmt: skip
    try:
        return client.ask(question)
    finally:
        client.close()


def fail(stand_in: StandIn, clock: Clock, **changes) -> EndpointFailed:
    with pytest.raises(EndpointFailed) as caught:
        ask(stand_in, clock, **changes)
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value.__cause__)
    return caught.value


def test_an_answer_with_its_length_and_how_it_ended(stand_in, clock):
    said = ask(stand_in, clock)
    assert (said.text, said.is_finished, said.num_tokens) == ("Answer 1.", True, 5)
    asked = stand_in.asked[0]
    assert asked["path"] == "/v1/chat/completions"
    assert (asked["model"], asked["max_tokens"], asked["temperature"], asked["top_p"], asked["seed"]) == (
        "small",
        20,
        0.5,
        0.9,
        7,
    )
    assert stand_in.headers[0]["authorization"] == f"Bearer {KEY}"
    assert stand_in.headers[0]["host"] == f"127.0.0.1:{stand_in.port}"


def test_an_answer_that_was_cut_is_told(stand_in, clock):
    stand_in.respond = lambda number, asked: Wrong(body=complete("Half an", finish="length"))
    assert not ask(stand_in, clock).is_finished


def test_without_a_key_none_is_sent(stand_in, clock):
    ask(stand_in, clock, key="")
    assert "authorization" not in stand_in.headers[0]


def test_a_busy_server_is_asked_again_after_as_long_as_it_wants(stand_in, clock):
    busy = Wrong(429, b'{"error": {"message": "slow down"}}', (("Retry-After", "7"),))
    stand_in.respond = lambda number, asked: busy if number < 3 else "At last."
    assert ask(stand_in, clock).text == "At last."
    assert len(clock.waits) == 2
    assert min(clock.waits) >= 7


def test_a_server_that_wants_too_long_a_wait_is_given_up(stand_in, clock):
    stand_in.respond = lambda number, asked: Wrong(429, headers=(("Retry-After", "86400"),))
    error = fail(stand_in, clock)
    assert error.is_passing
    assert "asks to wait 86400 s" in str(error)
    assert clock.waits == []


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (Wrong(500, b"oops"), "fault of its own (status 500)"),
        (Wrong(200, b"<html>nonsense"), "no chat completion"),
        (Wrong(200, b'{"choices": []}'), "no chat completion"),
        (Wrong(200, b'{"choices": [{"message": {"content": {"a": 1}}}]}'), "something else than text"),
        (Wrong(200, b"[" * 100_000), "no chat completion"),
        (Dropped(), "connection was lost"),
        (Dropped(b'{"choices": [{"mess'), "connection was lost"),
    ],
    ids=["500", "html", "empty", "object", "deep", "dropped", "half"],
)
def test_a_fault_that_may_pass_is_tried_again_and_then_told(stand_in, clock, behaviour, told):
    stand_in.respond = lambda number, asked: behaviour
    error = fail(stand_in, clock)
    assert told in str(error)
    assert "tried 3 times" in str(error)
    assert error.is_passing
    assert len(stand_in.asked) == 3
    stand_in.respond = lambda number, asked: behaviour if number == 4 else "Well again."
    assert ask(stand_in, clock).text == "Well again."


@pytest.mark.parametrize(
    ("behaviour", "told", "is_of_question"),
    [
        (Wrong(401, f'{{"error": {{"message": "bad key {KEY}"}}}}'.encode()), "refuses the key", False),
        (Wrong(404), "knows no model 'small'", False),
        (Wrong(400, f'{{"error": {{"message": "too long, {KEY}"}}}}'.encode()), "too long, [key]", True),
        (Wrong(422, b'{"detail": "seed is unknown"}'), "seed is unknown", True),
        (Wrong(418, b"not json"), "status 418", False),
        (Wrong(302, headers=(("Location", "http://169.254.169.254/latest"),)), "redirects to another address", False),
        (Wrong(307, headers=(("Location", "http://10.0.0.1/"),)), "redirects to another address", False),
    ],
    ids=["401", "404", "400", "422", "418", "302", "307"],
)
def test_a_refusal_is_told_at_once(stand_in, clock, behaviour, told, is_of_question):
    stand_in.respond = lambda number, asked: behaviour
    error = fail(stand_in, clock)
    assert told in str(error)
    assert (error.is_passing, error.is_of_question) == (False, is_of_question)
    assert len(stand_in.asked) == 1
    assert clock.waits == []


def test_a_body_that_is_too_large_is_not_read(stand_in, clock):
    stand_in.respond = lambda number, asked: Wrong(200, b" " * 3_000_000)
    assert "larger than 1 MiB" in str(fail(stand_in, clock, limits=ExchangeLimits(most_bytes=2**20)))
    assert len(stand_in.asked) == 1


def test_a_key_that_is_said_back_is_not_in_the_answer(stand_in, clock):
    stand_in.respond = lambda number, asked: f"You sent {KEY}."
    assert ask(stand_in, clock).text == "You sent [key]."


def test_a_newer_name_of_the_longest_answer_is_taken(stand_in, clock):
    refusal = Wrong(400, b'{"error": {"message": "Unsupported: max_tokens. Use max_completion_tokens instead."}}')
    stand_in.respond = lambda number, asked: refusal if "max_tokens" in asked else "Taken."
    assert ask(stand_in, clock).text == "Taken."
    assert stand_in.asked[-1]["max_completion_tokens"] == 20


def test_a_silent_server_is_given_up_in_time(stand_in, clock):
    released = threading.Event()
    stand_in.respond = lambda number, asked: Held(released)
    error = fail(stand_in, clock, limits=ExchangeLimits(first_byte_seconds=0.05))
    released.set()
    assert "did not answer in time" in str(error)
    assert error.is_passing


def test_an_answer_that_never_ends_is_given_up_in_time(stand_in, clock):
    released = threading.Event()
    stand_in.respond = lambda number, asked: Held(released)
    assert "in time" in str(fail(stand_in, clock, limits=ExchangeLimits(whole_seconds=0.05)))
    released.set()


class Ended(Exception):
    pass


def test_the_end_of_the_work_ends_a_request_that_waits(stand_in):
    released, ended = threading.Event(), threading.Event()
    stand_in.respond = lambda number, asked: Held(released)

    def check() -> None:
        if ended.is_set():
            raise Ended

    server = ChatServer("Lab", stand_in.address, "small", allowed_hosts=["127.0.0.1"])
    client = ChatClient(server, check=check)
    caught: list[BaseException] = []

    def work() -> None:
        try:
            client.ask(QUESTION)
        except Ended as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert stand_in.arrived.acquire(timeout=30)
    ended.set()
    thread.join(30)
    released.set()
    client.close()
    assert len(caught) == 1


def test_the_end_of_the_work_ends_a_wait_between_tries():
    def check() -> None:
        raise Ended

    with pytest.raises(Ended):
        Clock(check).wait(1000)


def test_a_private_address_is_asked_only_when_it_is_listed(stand_in, clock):
    error = fail(stand_in, clock, allowed_hosts=[])
    assert "127.0.0.1 is a loopback address" in str(error)
    assert stand_in.asked == []


def test_a_name_is_judged_by_what_it_stands_for_when_it_is_connected_to(stand_in, clock, monkeypatch):
    monkeypatch.setattr(connections, "resolve", lambda host, port: ["127.0.0.1"])
    error = fail(stand_in, clock, address=f"http://public.example:{stand_in.port}/v1", allowed_hosts=[])
    assert "public.example (127.0.0.1) is a loopback address" in str(error)
    assert stand_in.asked == []
    said = ask(stand_in, clock, address=f"http://public.example:{stand_in.port}/v1", allowed_hosts=["public.example"])
    assert said.text == "Answer 1."
    assert stand_in.headers[0]["host"] == f"public.example:{stand_in.port}"


def test_a_name_with_one_private_address_among_public_ones_is_refused(stand_in, clock, monkeypatch):
    monkeypatch.setattr(connections, "resolve", lambda host, port: ["8.8.8.8", "10.0.0.1"])
    assert "private address" in str(fail(stand_in, clock, address="https://public.example/v1", allowed_hosts=[]))


def test_a_key_does_not_go_over_the_open_internet_in_the_clear(stand_in, clock, monkeypatch):
    monkeypatch.setattr(connections, "resolve", lambda host, port: ["8.8.8.8"])
    assert "use an https address" in str(fail(stand_in, clock, address="http://public.example/v1"))


def test_no_proxy_of_the_environment_is_used(stand_in, clock, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert ask(stand_in, clock).text == "Answer 1."


def test_a_server_that_is_not_there_is_told(clock):
    with running(StandIn()) as gone:
        pass
    assert "nothing listens there" in str(fail(gone, clock))


def test_a_certificate_that_is_not_trusted_is_told_and_not_tried_again(stand_in, clock):
    error = fail(stand_in, clock, address=f"https://127.0.0.1:{stand_in.port}/v1")
    assert "gave no answer" in str(error)


def test_a_server_is_asked_as_much_at_once_as_it_allows():
    met = threading.Barrier(2)

    def respond(number, asked):
        met.wait(30)
        return "Together."

    with running(StandIn(respond)) as stand_in:
        client = ChatClient(ChatServer("Lab", stand_in.address, "m", at_once=2, allowed_hosts=["127.0.0.1"]))
        threads = [threading.Thread(target=client.ask, args=(QUESTION,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        client.close()
    assert (len(stand_in.asked), stand_in.most_at_once) == (6, 2)


def test_tokens_of_a_minute_are_kept():
    clock = Counted()
    pace = Pace(600, clock)
    pace.take(500)
    assert clock.waits == []
    pace.take(300)
    assert clock.waits == [pytest.approx(20.0)]
    pace.give_back(300)  # the answer was shorter than it might have been
    pace.take(300)
    assert len(clock.waits) == 1


def test_more_tokens_than_a_minute_has_are_taken_when_all_of_it_is_there():
    clock = Counted()
    pace = Pace(600, clock)
    pace.take(6000)
    pace.take(1)
    assert sum(clock.waits) == pytest.approx(540.1, rel=0.01)


def test_retry_after_is_a_number_or_a_date():
    assert read_retry_after("12") == 12
    assert read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 1000))
    assert read_retry_after(later) == pytest.approx(1000, abs=60)
    for nonsense in (None, "soon", "nan", "inf"):
        assert read_retry_after(nonsense) is None


def test_a_watched_connection_speaks_to_no_file():
    network = connections.CheckedNetwork(connections.RequestWatch(lambda: None), [])
    with pytest.raises(connections.AddressRefused):
        network.connect_unix_socket("/run/docker.sock")
    with pytest.raises(httpcore.ConnectError):
        connections.resolve("no-such-name.invalid", 80)
