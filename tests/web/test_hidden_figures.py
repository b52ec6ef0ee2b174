"""What was made private one by one is told nowhere: not in the sweep it is of, nor in lists, comparisons and pages beside it."""

import json
from dataclasses import dataclass

import pytest
from starlette.testclient import TestClient

from app.domain.recipe import parse_recipe
from app.domain.sweep import parse_request
from app.services import accounts, runs, scorings, sharing, sweeps
from app.services.comparing import comparisons
from app.store import metrics
from app.store.accounts import get_user
from app.store.database import now
from app.store.overview.run_list import keep_figures
from app.store.tables import Dataset, Model, Run
from tests.compared import Planted, plant_answers, plant_prompts
from tests.conftest import AUDIT
from tests.web.conftest import Studio

# No time of day has such seconds: what is searched for in a page is never part of one.
FIGURES = {"eval/reward_gain": 76.543, "eval/kl": 87.654, "eval/win_rate": 0.9123, "weight/ess_share": 0.4321}
TOLD = ("76.5", "87.7", "87.65", "91 %")


@dataclass
class Half:
    """A sweep that all see, whose first run is private; its second has figures of its own."""

    id: str
    hidden: str
    shown: str


@pytest.fixture(scope="module")
def ada(studio: Studio) -> str:
    with studio.database.writing() as session:
        owner, at = accounts.create_user(session, "ada").id, now(session)
        audit = AUDIT.model_dump(mode="json")
        session.add(Dataset(
            id="data_ada", owner_id=owner, name="Pairs", state="ready", filename="a.jsonl", size_bytes=9, sha256="d" * 64,
            audit=audit, num_examples=9, created_at=at,
        ))  # fmt: skip
        session.add(
            Model(id="model_ada", owner_id=owner, name="Small", kind="policy", source="hub", path="a/b", facts={}, created_at=at)
        )
    return owner


RECIPE = {"dataset": "data_ada", "policy": {"model": "model_ada"}, "weights": {"lambda": 0.5}}


@pytest.fixture(scope="module")
def sweep(studio: Studio, ada: str) -> Half:
    with studio.database.writing() as session:
        made = sweeps.launch(session, ada, parse_request({"name": "Shared sweep", "recipe": RECIPE, "lambda": [0.3, 1]}))
        hidden, shown = session.query(Run).where(Run.sweep_id == made.id).order_by(Run.variant)
        for run, scale in ((hidden, 1.0), (shown, 0.1)):
            run.step, run.name = 10, f"Run {run.variant} by name"
            metrics.write_metrics(session, run.id, {(key, 10): scale * value for key, value in FIGURES.items()})
            keep_figures(session, run.id)
        sharing.set_private(session, hidden, True)
        return Half(made.id, hidden.id, shown.id)


@pytest.fixture(params=["member", "owner", "admin"])
def asker(request: pytest.FixtureRequest, studio: Studio, ada: str) -> tuple[TestClient, bool]:
    """Somebody who asks, and whether the private run is theirs to see."""
    who = {"member": "eve", "owner": "ada", "admin": "admin"}[request.param]
    return studio.client(studio.make_token(who)), request.param != "member"


def test_a_sweep_keeps_the_place_of_a_private_run_and_tells_nothing_of_it(
    studio: Studio, sweep: Half, asker: tuple[TestClient, bool]
) -> None:
    client, sees = asker
    found = client.get(f"/api/v1/sweeps/{sweep.id}").json()
    first, second = found["variants"]
    assert (first["state"], first["run_id"]) == (("queued", sweep.hidden) if sees else ("private", None))
    assert (first["metrics"] != {}, first["label"], second["run_id"]) == (sees, "λ 0.3", sweep.shown)
    assert [point["variant"] for point in found["frontier"]] == ([0, 1] if sees else [1])
    assert found["best"]["variant"] == (0 if sees else 1)
    assert ("76.543" in json.dumps(found)) is sees
    for address in (f"/sweeps/{sweep.id}", f"/sweeps/{sweep.id}/live"):
        page = client.get(address).text
        assert [sweep.hidden in page, any(text in page for text in TOLD), "1 variant is private" in page] == [
            sees,
            sees,
            not sees,
        ]
        assert sweep.shown in page
        assert "λ 0.3" in page


def test_a_sweeps_counts_say_how_many_are_private_and_not_how_far_these_are(
    studio: Studio, sweep: Half, asker: tuple[TestClient, bool]
) -> None:
    client, sees = asker
    with studio.database.writing() as session:
        session.get_one(Run, sweep.hidden).state = "failed"
    one = client.get(f"/api/v1/sweeps/{sweep.id}").json()
    listed = next(row for row in client.get("/api/v1/sweeps").json()["items"] if row["id"] == sweep.id)
    page = client.get("/sweeps").text
    with studio.database.writing() as session:
        session.get_one(Run, sweep.hidden).state = "queued"
    counts = ({"queued": 1, "failed": 1}, 0) if sees else ({"queued": 1}, 1)
    assert [(row["counts"], row["num_private"]) for row in (one, listed)] == [counts, counts]
    assert (", 1 private" in page, one["num_deleted"]) == (not sees, 0)


