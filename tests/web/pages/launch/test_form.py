"""What the launch form is filled with."""

import re

from tests.web.test_experiments import judged_recipe


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


def test_further_reward_models_are_chosen_in_a_fold_that_opens_for_them(studio, client):
    judged_recipe(studio)
    plain = client.get("/runs/new").text
    fold = re.search(r'<details[^>]*id="ensemble"[^>]*>', plain)
    assert fold is not None
    assert " open" not in fold[0]
    asked = {"method": "var", "reward.source": "model", "reward.model": "model_reward", "reward.second": "model_reward"}
    page = client.post("/runs/new", data=asked).text
    assert re.search(r'<details[^>]*id="ensemble"[^>]* open', page)
    assert "It is “Reward model” itself, which agrees with itself" in page
    assert chosen(page, "reward.second") == "model_reward"
    rated = client.post("/runs/new", data={**asked, "reward.source": "rating"}).text
    assert "which is one opinion" not in rated  # its inputs are hidden then
