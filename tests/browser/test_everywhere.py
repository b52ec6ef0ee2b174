"""What every page must be: inert towards the texts it shows, reachable by keyboard, narrow, calm in both themes, quick."""

import gzip
import json
import re

import pytest
from playwright.sync_api import expect

from app.store.tables import Model, Run
from tests.browser.payloads import PAYLOADS
from tests.browser.studio import Writer

ALL = " ".join(PAYLOADS)


@pytest.fixture(scope="module")
def hostile(studio, tmp_path_factory):
    """Every text that a page shows is an attack: names, prompts, responses, logs, findings, samples, reasons, files."""
    import httpx

    rows = [
        {"prompt": f"{payload} {i}", "chosen": f"{payload} yes", "rejected": f"{payload} no", payload[:60]: payload}
        for i, payload in enumerate(PAYLOADS)
    ]
    body = "".join(json.dumps(row) + "\n" for row in rows).encode()
    client = httpx.Client(base_url=studio.url, cookies={"studio_session": studio.cookie}, headers={"origin": studio.url})
    ids = []
    for name, content in (
        (PAYLOADS[0], body),
        (PAYLOADS[1], json.dumps({PAYLOADS[2]: PAYLOADS[3], PAYLOADS[4]: 1}).encode() + b"\n"),
    ):
        answer = client.post("/api/v1/datasets", files={"file": (f"{name}.jsonl", content)}, data={"name": name})
        assert answer.status_code == 201, answer.text
        ids.append(answer.json()["id"])
    client.close()
    run_id = studio.launch(name=PAYLOADS[5][:120])
    writer = Writer(studio)
    writer.begin(run_id)
    writer.prepare()
    writer.steps(1, 10)
    tell(writer)
    with studio.database.writing() as session:
        policy = session.get(Model, studio.policy.id)
        usual, policy.name = policy.name, PAYLOADS[6][:200]
        session.get(Run, run_id).error = {"reason": ALL, "remedy": ALL, "log_tail": ALL}
    yield writer, ids
    with studio.database.writing() as session:  # the studio is that of all browser tests
        session.get(Model, studio.policy.id).name = usual


def tell(writer: Writer) -> None:
    logs = [{"kind": "log", "level": "info", "text": payload} for payload in PAYLOADS]
    samples = [
        {"kind": "sample", "step": 10, "index": index, "example_id": index, "prompt": [{"role": payload, "content": payload}]}
        | {"reference": payload, "policy": payload, "reference_reward": 0.0, "policy_reward": 1.0}
        for index, payload in enumerate(PAYLOADS)
    ]
    writer.say(
        *logs,
        *samples,
        {"kind": "finding", "name": PAYLOADS[0], "severity": "error", "title": ALL, "evidence": ALL, "remedy": ALL},
        {"kind": "artifact", "name": f"x/{PAYLOADS[0]}", "title": ALL, "size_bytes": 1, "sha256": "0" * 64},
        {"kind": "checkpoint", "step": 10, "name": PAYLOADS[1], "size_bytes": 1},
        {"kind": "resume", "attempt": 1, "step": 10, "checkpoint": PAYLOADS[2]},
    )


def test_hostile_texts_stay_texts(page, studio, hostile):
    writer, (ready, unmapped) = hostile
    foreign = []
    page.on("request", lambda request: foreign.append(request.url) if not request.url.startswith(studio.url) else None)
    page.on("request", lambda request: foreign.append(request.url) if "stolen" in request.url else None)
    for path in ("/", "/runs", f"/runs/{writer.run_id}", "/datasets", f"/datasets/{ready}", f"/datasets/{ready}?from=20",
                 f"/datasets/{unmapped}", "/models", "/runs/new", f"/runs/new?clone={writer.run_id}"):  # fmt: skip
        page.goto(path)
        page.wait_for_timeout(250)
        assert page.evaluate("window.stolen") is None
        assert (
            page.locator("script:not([src]):not([type='application/json']), [onerror], [onload], [hx-on], iframe, base").count()
            == 0
        )
    page.goto(f"/runs/{writer.run_id}")
    expect(page.locator("html[data-stream=open]")).to_be_attached()
    tell(writer)  # and once more through the live stream
    expect(page.locator("#log-list li")).to_have_count(2 * len(PAYLOADS) + 8)  # with two of the preparation, two states
    expect(page.locator("#sample-groups article")).to_have_count(len(PAYLOADS))
    assert page.locator("#sample-groups [data-side=policy] .text").all_text_contents() == [
        p.replace("\r\n", "\n") for p in PAYLOADS
    ]
    assert page.locator("#sample-groups").get_by_role("link").count() == 0
    page.wait_for_timeout(250)
    assert page.evaluate("window.stolen") is None
    assert foreign == []


