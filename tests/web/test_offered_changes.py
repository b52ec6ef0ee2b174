"""A colleague's page offers nothing that would be refused: each form and button of it leads where a member may go."""

import re
from html.parser import HTMLParser

import pytest

from tests.web.test_sharing import CHANGES, TABLES, House
from tests.web.test_sharing import house as house

PAGES = {
    **{f"/{path}/{{{noun}_id}}": noun for noun, path in {
        "model": "models", "scoring": "scorings", "sweep": "sweeps", "comparison": "comparisons",
        "prompt_set": "prompt-sets", "answers": "answers", "recipe_template": "recipe-templates", "dataset": "datasets",
    }.items()},
    **{f"/runs/{{run_id}}{query}": "run" for query in ("", "?tab=files", "?tab=log", "?tab=data", "?tab=samples")},
    "/sweeps/{sweep_id}/live": "sweep", "/runs/{run_id}/steering": "run",
    "/runs/{run_id}/live": "run", "/scorings/{scoring_id}/progress": "scoring",
    "/comparisons/{comparison_id}/vote": "comparison", "/comparisons/{comparison_id}/print": "comparison",
    **{f"/{path}": noun for noun, path in {
        "dataset": "datasets", "model": "models", "run": "runs", "scoring": "scorings", "sweep": "sweeps",
        "comparison": "comparisons", "prompt_set": "prompt-sets", "answers": "answers", "recipe_template": "recipe-templates",
    }.items()},
    "/": "run", "/queue": "run", "/workers": "run",
}  # fmt: skip
SENDING = ("hx-post", "hx-delete", "hx-put", "hx-patch", "formaction")


class Offers(HTMLParser):
    """The addresses that a page's forms and buttons send changes to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and given.get("method", "get").lower() == "post":
            self.found.append(given.get("action", ""))
        self.found += [given[name] for name in SENDING if name in given]


def offers_of(page: str) -> set[str]:
    parser = Offers()
    parser.feed(page)
    return {address.split("?")[0] for address in parser.found}


def refused_by(family: dict[str, str]) -> dict[str, str]:
    """The addresses of changes that only the owner and admins may make, as patterns, by their route."""
    ids = {f"{noun}_id": re.escape(key) for noun, key in family.items()} | {"link_id": r"\w+", "voter_id": r"\w+"}
    routes = [route.split()[1] for route in CHANGES if route.startswith(("POST", "DELETE"))]
    return {route: re.sub(r"{(\w+)}", lambda found: ids[found[1]], route) for route in routes}


@pytest.mark.parametrize("address", PAGES)
def test_a_member_is_offered_no_change_of_a_colleague_s_thing(house: House, address: str) -> None:
    ids = {f"{noun}_id": key for noun, key in house.open.items()}
    url = address.format(**ids)
    pages = {who: house.people[who].get(url) for who in ("owner", "member")}
    assert {who: page.status_code for who, page in pages.items()} == {"owner": 200, "member": 200}
    offered = offers_of(pages["member"].text)
    patterns = refused_by(house.open)
    assert {one for one in offered for route in patterns.values() if re.fullmatch(route, one)} == set()


@pytest.mark.parametrize("noun", TABLES)
def test_an_owner_is_offered_them(house: House, noun: str) -> None:
    """Or the test above would look for nothing."""
    pages = [address for address, one in PAGES.items() if one == noun and "{" in address and "?" not in address]
    family = house.open
    ids = {f"{one}_id": key for one, key in family.items()}
    offered = {one for page in pages for one in offers_of(house.people["owner"].get(page.format(**ids)).text)}
    patterns = refused_by(family)
    assert {route for route, pattern in patterns.items() if any(re.fullmatch(pattern, one) for one in offered)}
