"""The page of all elements: made by the pages' own templates, in both themes, and nothing that it offers changes anything."""

import re

import pytest
from jinja2 import nodes

from app.domain.run import RunState
from tests.architecture.variables import list_templates, parse_template

SHARED = ("_button.html", "_field.html", "_list.html", "_subnav.html", "_tokens.html")
FRAGMENTS = ("runs/_finding.html", "runs/_log.html", "runs/_sample.html", "datasets/_histogram.html")


@pytest.fixture
def browser(studio):
    return studio.browser()


def panes(page: str) -> list[str]:
    return re.split(r'<div class="pane"', page)[1:]


def test_both_themes_show_the_same_elements_or_one_alone(browser):
    light, dark = panes(browser.get("/patterns").text)
    assert 'data-pane="light"' in light
    assert 'data-pane="dark"' in dark
    for pane in (light, dark):
        assert {f'data-state="{state}"' for state in RunState} <= set(re.findall(r'data-state="\w+"', pane))
        for name in (
            "button primary",
            "button danger",
            "notice bad",
            "finding",
            "tile",
            "chart",
            "token",
            "example",
            "list",
            "fold",
        ):
            assert re.search(rf'class="[^"]*\b{name}\b', pane), name
    assert [len(panes(browser.get(f"/patterns?theme={name}").text)) for name in ("dark", "light", "sepia")] == [1, 1, 0]


def test_no_id_occurs_twice(browser):
    ids = re.findall(r'\sid="([^"]+)"', browser.get("/patterns").text)
    assert sorted(ids) == sorted(set(ids))


def test_elements_come_from_the_templates_that_pages_use():
    trees = [parse_template(name) for name in list_templates() if name.startswith("patterns/")]
    named = {node.template.value for tree in trees for kind in (nodes.FromImport, nodes.Include) for node in tree.find_all(kind)}
    assert {f"components/{name}" for name in SHARED} | set(FRAGMENTS) <= named


def test_the_buttons_lead_back(browser):
    assert browser.post("/patterns").headers["location"] == "/patterns"
    assert browser.post("/patterns", headers={"hx-request": "true"}).headers["hx-redirect"] == "/patterns"