PAGES = (
    "/",
    "/runs",
    "/runs/new",
    "/datasets",
    "/datasets/new",
    "/models",
    "/docs",
    "/runs/RUN",
    "/datasets/DATA",
    "/patterns",
    "/nothing-here",
)


def paths(hostile):
    writer, (ready, _) = hostile
    return [path.replace("RUN", writer.run_id).replace("DATA", ready) for path in PAGES]


@pytest.mark.parametrize("width", [360, 1440])
def test_no_page_scrolls_sideways(page, hostile, complaints, width):
    page.set_viewport_size({"width": width, "height": 800})
    for path in paths(hostile):
        page.goto(path)
        page.wait_for_timeout(150)
        wide = page.evaluate(
            "[...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth + 1"
            " && !e.closest('.table-scroll, .jump, .nav, .tabs, .visually-hidden, .log, pre')).map(e => e.outerHTML.slice(0, 80))"
        )
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert (path, overflow) == (path, 0), wide[:5]
    complaints[:] = [complaint for complaint in complaints if "404" not in complaint]


def test_every_control_is_reached_by_keyboard_and_shows_it(page, hostile):
    writer, _ = hostile
    for path in ("/", "/runs", "/datasets/new", "/runs/new", f"/runs/{writer.run_id}"):
        page.goto(path)
        if path.endswith(writer.run_id):  # its tabs leave one of them in the keyboard's way, its charts bring menus
            expect(page.locator("html[data-stream=open][data-charts=drawn]")).to_be_attached()
        wanted = (
            page.locator(
                "a[href]:not([role=tab][tabindex='-1']), button, input:not([type=hidden], [type=radio]), select, summary"
            )
            .locator("visible=true")
            .count()
        )
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        reached = set()
        for _ in range(wanted + 40):
            element = page.evaluate(
                "() => { const e = document.activeElement; e.dataset.order ??= String(Math.random());"
                " const s = getComputedStyle(e), c = e.closest('.choice') ? getComputedStyle(e.closest('.choice')) : s;"
                " return [e.tagName, e.dataset.order, s.outlineStyle !== 'none' || c.outlineStyle !== 'none']; }"
            )
            if element[0] == "BODY":
                break
            assert element[2], f"{element[0]} on {path} shows no focus"
            reached.add(element[1])
            page.keyboard.press("Tab")
        assert len(reached) >= wanted, path


def test_every_input_has_a_name_and_every_id_is_unique(page, hostile):
    for path in paths(hostile)[:-1]:
        page.goto(path)
        nameless = page.evaluate(
            "[...document.querySelectorAll('input:not([type=hidden]), select')].filter(e => !e.labels.length).map(e => e.name)"
        )
        assert nameless == []
        ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
        assert len(ids) == len(set(ids)), [id for id in ids if ids.count(id) > 1]
        assert page.locator("h1").count() == 1
        assert page.evaluate("document.documentElement.lang") == "en"


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parse = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; }
    return parse('white');
  };
  const weak = [];
  for (const e of document.body.querySelectorAll('*')) {
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!text || !e.checkVisibility() || e.closest('.visually-hidden, .skip, [disabled]')) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    const contrast = (a + .05) / (b + .05);
    if (contrast < 4.5) weak.push([e.className || e.tagName, e.textContent.trim().slice(0, 30), contrast.toFixed(2)]);
  }
  return weak;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(page, hostile, complaints, theme):
    page.emulate_media(color_scheme=theme)
    for path in paths(hostile):
        page.goto(path)
        assert (path, page.evaluate(CONTRAST)) == (path, [])
    complaints[:] = [complaint for complaint in complaints if "404" not in complaint]


