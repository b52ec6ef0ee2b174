"""The page of a data set: what was noted, found and not used stands on it; its mapping can be changed, its sides swapped."""

import json

import pytest

ROWS = [
    {"prompt": "Why?", "chosen": "Yes.<|im_end|>", "rejected": "No.", "source": "web"},
    {"prompt": "Why?", "chosen": "Yes.<|im_end|>", "rejected": "No.", "source": "web"},
    {"prompt": "Why?", "chosen": "No.", "rejected": "Yes.<|im_end|>"},
    {"prompt": "How?", "chosen": [{"role": "narrator", "content": "x"}], "rejected": "No."},
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def dataset(client):
    return client.post("/api/v1/datasets", files={"file": ("pairs.jsonl", lines(ROWS))}).json()


def test_the_audit_s_page_tells_findings_notes_and_what_is_not_used(studio, dataset):
    page = studio.browser().get(f"/datasets/{dataset['id']}").text
    for text in (
        "Pairs contradict each other", "1 of 3 examples (33 %) prefer what an earlier one rejects.",
        "Texts already carry a chat template", "switch “Leave out contradictory pairs” on", "repeats an earlier example",
        "Not used", '<td class="mono">source</td><td class="number">2</td>',
        "message with an unknown role &#34;narrator&#34;", "Call it user, assistant, system or tool.",
        "the last message of each side, by the assistant; all before it is the prompt",
    ):  # fmt: skip
        assert text in page, text


def test_a_clean_file_s_page_has_no_findings(studio, client):
    dataset = client.post("/api/v1/datasets", files={"file": ("x.jsonl", lines([{**ROWS[2], "rejected": "Yes."}]))}).json()
    page = studio.browser().get(f"/datasets/{dataset['id']}").text
    assert not any(f'id="{part}"' in page for part in ("findings", "notes", "unused", "dropped"))


def test_the_mapping_of_a_ready_data_set_is_shown_to_be_changed(studio, dataset):
    browser = studio.browser()
    page = browser.get(f"/datasets/{dataset['id']}").text
    assert "Change the mapping" in page
    assert '<option value="chosen" selected>chosen (' in page
    form = {"shape": "pair", "columns.prompt": "prompt", "columns.chosen": "chosen", "columns.rejected": "rejected"}
    changed = browser.post(f"/datasets/{dataset['id']}/mapping", data={**form, "options.leave_out_duplicates": "yes"})
    assert changed.headers["location"].startswith(f"/datasets/{dataset['id']}?")
    audit = browser.get(f"/api/v1/datasets/{dataset['id']}/audit").json()
    assert {item["reason"]: item["lines"] for item in audit["dropped"]}["repeats an earlier example"] == [2]


def test_swapping_sides_prefers_the_other_response(studio, client, dataset):
    browser = studio.browser()
    assert "Swap chosen and rejected" in browser.get(f"/datasets/{dataset['id']}").text
    assert browser.post(f"/datasets/{dataset['id']}/swap").headers["location"] == f"/datasets/{dataset['id']}"
    (first, *_) = client.get(f"/api/v1/datasets/{dataset['id']}/examples").json()["items"]
    assert first["responses"][0]["content"] == "No."
    swapped = client.post(f"/api/v1/datasets/{dataset['id']}/swap").json()
    assert (swapped["id"], swapped["mapping"]["columns"]["chosen"]) == (dataset["id"], "chosen")


def test_a_data_set_without_sides_offers_no_swap(studio, client):
    rows = [{"prompt": "Why?", "response": "Yes.", "rating": 3}]
    dataset = client.post("/api/v1/datasets", files={"file": ("x.jsonl", lines(rows))}).json()
    assert "Swap chosen and rejected" not in studio.browser().get(f"/datasets/{dataset['id']}").text
    refused = client.post(f"/api/v1/datasets/{dataset['id']}/swap")
    assert (refused.status_code, refused.json()["detail"][:40]) == (409, "This data set has no two sides to swap: ")


def test_calls_tools_and_reasoning_are_shown_and_exported_with_their_messages(studio, client):
    call = {"role": "assistant", "content": "", "tool_calls": [{"name": "weather", "arguments": {"town": "Ulm"}}]}
    answer = {"role": "assistant", "content": "No.", "reasoning_content": "Clouds?"}
    prompt = [{"role": "user", "content": "Rain?"}, call, {"role": "tool", "content": "dry"}]
    row = {"prompt": prompt, "chosen": [answer], "rejected": [call], "tools": [{"name": "weather"}]}
    dataset = client.post("/api/v1/datasets", files={"file": ("x.jsonl", lines([row]))}).json()
    page = studio.browser().get(f"/datasets/{dataset['id']}").text
    assert page.count("name: weather") == 3
    assert "reasoning_content: Clouds?" in page
    table = client.get(f"/api/v1/datasets/{dataset['id']}/examples.csv").text.splitlines()
    assert table[0].endswith(",rating,fields")
    assert '"town"": ""Ulm"' in table[-1]
    (example,) = client.get(f"/api/v1/datasets/{dataset['id']}/examples").json()["items"]
    assert example["tools"] == [{"type": "function", "function": {"name": "weather"}}]
    assert example["responses"][0]["fields"] == {"reasoning_content": "Clouds?"}


def test_the_mapping_form_proposes_the_tags_that_dialogues_seem_to_have(studio, client):
    row = {"a": "## Human: Hi\n## Assistant: Hello", "b": "## Human: Hi\n## Assistant: Bye"}
    dataset = client.post("/api/v1/datasets", files={"file": ("x.jsonl", lines([row]))}).json()
    assert dataset["state"] == "needs_mapping"
    assert client.get(f"/api/v1/datasets/{dataset['id']}/preview").json()["tags"]["user_tag"] == "## Human:"
    assert 'name="options.user_tag" value="## Human:"' in studio.browser().get(f"/datasets/{dataset['id']}").text
