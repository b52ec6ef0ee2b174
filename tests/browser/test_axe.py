"""What axe-core finds on the pages: nothing, wide and light as narrow and dark."""

import httpx
import pytest
from pydantic import SecretStr

from app import assets
from app.domain.answering.chat import Answered, ChatRequest, Ended, Rewarded
from app.domain.answering.endpoint import NewEndpoint
from app.domain.comparing.ballot import VoteChoice
from app.domain.recipe import Method
from app.domain.run import RunKind
from app.services import queue, recipe_templates, scorings
from app.services.acts import STUDIO, Actor
from app.services.answering import chats, endpoints
from app.services.comparing import vote_links, votes
from app.services.comparing.computing import compute
from app.web.pages.run.tabs import tabs_of
from tests.answered import answer_all, ask, make_prompt_set
from tests.browser.scorer import score
from tests.browser.studio import Writer
from tests.compared import Planted, plant_comparison
from tests.web.conftest import PAIRS

AXE = assets.STATIC / "node_modules" / "axe-core" / "axe.min.js"
ASK = "axe.run(document, {resultTypes: ['violations']}).then(({violations}) => violations.map(v => [v.id, v.nodes[0].html]))"
WIDER = """[...document.querySelectorAll('.table-scroll')].filter(one => one.scrollWidth > one.clientWidth)
  .map(one => `a table scrolls: ${one.ariaLabel || one.innerText.slice(0, 80)}`)"""


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.exists():  # the served files may come from elsewhere
        assets.run_npm()
    return AXE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def addresses(studio):
    """Pages with something on them: a run with findings, a paused one, scores, a data set with its audit."""
    with studio.database.writing() as session:
        scoring = scorings.request(session, studio.user.id, studio.recipe(training={"seed": 5}, name="Looked at"))
    score(studio, scoring.run_id)
    run_id, paused = studio.launch(name="With findings"), studio.launch(name="Paused")
    writer = Writer(studio)
    writer.begin(run_id)
    writer.prepare()
    writer.evaluate(0)
    writer.steps(1, 12)
    finding = {"kind": "finding", "name": "weight_collapse", "severity": "warning", "title": "One response takes the batch"}
    told = {"evidence": "The share is 0.11.", "remedy": "Raise weights.lambda.", "step": 4}
    writer.say({**finding, **told, "changes": [{"field": "weights.lambda", "value": 0.42}]})
    with studio.database.writing() as session:
        queue.pause(session, Actor(studio.user.id, is_admin=True), paused)
    models = (Planted("Kind", 1.0), Planted("Curt"), Planted("Terse", 0.5))
    comparison = plant_comparison(studio.database, studio.files, studio.user.id, models, judges=("reward", "exact", "length"))
    with studio.database.writing() as session:
        link = vote_links.create_link(session, STUDIO, comparison)[1]
        for place in range(2):
            cast_first(session, studio.files, comparison, studio.user, place)
    with httpx.Client(base_url=studio.url, cookies={"studio_session": studio.cookie}, headers={"origin": studio.url}) as client:
        dataset = client.post("/api/v1/datasets", files={"file": ("pairs.jsonl", PAIRS)}).json()["id"]
    with studio.database.writing() as session:
        asked = NewEndpoint(name="Lab", address="https://api.example.org/v1", model="small-instruct", key=SecretStr("sk-example"))
        endpoint_id = endpoints.add(session, studio.settings, Actor(studio.user.id, is_admin=True), asked).id
    prompt_set = make_prompt_set(studio.database, studio.files, studio.user.id)
    model = {"source": "model", "model": studio.policy.id}
    asked = ask(studio.database, studio.user.id, prompt_set.id, model, judges=[{"kind": "length"}])
    answer_all(studio.database, studio.files, asked.id)
    with studio.database.writing() as session:
        recipe = {"weights": {"preset": "within_prompt", "lambda": 0.4}, "training": {"batch_size": 4}, "dataset": "data_gone"}
        template = recipe_templates.create(session, studio.user.id, "Within prompts", recipe).id
    waiting = ask(studio.database, studio.user.id, prompt_set.id, model, n=3)
    return [
        "/prompt-sets", "/prompt-sets/new", f"/prompt-sets/{prompt_set.id}", "/answers", f"/answers/{asked.id}?sort=spread",
        f"/answers/{waiting.id}",
        "/", "/runs", *(f"/runs/{run_id}?tab={tab.id}" for tab in tabs_of(RunKind.TRAINING, Method.VAR)), f"/runs/{paused}",
        "/runs/new", f"/runs/new?scoring={scoring.id}", "/queue", "/sweeps", "/scorings",
        "/experiments", "/runs/new?experiment=temperature",
        "/recipe-templates", f"/recipe-templates/{template}", f"/runs/new?template={template}",
        f"/scorings/{scoring.id}", "/datasets", f"/datasets/{dataset}", "/models", "/models/new",
        f"/models/{studio.policy.id}", "/workers",
        "/endpoints", f"/endpoints/{endpoint_id}", "/playground", f"/playground/{answered_chat(studio)}",
        "/comparisons", "/comparisons/new", f"/comparisons/{comparison.id}", f"/comparisons/{comparison.id}/vote",
        f"/comparisons/{comparison.id}/print", f"/vote/{link}",
        "/account", "/users", "/acts", "/storage", "/patterns", "/nothing-here",
    ]  # fmt: skip


def cast_first(session, files, comparison, user, place):
    kept = compute(session, files, comparison)
    votes.cast(session, comparison, kept, votes.enter(session, comparison, user), place, VoteChoice.LEFT, 3.0)


def answered_chat(studio) -> str:
    """A chat that one of two models has answered."""
    said = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Where is my parcel?"}]
    asked = ChatRequest.model_validate({"models": [studio.policy.id] * 2, "messages": said})
    whole = {"end": "length", "num_tokens": 9, "num_prompt_tokens": 5, "first_seconds": 0.2, "seconds": 0.4}
    with studio.database.writing() as session:
        chats.ask(session, studio.user.id, asked)
    with studio.database.writing() as session:
        claim = chats.begin(session, "worker", 30.0)
        assert claim is not None
        events = [Answered(model=0, text="It is here.", **whole), Rewarded(model=0, reward=0.4), Ended(state="done")]
        chats.tell(session, claim, events)
    return claim.chat_id


OTHERS = [pytest.param(theme, width, marks=pytest.mark.soak) for theme, width in (("light", 360), ("dark", 1440))]


@pytest.mark.parametrize(("theme", "width"), [("light", 1440), ("dark", 360), *OTHERS])
def test_no_page_has_what_axe_calls_a_violation(page, addresses, axe, complaints, theme, width):
    page.emulate_media(color_scheme=theme)
    page.set_viewport_size({"width": width, "height": 900})
    found = {}
    for address in addresses:
        page.goto(address)
        page.wait_for_timeout(400)  # what comes after the load
        page.evaluate(axe)
        if violations := page.evaluate(ASK):
            found[address] = violations
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            found[address] = [*found.get(address, []), "scrolls sideways"]
        if tables := page.evaluate(WIDER):
            found[address] = [*found.get(address, []), *tables]
    complaints[:] = [said for said in complaints if "404" not in said]  # of the page that isn't there
    assert found == {}


def test_a_comparison_keeps_its_tables_on_paper(page, addresses):
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 between its margins
    page.goto(next(address for address in addresses if address.endswith("/print")))
    assert page.evaluate(WIDER) == []
    assert page.locator("thead").first.bounding_box()["height"] > 10
