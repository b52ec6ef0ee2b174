"""What the launch form is filled with."""

import re


def chosen(page: str, name: str) -> str:
    """Return the option of a select that is chosen; empty for none."""
    (select,) = re.findall(rf'<select id="[^"]*" name="{re.escape(name)}".*?</select>', page, re.S)
    return next(iter(re.findall(r'<option value="([^"]*)" selected', select)), "")


def test_data_of_another_policy_lead_to_fine_tuning_on_the_runs_own_responses(studio, client):
    """As the finding's button asks for it: the same data, and what is chosen in the place of the weights' own field."""
    run_id = studio.launch()
    page = client.get(f"/runs/new?clone={run_id}&method=sft").text
    assert '<input type="radio" name="method" value="sft" checked' in page
    assert chosen(page, "sft.responses") == "both"
    asked = client.get(f"/runs/new?clone={run_id}&method=sft&weights.responses=chosen").text
    assert chosen(asked, "sft.responses") == "chosen"


def test_draws_of_the_reference_are_one_choice_with_their_settings_below(client):
    page = client.get("/runs/new").text
    assert 'name="weights.preset" value="draws"' in page
    for name in ("draws.num_draws", "draws.max_new_tokens", "draws.seed"):
        assert f'name="{name}"' in page
    assert chosen(page, "weights.mean_one") == ""  # as the preset says
