"""Templates compile, refer to what exists, and hold nothing that the content security policy would refuse."""

import re

import pytest
from jinja2 import meta

from app.web.rendering.environment import environment
from tests.architecture.tree import list_files, read

TEMPLATES = [path for path in list_files() if path.parts[0] == "templates" and path.suffix == ".html"]
INLINE = {
    "a script": re.compile(r"<script(?![^>]*\bsrc=)(?![^>]*type=\"application/json\")", re.IGNORECASE),
    "a style element": re.compile(r"<style\b", re.IGNORECASE),
    "a style attribute": re.compile(r"<[a-z][^>]*\sstyle=", re.IGNORECASE),
    "an event handler": re.compile(r"<[a-z][^>]*\s(on[a-z]+|hx-on[\w:-]*)=", re.IGNORECASE),
    "a javascript: link": re.compile(r"javascript:", re.IGNORECASE),
    "a foreign address": re.compile(r"(?:src|href)=\"(?:https?:)?//", re.IGNORECASE),
}


def name_of(path) -> str:
    return path.relative_to("templates").as_posix()


def test_every_template_compiles():
    for path in TEMPLATES:
        environment().get_template(name_of(path))  # its error names the file and the line


def test_a_template_refers_only_to_templates_that_exist():
    names = set(map(name_of, TEMPLATES))
    referred = {
        f"{name_of(path)} refers to {name}"
        for path in TEMPLATES
        for name in meta.find_referenced_templates(environment().parse(read(path)))
        if name is not None and name not in names
    }
    assert referred == set()


@pytest.mark.parametrize("what", INLINE)
def test_no_template_holds(what):
    assert [name_of(path) for path in TEMPLATES if INLINE[what].search(read(path))] == []


def test_a_script_of_a_page_is_no_other_scripts_import():
    """A page names it with the hash of its content, an import without: it would be loaded, and listen, twice."""
    texts = {path.name: read(path) for path in list_files() if path.parts[0] == "static" and path.suffix == ".js"}
    loaded = {name for path in TEMPLATES for name in re.findall(r"static_url\('([^']+\.js)'\)", read(path))}
    imported = {name for text in texts.values() for name in re.findall(r"(?:from|import\()\s*\"\./([^\"]+)\"", text)}
    assert imported <= texts.keys()
    assert loaded & imported == set()


ASKS = re.compile(r"<(?:form|button)\b[^>]*\bdata-confirm=.*?</(?:form|button)>", re.DOTALL)
BUTTON = re.compile(r"<button\b.*?</button>", re.DOTALL)
DESTROYS = re.compile(r"/(?:delete|remove|revoke)\b[^'\"]*['\"]")
POSTS = re.compile(r"post_button\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")


def test_what_asks_first_is_off_until_the_script_that_asks_is_there():
    """Pressed before, it would act without asking."""
    found = [(name_of(path), form) for path in TEMPLATES for form in ASKS.findall(read(path))]
    assert found
    macro = environment().get_template("components/_button.html").module
    found.append(("post_button", str(macro.post_button("/x/delete", "Delete", ask=("Delete x?", "It goes.", "Delete")))))
    for name, form in found:
        source = form.replace("{%- if disabled %} disabled{% elif ask %}", "")  # of the macro itself
        assert all("disabled data-unarmed" in button for button in BUTTON.findall(source)), name
    assert "data-unarmed" not in str(macro.post_button("/x/pause", "Pause"))


def test_what_destroys_asks_first():
    for path in TEMPLATES:
        text = read(path)
        asking = {call for call in POSTS.findall(text) if "ask=" in call}
        forms = re.findall(r"<form\b.*?</form>", text, re.DOTALL)
        bare = [call for call in POSTS.findall(text) if (DESTROYS.search(call) or "danger" in call) and call not in asking]
        bare = [call for call in bare if "'Sign out'" not in call]  # of one browser: signing in again brings all back
        bare += [form for form in forms if DESTROYS.search(form.partition(">")[0]) and "data-confirm" not in form]
        assert bare == [], name_of(path)
