"""Bringing data in: by the form, with a mapping, without a script; and reading what is in it."""

import json

import pytest
from playwright.sync_api import expect

PAIRS = [
    {"prompt": f"Question {i}?", "chosen": f"A kind and helpful answer number {i}.", "rejected": f"A rude answer number {i}."}
    for i in range(25)
]
UNLIKE = [{"a": f"Question {i}?", "b": f"The first answer {i}", "c": f"Another answer {i}", "d": i % 2 + 1} for i in range(12)]


@pytest.fixture
def write(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        return path

    return write


def test_a_file_is_uploaded_by_the_form_and_audited(page, write):
    page.goto("/datasets/new")
    page.get_by_label("Name").fill("My pairs")
    page.get_by_label("File", exact=True).set_input_files(
        write("pairs.jsonl", [*PAIRS, "not json\n", {**PAIRS[0], "chosen": ""}])
    )
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("heading", name="My pairs")).to_be_visible()
    expect(page.get_by_label("What is in it")).to_contain_text("25 of 27")
    dropped = page.get_by_role("region", name="Dropped rows")
    expect(dropped).to_contain_text("26")
    expect(dropped).to_contain_text("27")
    expect(page.locator("#example-0 [data-side=chosen] mark").first).to_contain_text("kind and helpful")
    expect(page.locator("#example-0 [data-side=rejected] mark").first).to_contain_text("rude")
    page.get_by_role("link", name="Next").click()
    expect(page.locator("#example-10")).to_be_visible()
    page.get_by_label("From example").fill("24")
    page.get_by_role("button", name="Go").click()
    expect(page.locator("#example-24")).to_be_visible()
    expect(page.get_by_role("link", name="Next")).to_have_count(0)


def test_dropping_a_file_chooses_it(page):
    page.goto("/datasets/new")
    transfer = page.evaluate_handle(
        "() => { const d = new DataTransfer(); d.items.add(new File(['{}'], 'dropped.jsonl')); return d; }"
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    assert page.locator("#file").evaluate("input => input.files[0].name") == "dropped.jsonl"


def test_responses_that_share_too_little_say_so(page, write):
    page.goto("/datasets/new")
    pair = {"prompt": "Which?", "chosen": "one two three four", "rejected": "five six seven eight"}
    page.get_by_label("File", exact=True).set_input_files(write("unlike-pairs.jsonl", [pair, *PAIRS]))
    page.get_by_role("button", name="Upload").click()
    expect(page.locator("#example-0")).to_contain_text("share too little")
    expect(page.locator("#example-0 mark")).to_have_count(0)
    expect(page.locator("#example-1")).not_to_contain_text("share too little")


def test_stopping_an_upload_says_so(page, studio, write):
    page.route("**/api/v1/datasets", lambda route: None)  # it never answers
    page.goto("/datasets/new")
    page.get_by_label("File", exact=True).set_input_files(write("endless.jsonl", PAIRS))
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#upload-state")).to_have_text("The upload was stopped. Nothing was kept.")
    expect(page.get_by_role("button", name="Upload")).to_be_enabled()


def test_a_file_that_cant_be_read_says_why_and_leaves_nothing(page, complaints, write):
    page.goto("/datasets/new")
    page.get_by_role("button", name="Upload").click()
    page.get_by_label("File", exact=True).set_input_files(write("empty.jsonl", []))
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("alert")).to_contain_text("empty")
    expect(page.locator("#file-error")).to_contain_text("empty")
    expect(page.locator("#file")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("button", name="Upload")).to_be_enabled()
    assert [complaint for complaint in complaints if "422" not in complaint] == []
    complaints.clear()  # the browser reports the refusal itself
    page.goto("/datasets")
    expect(page.get_by_text("empty.jsonl")).to_have_count(0)


def test_an_unknown_shape_is_mapped_by_hand(page, write):
    page.goto("/datasets/new")
    page.get_by_label("File", exact=True).set_input_files(write("unlike.jsonl", UNLIKE))
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("heading", name="Which column is what?")).to_be_visible()
    page.wait_for_load_state()  # and what listens to the form
    expect(page.get_by_role("region", name="First rows")).to_contain_text("The first answer 0")
    page.get_by_label("Shape").select_option("two_responses")
    page.get_by_label("Response a").select_option("b")
    page.get_by_role("button", name="Use this mapping").click()
    expect(page.get_by_label("Response b")).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_label("Response a")).to_have_value("b")
    page.get_by_label("Prompt").select_option("a")
    page.get_by_label("Response b").select_option("c")
    page.get_by_label("Label").select_option("d")
    page.get_by_role("button", name="Use this mapping").click()
    expect(page.locator(".page-head .badge")).to_have_text("ready")
    expect(page.locator("#example-0 [data-side=chosen]")).to_contain_text("The first answer 0")


