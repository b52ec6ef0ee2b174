"""The launch form: its errors beside their fields, what it keeps, a launch, a clone; and the list of runs that follows."""

from playwright.sync_api import expect

from app.store.database import now
from app.store.runs import get_run
from app.store.tables import Model
from app.system.identifiers import new_id
from tests.browser.studio import Writer


def fill(page, studio):
    page.goto("/runs/new")
    page.get_by_label("Data set", exact=True).select_option(studio.dataset.id)
    page.get_by_label("Policy", exact=True).select_option(studio.policy.id)


def test_errors_stand_beside_their_fields_and_nothing_typed_is_lost(page, studio, complaints):
    fill(page, studio)
    page.get_by_label("Temperature λ").fill("-1")
    page.get_by_text("schedule, micro-batches").click()
    page.get_by_label("Micro-batch size").fill("99")
    page.get_by_label("Name", exact=True).fill("Typed with care")
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator("#weights-lambda")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#weights-lambda-error")).to_contain_text("greater than 0")
    expect(page.locator("#weights-lambda")).to_have_value("-1")
    expect(page.get_by_label("Name", exact=True)).to_have_value("Typed with care")
    expect(page.locator("#error-summary")).to_be_focused()
    expect(page.locator("#error-summary li").first).to_have_text("Temperature λ must be greater than 0, not -1.")
    expect(page.locator("#panel")).not_to_contain_text("Choose a data set")
    page.locator("#error-summary a").first.click()
    page.locator("#weights-lambda").fill("0.5")
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator("#training-micro_batch_size-error")).to_contain_text("larger than batch_size")
    page.locator("#training-micro_batch_size").fill("4")
    complaints.clear()  # the browser reports each 422 itself
    page.get_by_role("button", name="Launch the run").click()
    expect(page.get_by_role("heading", name="Typed with care")).to_be_visible()
    expect(page.locator("#status .badge")).to_have_text("queued")


def test_the_form_says_which_learning_rate_is_proposed_and_why(page, studio):
    fill(page, studio)
    expect(page.locator("#rates")).to_have_text("Learning rate: 1e-05, as is proposed for all weights under VAR.")
    page.get_by_label("Adaptation").select_option("lora")
    expect(page.locator("#rates")).to_have_text("Learning rate: 0.0001, as is proposed for a LoRA adapter under VAR.")
    page.locator("#baselines").get_by_label("DPO").check()
    expect(page.locator("#rates")).to_contain_text("under VAR; 2e-05 for DPO.")
    page.locator("#training-learning_rate").fill("0.001")
    page.locator("#training-learning_rate").press("Tab")
    expect(page.locator("#rates")).to_have_text("Learning rate: 0.0002 for DPO.")


def test_a_preset_decides_what_is_left_to_it(page, studio):
    fill(page, studio)
    page.get_by_label("Within prompt").check()
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator("#status .badge")).to_have_text("queued")
    run_id = page.url.rsplit("/", 1)[-1]
    with studio.database.reading() as session:
        weights = get_run(session, studio.user.id, run_id).recipe["weights"]
    assert (weights["preset"], weights["weight_form"], weights["partition_scope"]) == ("within_prompt", "ratio", "prompt")


def test_the_reward_model_is_asked_for_only_when_it_is_used(page, studio, complaints):
    fill(page, studio)
    expect(page.locator("#reward-model")).to_be_hidden()
    page.locator("#reward-source").get_by_label("Reward model").check()
    expect(page.locator("#reward-model")).to_be_visible()
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator("div.reward-model")).to_contain_text("Choose a reward model. Of the data's own")
    complaints.clear()
    page.locator("#reward-model").select_option(studio.reward.id)
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator(".page-head .lead")).to_contain_text("rewards from Kindness judge")


def test_several_reward_models_are_chosen_in_a_fold_that_shows_what_is_wrong_in_it(page, studio, complaints):
    with studio.database.writing() as session:
        kinds = {"owner_id": studio.user.id, "kind": "reward", "source": "hub", "revision": "main", "facts": {}}
        second = Model(id=new_id("model"), name="Second judge", path="studio/second-judge", created_at=now(session), **kinds)
        session.add(second)
    fill(page, studio)
    fold = page.locator("#ensemble")
    expect(fold).to_be_hidden()  # rewards come from the labels
    page.locator("#reward-source").get_by_label("Reward model").check()
    page.locator("#reward-model").select_option(studio.reward.id)
    expect(fold).to_be_visible()
    expect(page.get_by_label("Second reward model")).to_be_hidden()
    fold.locator("summary").click()
    page.get_by_label("Second reward model").select_option(studio.reward.id)
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator("#reward-second-error")).to_contain_text("which agrees with itself")  # and the fold is open
    complaints.clear()
    page.get_by_label("Second reward model").select_option(second.id)
    page.get_by_label("Caution").fill("0.5")
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator("#status .badge")).to_have_text("queued")
    with studio.database.reading() as session:
        reward = get_run(session, studio.user.id, page.url.rsplit("/", 1)[-1]).recipe["reward"]
    assert (reward["second"], reward["third"], reward["caution"]) == (second.id, None, 0.5)


