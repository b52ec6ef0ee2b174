"""How many bytes of script each page brings, packed, before its charts; `make test ARGS="tests/web/test_scripts.py -s"` tells."""

import gzip
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app import assets
from tests.compared import Planted, plant_comparison
from tests.web.test_comparisons import owner_of

SOURCES = re.compile(r'<script[^>]* src="(/static/[^"]+)"')
IMPORTS = re.compile(r'^import\s[^;]*?"\./([\w/.]+)"|^import "\./([\w/.]+)"', re.MULTILINE)
EVERYWHERE, OF_ITS_OWN = 20_000, 9_000  # bytes: what every page has, and what one may have besides


@pytest.fixture
def addresses(studio):
    run_id = studio.launch()
    files, owner = studio.app.state.files, owner_of(studio)
    comparison = plant_comparison(studio.database, files, owner, (Planted("A"), Planted("B")), num_prompts=4).id
    pages = (
        "datasets",
        "models",
        "models/model_policy",
        "playground",
        "runs",
        f"runs/{run_id}",
        "runs/new",
        "sweeps",
        "scorings",
    )
    others = ("comparisons", "comparisons/new", f"comparisons/{comparison}", f"comparisons/{comparison}/vote", "answers", "queue")
    return {f"/{path}": re.sub(r"_\w{26}", "_…", f"/{path}") for path in ("", *pages, *others, "workers", "storage", "account")}


def find_scripts(page: str) -> set[str]:
    """The files that a page loads at once: those it names, and what these import."""
    found: set[str] = set()
    waiting = [urlsplit(source).path.removeprefix("/static/") for source in SOURCES.findall(page)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            text = (assets.STATIC / name).read_text(encoding="utf-8")
            waiting += [str(Path(name).parent / (one or other)) for one, other in IMPORTS.findall(text)]
    return found


def weigh(names: set[str]) -> int:
    return sum(len(gzip.compress((assets.STATIC / name).read_bytes(), 6, mtime=0)) for name in names)


def test_no_page_brings_much_script(studio, addresses):
    if not assets.installed():
        pytest.skip("the pages' JavaScript is not installed: python -m app.assets")
    browser = studio.browser()
    scripts = {shown: find_scripts(browser.get(address).text) for address, shown in addresses.items()}
    common = set.intersection(*scripts.values())
    own = {shown: weigh(names - common) for shown, names in scripts.items()}
    print(f"\n{weigh(common):6} bytes on every page: {', '.join(sorted(common))}")
    for shown, num_bytes in sorted(own.items(), key=lambda one: -one[1]):
        print(f"{num_bytes:6} more on {shown}: {', '.join(sorted(scripts[shown] - common))}")
    assert "vendor/htmx.js" in common
    assert weigh(common) <= EVERYWHERE
    assert max(own.values()) <= OF_ITS_OWN
    assert not any("echarts" in name for names in scripts.values() for name in names)