def test_a_shape_that_is_chosen_before_the_scripts_have_come_is_heard(page, write):
    page.goto("/datasets/new")
    page.get_by_label("File", exact=True).set_input_files(write("early.jsonl", UNLIKE))
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("heading", name="Which column is what?")).to_be_visible()
    held = []
    page.route("**/htmx.js*", lambda route: held.append(route))
    page.reload(wait_until="commit")
    page.get_by_label("Shape").select_option("two_responses")
    expect(page.get_by_label("Response a")).to_have_count(0)
    held[0].continue_()
    page.get_by_label("Response a").select_option("b")
    expect(page.get_by_label("Shape")).to_have_value("two_responses")


def test_nothing_is_chosen_among_columns_that_are_about_to_be_replaced(page, write):
    rows = [{"prompt": f"Question {i}?", "response": f"Answer {i}", "helpfulness": i % 5, "other": 1.5} for i in range(12)]
    page.goto("/datasets/new")
    page.get_by_label("File", exact=True).set_input_files(write("slow.jsonl", rows))
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("heading", name="Which column is what?")).to_be_visible()
    page.wait_for_load_state()  # and what listens to the form
    waiting = []
    page.route("**/mapping?**", lambda route: waiting.append(route))
    page.get_by_label("Shape").select_option("rated")
    expect(page.locator("#role-prompt")).to_be_disabled()
    while not waiting:
        page.wait_for_timeout(50)
    waiting[0].continue_()
    expect(page.locator("#role-rating")).to_be_enabled()


def test_a_wrong_mapping_keeps_its_choices_and_says_why_at_the_field(page, write):
    scored = [{"prompt": f"Question {i}?", "response": f"Answer {i}", "helpfulness": i % 5} for i in range(12)]
    page.goto("/datasets/new")
    page.get_by_label("File", exact=True).set_input_files(write("scored.jsonl", [{**row, "other": 1.5} for row in scored]))
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("heading", name="Which column is what?")).to_be_visible()
    page.wait_for_load_state()  # and what listens to the form
    expect(page.locator("#shape option", has_text="(likely)")).to_have_count(0)  # when all may fit, none is likely
    page.get_by_label("Shape").select_option("rated")
    expect(page.get_by_text("Needed: rating, or label.")).to_have_count(2)
    page.locator("#role-prompt").select_option("prompt")
    page.locator("#role-response").select_option("response")
    page.locator("#role-rating").select_option("prompt")
    page.get_by_role("button", name="Use this mapping").click()
    expect(page.get_by_role("alert")).to_contain_text("rating")
    assert [page.locator(f"#role-{name}").input_value() for name in ("prompt", "response", "rating")] == [
        "prompt", "response", "prompt",
    ]  # fmt: skip
    expect(page.locator("#role-rating")).to_have_attribute("aria-invalid", "true")
    page.locator("#role-rating").select_option("helpfulness")
    page.get_by_role("button", name="Use this mapping").click()
    expect(page.locator(".page-head .badge")).to_have_text("ready")


def test_uploading_works_without_a_script(studio, browser, write):
    context = browser.new_context(base_url=studio.url, java_script_enabled=False)
    context.add_cookies([{"name": "studio_session", "value": studio.cookie, "url": studio.url}])
    page = context.new_page()
    page.goto("/datasets/new")
    page.get_by_label("File", exact=True).set_input_files(write("plain.jsonl", PAIRS))
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("heading", name="plain.jsonl")).to_be_visible()
    expect(page.get_by_role("button", name="Delete", exact=True)).to_be_disabled()  # nothing could ask before
    page.goto("/datasets/new")
    page.get_by_label("File", exact=True).set_input_files(write("nothing.jsonl", []))
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_role("alert")).to_contain_text("empty")
    context.close()


def test_a_data_set_is_deleted_after_a_question(page, write):
    page.goto("/datasets/new")
    page.get_by_label("File", exact=True).set_input_files(write("short-lived.jsonl", PAIRS))
    page.get_by_role("button", name="Upload").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Delete the data set").click()
    expect(page.get_by_role("heading", name="Data sets")).to_be_visible()
    expect(page.get_by_text("short-lived.jsonl")).to_have_count(0)