def test_a_draft_outlives_another_page_back_and_a_reload_and_ends_with_the_launch(page, studio):
    fill(page, studio)
    page.get_by_label("Name", exact=True).fill("Kept with care")
    page.get_by_label("Within prompt").check()
    page.get_by_label("SFT on chosen").check()
    page.locator("#evaluation-share").evaluate("e => { e.value = '0.2'; e.dispatchEvent(new Event('input', {bubbles: true})) }")

    def is_kept():
        expect(page.locator("#draft-note")).to_be_visible()
        expect(page.get_by_label("Name", exact=True)).to_have_value("Kept with care")
        expect(page.get_by_label("Within prompt")).to_be_checked()
        expect(page.get_by_label("SFT on chosen")).to_be_checked()
        expect(page.get_by_label("Policy", exact=True)).to_have_value(studio.policy.id)
        expect(page.locator("#evaluation-share")).to_be_visible()
        expect(page.locator("#panel")).not_to_contain_text("Choose a data set")

    page.reload()
    is_kept()
    page.get_by_role("link", name="Register another").first.click()
    expect(page).to_have_url(f"{studio.url}/models/new")
    page.get_by_role("link", name="New run").first.click()
    is_kept()
    page.goto("/models")
    page.go_back()
    expect(page.get_by_label("Name", exact=True)).to_have_value("Kept with care")
    page.goto("/runs/new?training.batch_size=4")
    expect(page.get_by_label("Name", exact=True)).to_have_value("")
    page.goto("/runs/new")
    is_kept()
    page.get_by_role("button", name="Launch the runs").or_(page.get_by_role("button", name="Launch the run")).first.click()
    page.wait_for_url("**/sweeps/*")
    page.goto("/runs/new")
    expect(page.get_by_label("Name", exact=True)).to_have_value("")
    expect(page.locator("#draft-note")).to_be_hidden()


def test_a_draft_is_given_up_by_starting_over(page, studio):
    fill(page, studio)
    page.get_by_label("Name", exact=True).fill("Given up")
    page.reload()
    page.get_by_role("button", name="Start over").click()
    expect(page.get_by_label("Name", exact=True)).to_have_value("")
    expect(page.get_by_label("Data set", exact=True)).to_have_value("")


def test_a_judge_is_chosen_from_the_reward_models(page, studio):
    fill(page, studio)
    page.get_by_label("Judge of evaluations").select_option(studio.reward.id)
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator("#status .badge")).to_have_text("queued")
    with studio.database.reading() as session:
        recipe = get_run(session, studio.user.id, page.url.rsplit("/", 1)[-1]).recipe
    assert recipe["reward"]["judge"] == studio.reward.id


def test_a_clone_starts_from_the_same_recipe_with_a_name_of_its_own(page, studio):
    run_id = studio.launch(
        name="The original", training={"batch_size": 6, "seed": 41}, weights={"preset": "paper", "lambda": 0.2}
    )
    page.goto(f"/runs/{run_id}")
    page.get_by_role("link", name="Clone").click()
    expect(page.get_by_label("Batch size B")).to_have_value("6")
    expect(page.get_by_label("Temperature λ")).to_have_value("0.2")
    expect(page.get_by_label("Paper")).to_be_checked()
    expect(page.locator("#training-seed")).to_have_value("41")
    page.get_by_role("button", name="Launch the run").click()
    expect(page.locator("#status .badge")).to_have_text("queued")
    with studio.database.reading() as session:
        first, second = (get_run(session, studio.user.id, id).recipe for id in (run_id, page.url.rsplit("/", 1)[-1]))
    assert second == {**first, "name": "The original (2)"}


def test_the_list_of_runs_moves_and_keeps_the_focus(page, studio):
    run_id = studio.launch(name="Listed and watched")
    page.goto("/runs")
    badge = page.locator(f"#state-{run_id} .badge")
    expect(badge).to_have_text("queued")
    link = page.get_by_role("link", name="Listed and watched")
    link.focus()
    writer = Writer(studio)
    writer.begin(run_id)
    writer.prepare()
    writer.evaluate(0)
    writer.steps(1, 50)
    expect(badge).to_have_text("running")
    expect(page.locator(f"#progress-{run_id}")).to_contain_text("step 50 of 200")
    expect(page.locator(f"#reward_gain-{run_id}")).to_contain_text("0")
    expect(link).to_be_focused()


def test_a_model_is_registered_from_the_hub_and_a_bad_folder_is_refused(page, complaints):
    page.goto("/models")
    page.get_by_role("link", name="Register a model").click()
    page.get_by_label("Name on the hub").fill("EleutherAI/pythia-70m")
    page.get_by_label("Revision").fill("main")
    page.get_by_role("button", name="Register").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("EleutherAI/pythia-70m")
    page.goto("/models/new")
    page.get_by_label("A folder").check()
    page.get_by_label("Folder", exact=True).fill("/etc")
    page.get_by_role("button", name="Register").click()
    expect(page.locator("#path-error")).to_contain_text("allowed folder")
    expect(page.get_by_label("Folder", exact=True)).to_have_value("/etc")
    complaints.clear()


def test_the_summary_follows_and_a_chip_leads_to_its_field_and_takes_it_back(page, studio):
    fill(page, studio)
    summary = page.locator("#summary")
    expect(summary).to_contain_text("Help desk pairs: 640 examples")
    page.get_by_label("Batch size B").fill("16")
    page.locator("#evaluation-share").evaluate("e => { e.value = '0.2'; e.dispatchEvent(new Event('input', {bubbles: true})) }")
    expect(summary.locator(".chips li")).to_have_count(2)
    summary.get_by_role("link", name="Held-out share").click()
    expect(page.locator("#evaluation-share")).to_be_visible()
    summary.get_by_role("button", name="Reset Batch size").click()
    expect(page.get_by_label("Batch size B")).to_have_value("8")
    expect(summary.locator(".chips li")).to_have_count(1)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(page.get_by_role("button", name="Launch the run")).to_be_in_viewport()
