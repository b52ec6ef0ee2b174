"""Data of another policy: the finding's button fine-tunes on them, and the card on that run's page goes on from its model."""

from playwright.sync_api import expect
from sqlalchemy import delete

from app.domain.events import OutcomeReached
from app.domain.findings import raise_finding
from app.domain.run import Outcome
from app.services import attempts
from app.store.tables import Model, Preview, Run
from tests.browser.scorer import Previewer
from tests.browser.scorer import finish as finish_scoring
from tests.browser.studio import Writer
from tests.browser.test_preview import fill, newest
from tests.services.test_models import make_model

FOREIGN = raise_finding("foreign_data", "The reference gives the data's responses −4.10 nats a token and its own −1.20.")


class ForeignPreviewer(Previewer):
    """Finds in every preview that the data are of another policy."""

    def answer(self, job):
        return super().answer(job).model_copy(update={"findings": [FOREIGN]})


def finish(studio, writer):
    with studio.database.writing() as session:
        attempts.finish(session, writer.run_id, writer.token, OutcomeReached(outcome=Outcome.SUCCEEDED))


def test_two_double_clicks_lead_from_the_finding_to_one_run_that_goes_on(page, studio):
    writer = Writer(studio)
    writer.begin(studio.launch(name="Foreign words"))
    writer.say(FOREIGN)
    finish(studio, writer)
    page.goto(f"/runs/{writer.run_id}")
    page.get_by_role("button", name="Fine-tune on these data first").dblclick()
    expect(page.get_by_role("heading", name="Foreign words · fine-tuned first", level=1)).to_be_visible()
    expect(page.locator("#follow-up")).to_have_count(0)
    tuned = page.url.rsplit("/", 1)[-1]
    writer.begin(tuned)
    make_model(studio.files.artifacts_dir(tuned) / "model")
    finish(studio, writer)
    card = page.locator("#follow-up")
    expect(card).to_contain_text("“Foreign words” can go on from it: as its policy and as π_ref.")  # without a reload
    card.get_by_role("button", name="Train “Foreign words” from here").dblclick()
    expect(page.get_by_role("heading", name="Foreign words", exact=True, level=1)).to_be_visible()
    followed = page.url.rsplit("/", 1)[-1]
    page.goto(f"/runs/{tuned}")
    page.get_by_role("button", name="Train “Foreign words” from here").click()
    expect(page).to_have_url(f"{studio.url}/runs/{followed}")
    with studio.database.reading() as session:
        runs = session.query(Run).where(Run.name.startswith("Foreign words")).count()
        models = session.query(Model).where(Model.name.startswith("Foreign words")).all()
        policy = session.get(Run, followed).recipe["policy"]["model"]
    assert (runs, [model.id for model in models]) == (3, [policy])


def test_the_launch_form_fine_tunes_first_for_what_is_typed_in_it(page, studio):
    with studio.database.writing() as session:  # the worker would answer what other tests have left waiting, too
        session.execute(delete(Preview))
    page.goto("/runs/new")
    fill(page, studio, training__batch_size="7", weights__lambda="0.5", name="Typed words")
    page.get_by_role("button", name="Score now").click()
    expect(page.locator("#panel")).to_contain_text("Scoring: Waits for a worker")
    writer = Writer(studio)
    writer.begin(newest(studio, Run).id)
    with ForeignPreviewer(studio):
        finish_scoring(writer)
        page.locator("#panel").get_by_role("button", name="Fine-tune on these data first").dblclick()
    expect(page.get_by_role("heading", name="Typed words · fine-tuned first", level=1)).to_be_visible()
    run = newest(studio, Run)
    assert (run.id, run.recipe["method"], run.recipe["training"]["batch_size"]) == (page.url.rsplit("/", 1)[-1], "sft", 7)
    assert (run.next_recipe["name"], run.next_recipe["weights"]["lambda"]) == ("Typed words", 0.5)
    with studio.database.reading() as session:
        assert session.query(Run).where(Run.name == run.name).count() == 1
