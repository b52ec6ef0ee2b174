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
