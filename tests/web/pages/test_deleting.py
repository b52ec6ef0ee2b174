"""Deleting what is used says by what, with links, on the page where the button is."""

import pytest

from tests.web.conftest import URL


@pytest.fixture
def browser(studio):
    return studio.browser()


@pytest.mark.parametrize("path", ["/datasets/data_pairs", "/models/model_policy"])
def test_deleting_what_runs_use_lists_the_runs(studio, browser, client, path):
    run_id = studio.launch(name="Uses <b>it</b>")
    refused = client.delete(f"/api/v1{path}")
    assert refused.status_code == 409
    assert {"kind": "run", "id": run_id, "name": "Uses <b>it</b>"} in refused.json()["extra"]["used_by"]
    for headers in ({}, {"hx-request": "true"}):
        page = browser.post(f"{path}/delete", headers=headers)
        assert page.status_code == 409
        assert f'<a href="/runs/{run_id}">Uses &lt;b&gt;it&lt;/b&gt;</a>' in page.text
        assert ("<html" in page.text) is not bool(headers)


def test_what_is_deleted_in_place_leads_to_the_list(studio, browser):
    dataset_id = studio.upload()["id"]
    gone = browser.post(f"/datasets/{dataset_id}/delete", headers={"hx-request": "true"})
    assert (gone.status_code, gone.headers["hx-redirect"]) == (204, "/datasets")
    dataset_id = studio.upload()["id"]
    assert browser.post(f"/datasets/{dataset_id}/delete", headers={"origin": URL}).headers["location"] == "/datasets"
