"""Texts as tokens in the browser: a model's conversation, a launch's example, and what its lengths would cut."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.payloads import PAYLOADS
from tests.browser.scorer import Previewer
from tests.browser.test_everywhere import CONTRAST
from tests.browser.test_preview import fill


@pytest.fixture
def worker(studio):
    with Previewer(studio) as worker:
        yield worker


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_model_shows_how_it_reads_a_conversation_of_ones_own(page, studio, worker, theme):
    page.emulate_media(color_scheme=theme)
    page.goto("/models")
    page.get_by_role("link", name=studio.policy.name).click()
    reading = page.locator("#reading")
    expect(reading.locator('[data-part="answer"] .token').first).to_have_text("Because")
    expect(reading.locator('.tokens [data-part="end"] .control')).to_have_text("<|im_end|>")
    expect(reading.locator(".token-legend")).to_contain_text("Answer")
    expect(reading).to_contain_text("The chat template leaves out reasoning, tool calls, tools.")
    expect(reading.locator(".facts")).to_contain_text("An answer ends at <|im_end|>")
    page.get_by_label("User", exact=True).fill(PAYLOADS[0])
    page.get_by_label("Assistant", exact=True).fill("Two words.")
    page.get_by_role("button", name="Show the tokens").click()
    expect(reading.locator('.tokens [data-part="answer"] .token')).to_have_text(["Two", " words."])
    assert PAYLOADS[0] in re.sub("⏎", "", reading.locator('.tokens [data-part="prompt"]').inner_text().replace("\n", " "))
    assert page.evaluate(CONTRAST) == []


def test_the_shares_that_are_cut_stand_beside_the_lengths(page, studio, worker):
    page.goto("/runs/new")
    expect(page.locator("#lengths")).to_contain_text("Choose a data set and a policy")
    fill(page, studio)
    expect(page.locator("#tokens-max_prompt-cut")).to_have_text("None of the prompts is longer")
    num_asked = len(worker.read)
    page.get_by_label("Longest prompt").fill("104")
    page.get_by_label("Longest response").fill("369")
    expect(page.locator("#tokens-max_prompt-cut")).to_have_text("59.4 % of the prompts are longer".replace(" %", "\u202f%"))
    expect(page.locator("#tokens-max_response-cut")).to_contain_text("11.7")
    page.get_by_role("button", name="Use 416 tokens for responses").click()
    expect(page.get_by_label("Longest response")).to_have_value("416")
    expect(page.locator("#tokens-max_response-cut")).to_contain_text("% of the responses are longer")
    assert len(worker.read) == num_asked
    expect(page.locator("#lengths")).to_contain_text(
        "The reward model can’t read 12 examples: the chat template refuses it: no system"
    )
    expect(page.locator("#lengths")).to_contain_text("First rows: 3, 8, 13, 21, 34 …")
    expect(page.locator("#lengths")).to_contain_text("The run leaves out what can’t be learned or read. To keep it")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_launch_shows_an_example_as_it_is_cut(page, studio, worker, theme):
    page.emulate_media(color_scheme=theme)
    page.goto("/runs/new")
    fill(page, studio, tokens__max_response="9")
    page.get_by_label("Example", exact=True).fill("1")
    page.get_by_role("button", name="Show its tokens").click()
    chosen = page.get_by_label("Response 1 as it is learned")
    expect(chosen.locator(".tokens [data-part='answer'] .token")).to_have_count(9)
    expect(chosen.locator(".token-legend")).to_contain_text("9 tokens, cut")
    expect(chosen.locator(".tokens [data-part='end']")).to_have_count(0)
    expect(page.get_by_label("Response 2 as the reward model reads it")).to_contain_text("How do I change the address")
    expect(page.locator("#example")).to_contain_text("responses to 9")
    assert page.evaluate(CONTRAST) == []


def test_tokens_fit_a_narrow_page_and_are_reached_by_keyboard(page, studio, worker):
    page.set_viewport_size({"width": 360, "height": 780})
    for path in (f"/models/{studio.policy.id}", "/runs/new"):
        page.goto(path)
        if path == "/runs/new":
            fill(page, studio)
            page.get_by_role("button", name="Show its tokens").click()
        tokens = page.locator(".tokens").first
        expect(tokens).to_be_visible()
        tokens.focus()
        expect(tokens).to_be_focused()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_without_a_worker_it_is_said_who_would_read(page, studio):
    page.goto(f"/models/{studio.reward.id}?prompt=Nobody+reads+this")
    expect(page.locator("#reading")).to_contain_text(re.compile("No worker is running|still being computed"))