@pytest.mark.parametrize(
    "address",
    ["/runs", "/api/v1/runs?limit=200", "/runs?sort=kl", "/api/v1/runs?sort=reward_gain", "/runs?search=Run+0", "/", "/sweeps",
     "/models/model_ada", "/api/v1/sweeps", "/scorings", "/queue", "/workers", "/comparisons/new", "/prompt-sets/new",
     "/playground"],
)  # fmt: skip
def test_lists_and_pages_beside_it_tell_nothing_of_it(studio: Studio, sweep: Half, address: str) -> None:
    page = studio.client(studio.make_token("eve")).get(address)
    assert page.status_code == 200
    assert "Run 0 by name" not in page.text
    assert sweep.hidden not in page.text
    assert not any(text in page.text for text in TOLD)


def test_the_order_of_a_list_does_not_tell_where_a_private_figure_stands(studio: Studio, sweep: Half) -> None:
    eve = studio.client(studio.make_token("eve"))
    behind = {key: eve.get(f"/api/v1/runs?sort=reward_gain&after={run}").json()["items"] for key, run in
              (("hidden", sweep.hidden), ("gone", "run_gone"))}  # fmt: skip
    assert behind["hidden"] == behind["gone"] == []


def test_a_run_that_is_shared_out_of_a_private_sweep_does_not_name_it(studio: Studio, ada: str) -> None:
    with studio.database.writing() as session:
        made = sweeps.launch(
            session, ada, parse_request({"name": "Secret sweep", "recipe": RECIPE, "lambda": [2, 3]}), private=True
        )
        run = session.query(Run).where(Run.sweep_id == made.id).first()
        scoring = scorings.request(
            session, ada, parse_recipe({**RECIPE, "max_examples": 5, "name": "Secret scores"}), private=True
        )
        scoring.name, run.scoring_id = "Secret scores", scoring.id
        run.name, run.recipe = "Shared", {**run.recipe, "name": "Shared"}
        sharing.set_private(session, run, False)
        run_id = run.id
    eve = studio.client(studio.make_token("eve"))
    for address in (f"/runs/{run_id}", f"/runs/{run_id}/standing", "/runs", f"/runs/rows?ids={run_id}"):
        page = eve.get(address)
        assert page.status_code == 200
        assert "Secret" not in page.text
    assert "Secret sweep" in studio.client(studio.make_token("ada")).get(f"/runs/{run_id}").text


def test_a_comparison_of_runs_that_became_private_shows_their_recipes_to_nobody_else(studio: Studio, ada: str) -> None:
    """Eve's comparison stays hers; what Ada's runs are made of does not."""
    files = studio.app.state.files
    with studio.database.writing() as session:
        eve_id = get_user(session, "eve").id
        trained = [runs.launch(session, ada, parse_recipe({**RECIPE, "weights": {"lambda": value}})) for value in (0.123, 84.56)]
        prompts = plant_prompts(session, files, eve_id, 4)
        answers = [
            plant_answers(session, files, prompts, Planted(name), model_run_id=run.id).id
            for name, run in zip(("Kind", "Curt"), trained, strict=True)
        ]
        comparison = comparisons.create(session, eve_id, answers).id
    address, client = f"/comparisons/{comparison}", studio.client(studio.make_token("eve"))
    assert "84.56" in client.get(address).text
    with studio.database.writing() as session:
        for run in trained:
            sharing.set_private(session, session.get_one(Run, run.id), True)
    page = client.get(address)
    assert page.status_code == 200
    assert not any(text in page.text for text in ("84.56", trained[0].id, trained[1].id))


def test_a_scoring_whose_run_is_private_does_not_lead_to_it(studio: Studio, ada: str) -> None:
    recipe = {**RECIPE, "max_examples": 6}
    with studio.database.writing() as session:
        scoring = scorings.request(session, ada, parse_recipe(recipe))
        run = session.get_one(Run, str(scoring.run_id))
        sharing.set_private(session, run, True)
    eve = studio.client(studio.make_token("eve"))
    form = {"dataset": "data_ada", "policy.model": "model_ada", "max_examples": "6", "reward.source": "preference"}
    pages = [
        eve.get(f"/scorings/{scoring.id}"),
        eve.get(f"/scorings/{scoring.id}/progress"),
        eve.post("/runs/new/preview", data=form),
    ]
    assert [page.status_code for page in pages] == [200, 200, 200]
    assert not any(run.id in page.text for page in pages)