def test_the_theme_is_remembered(page, studio):
    page.emulate_media(color_scheme="light")
    page.goto("/")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.get_by_role("button", name="Switch between light and dark").click()
    dark = page.evaluate(ground)
    assert dark != light
    page.goto("/models")
    assert page.evaluate(ground) == dark


def test_the_theme_is_switched_by_one_click_on_every_page(page, hostile, complaints):
    ground = "getComputedStyle(document.body).backgroundColor"
    for path in paths(hostile):
        page.goto(path)
        page.wait_for_timeout(150)
        before = page.evaluate(ground)
        page.get_by_role("button", name="Switch between light and dark").click()
        assert (path, page.evaluate(ground)) != (path, before)
    complaints[:] = [complaint for complaint in complaints if "404" not in complaint]


def test_nothing_shifts_while_a_run_is_live(page, studio):
    run_id = studio.launch()
    writer = Writer(studio)
    writer.begin(run_id)
    writer.prepare()
    writer.evaluate(0)
    writer.steps(1, 5)
    page.goto(f"/runs/{run_id}")
    expect(page.locator("html[data-charts=drawn]")).to_be_attached()
    page.evaluate(
        "window.shift = 0; new PerformanceObserver(list => list.getEntries().forEach(e => { shift += e.value }))"
        ".observe({type: 'layout-shift', buffered: true})"
    )
    for step in range(6, 26):
        writer.steps(step, step)
    writer.evaluate(25)
    expect(page.locator("figure[data-chart=loss]")).to_have_attribute("data-points", "25")
    page.wait_for_timeout(300)
    assert page.evaluate("window.shift") < 0.02


def test_the_first_page_is_light(page, studio):
    weights = {}
    page.on("response", lambda response: weights.__setitem__(response.url, len(gzip.compress(response.body()))))
    page.goto("/")
    page.wait_for_load_state("networkidle")
    assert sum(weights.values()) < 250_000, weights
    assert not any("echarts" in url for url in weights)


def test_static_files_are_kept_by_the_browser(page, studio):
    answer = page.goto("/")
    names = re.findall(r'"(/static/[^"]+)"', answer.text())
    assert len(names) >= 5
    for name in names:
        kept = page.request.get(name)
        assert kept.status == 200
        assert "immutable" in kept.headers["cache-control"], name
        assert page.request.get(name.split("?")[0]).headers["cache-control"] == "no-cache"
        assert "default-src 'self'" in kept.headers["content-security-policy"]
    assert page.request.get("/static/package.json").status == 404
    assert page.request.get("/static/node_modules/htmx.org/package.json").status == 404


def test_signing_in_takes_the_link_or_its_secret(studio, browser):
    from app.services import accounts

    with studio.database.writing() as session:
        secret = accounts.create_login_link(session, studio.user)
    context = browser.new_context(base_url=studio.url)
    page = context.new_page()
    page.goto("/models")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_label("Login link or its secret").fill("nonsense")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("login link")
    page.get_by_label("Login link or its secret").fill(f"{studio.url}/login/{secret}")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Models", exact=True)).to_be_visible()
    context.close()


def test_a_login_link_is_followed_by_its_button_also_without_scripts(studio, browser):
    from app.services import accounts

    with studio.database.writing() as session:
        secret = accounts.create_login_link(session, studio.user)
    context = browser.new_context(base_url=studio.url, java_script_enabled=False)
    page = context.new_page()
    for _ in range(2):
        page.goto(f"/login/{secret}")
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(f"{studio.url}/")
    page.goto(f"/login/{secret}")
    expect(page).to_have_url(f"{studio.url}/")
    context.close()
