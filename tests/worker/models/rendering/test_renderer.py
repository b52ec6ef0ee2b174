"""Chat templates past their limits: the process they run in is lost, never ours, and the conversation is named."""

from collections.abc import Iterator

import pytest

from worker.models.rendering.asked import LEAST_CHARS, TIMES_ASKED, Asked, Rendered
from worker.models.rendering.renderer import Renderer

WRITES = (
    "{% for m in messages %}{{ bos_token }}{{ m.role }}:{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)
WHEN = "{%% if 'trap' in messages[0].content %%}%s{%% endif %%}" + WRITES  # harmless for every other text
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
ONE_CALL = "{{ 7 ** (7 ** messages[0].content | length ** 5) }}"  # of which Python itself sees no end
DOUBLING = "{% set ns = namespace(t='x' * 2 ** 20) %}{% for a in range(60) %}{% set ns.t = ns.t + ns.t %}{% endfor %}"
AT_ONCE = "{{ messages[0].content * 10 ** 9 }}"
LONG = "{{ 'x' * 400000 }}"


def say(content: str, **options: bool) -> Asked:
    return Asked((("user", content, ""),), **options)


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    renderer = Renderer(cpu_seconds=0)  # one second, of which the imports are the beginning's
    yield renderer
    renderer.stop()


@pytest.fixture(scope="module")
def patient() -> Iterator[Renderer]:
    """With the time that users' templates have: filling the memory takes a part of it."""
    renderer = Renderer()
    yield renderer
    renderer.stop()


def write(renderer: Renderer, template: str, *asked: Asked) -> list[Rendered]:
    return list(renderer.write(template, {"bos_token": "<s>"}, asked))


def test_many_conversations_are_written_in_their_order(renderer: Renderer) -> None:
    asked = [say(f"Été 🙂 {n}") for n in range(700)] + [say("x" * 300_000), say("y", begins_answer=True)]
    told = write(renderer, WRITES, *asked)
    assert [one.outcome for one in told] == ["text"] * 702
    assert told[699].text == "<s>user:Été 🙂 699"
    assert told[701].text == "<s>user:y>"


def test_what_messages_and_tools_carry_reaches_the_template(renderer: Renderer) -> None:
    template = "{{ messages[0].tool_calls[0].name }} {{ tools[0].name }} {{ messages[0].content is defined }}"
    asked = Asked((("assistant", "", '{"content": null, "tool_calls": [{"name": "look"}]}'),), '[{"name": "tool"}]')
    assert write(renderer, template, asked) == [Rendered("text", "look tool False")]


def test_a_templates_own_sentence_comes_back(renderer: Renderer) -> None:
    assert write(renderer, "{{ raise_exception('not me') }}", say("x")) == [Rendered("refused", "not me")]
    assert write(renderer, "{{ mistake", say("x"))[0].outcome == "refused"


@pytest.mark.parametrize(
    ("trap", "outcome"),
    [(ENDLESS, "time"), (ONE_CALL, "time"), (DOUBLING, "memory"), (AT_ONCE, "memory"), (LONG, "length")],
    ids=["endless", "one call", "doubling", "at once", "long"],
)
def test_a_template_that_is_harmless_but_for_one_text_costs_that_one(
    renderer: Renderer, patient: Renderer, trap: str, outcome: str
) -> None:
    renderer = patient if outcome == "memory" else renderer
    template = "{% if 'trap' in messages[0].content %}" + trap + "{% endif %}" + WRITES
    before, sprung, after = write(renderer, template, say("safe"), say("a trap"), say("safe too"))
    assert before.text == "<s>user:safe"
    assert sprung == Rendered(outcome)
    assert after.text == "<s>user:safe too"


def test_a_text_may_be_long_as_far_as_its_conversation_is(renderer: Renderer) -> None:
    asked = say("x" * 10_000)
    repeats = "{{ messages[0].content * %d }}"
    assert write(renderer, repeats % TIMES_ASKED, asked)[0].outcome == "text"
    assert write(renderer, repeats % (TIMES_ASKED + LEAST_CHARS // 10_000 + 1), asked)[0].outcome == "length"


def test_a_process_that_has_left_is_started_again(renderer: Renderer) -> None:
    assert write(renderer, WRITES, say("x"))[0].outcome == "text"
    assert renderer._child is not None
    renderer._child.kill()
    assert write(renderer, WRITES, say("x"))[0].outcome == "text"


def test_in_a_process_that_is_limited_itself_nothing_is_started() -> None:
    here = Renderer()
    here.stay_here()
    here.start()
    assert write(here, WRITES, say("x"))[0].outcome == "text"
    assert here._child is None
