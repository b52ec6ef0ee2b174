"""Every page passes what its template reads, by itself and through its fragments, and nothing else."""

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import fields

from jinja2 import nodes

import app.web
from app.domain.events import EVENT_KINDS
from app.web.pages.run.stream import AS_JSON, PARTS
from app.web.rendering.environment import Context
from tests.architecture.variables import find_parts, find_reads, list_templates, parse_template

ALWAYS = {"request", "user"}
OF_EVENTS = {"shown", "event"}


def list_contexts() -> list[type[Context]]:
    for module in pkgutil.walk_packages(app.web.__path__, "app.web."):
        importlib.import_module(module.name)
    return list(subclasses(Context))


def subclasses(kind: type[Context]) -> Iterator[type[Context]]:
    for one in kind.__subclasses__():
        yield one
        yield from subclasses(one)


def passed(context: type[Context]) -> set[str]:
    return {field.name for field in fields(context)} | ALWAYS


def event_fragments() -> list[str]:
    return [f"runs/_{part}.html" for kind in EVENT_KINDS if kind not in AS_JSON for part in PARTS.get(kind, (kind,))]


def test_a_page_passes_every_variable_that_its_template_reads():
    missing = {one.__name__: sorted(find_reads(one.template) - passed(one)) for one in list_contexts()}
    assert {name: variables for name, variables in missing.items() if variables} == {}


def test_a_template_reads_every_variable_that_its_page_passes():
    unread = {one.__name__: sorted(passed(one) - find_reads(one.template) - ALWAYS) for one in list_contexts()}
    assert {name: variables for name, variables in unread.items() if variables} == {}


def test_the_moving_part_of_a_page_is_in_it_and_gets_by_with_what_the_page_passes():
    parts = [one for one in list_contexts() if one.part]
    assert parts
    for one in parts:
        assert one.part in find_parts(one.template), one
        assert find_reads(one.part) <= passed(one), one


def test_a_context_names_its_own_template():
    contexts = list_contexts()
    assert [one for one in contexts if "template" not in vars(one)] == []
    assert {one.template for one in contexts} <= set(list_templates())


def test_a_fragment_of_an_event_reads_the_event_alone():
    assert {name: find_reads(name) for name in event_fragments() if not find_reads(name) <= OF_EVENTS} == {}


def test_a_macro_that_is_imported_reads_its_arguments_alone():
    imports = {node.template.value for name in list_templates() for node in parse_template(name).find_all(nodes.FromImport)}
    assert {name: find_reads(name) for name in imports if find_reads(name)} == {}


def test_every_template_is_reached_from_a_page_or_an_event():
    roots = {one.template for one in list_contexts()} | {*event_fragments(), *(f"runs/_{kind}.html" for kind in EVENT_KINDS)}
    imports = {node.template.value for name in list_templates() for node in parse_template(name).find_all(nodes.FromImport)}
    reached = roots | imports | {part for name in roots for part in find_parts(name)}
    assert set(list_templates()) - reached == set()


def test_no_template_asks_whether_a_variable_was_passed():
    asking = [name for name in list_templates() for one in parse_template(name).find_all(nodes.Test) if one.name == "defined"]
    assert asking == []


def test_the_reader_knows_what_is_bound_where(monkeypatch):
    """A name is read only where nothing in the template has given it a value."""
    from tests.architecture import variables

    written = {
        "page.html": """{% extends "frame.html" %}{% from "macros.html" import button %}{% set top = given %}
            {% block main %}{{ top }}{{ button(words) }}
            {% for one in many if one.fits %}{{ loop.index }}{% include "part.html" %}{% else %}{{ one }}{% endfor %}
            {% with inner=outer %}{{ inner }}{% endwith %}{{ inner }}{% endblock %}""",
        "frame.html": "{% block main %}{{ replaced }}{% endblock %}{% block foot %}{{ user }}{% endblock %}",
        "part.html": "{{ one }}{{ two }}{% set three = 3 %}{{ three }}",
        "macros.html": "{% macro button(words) %}{{ words }}{{ caller() }}{% endmacro %}",
    }
    monkeypatch.setattr(variables, "parse_template", lambda name: variables.environment().parse(written[name]))
    assert variables.Reader().read_template("page.html") == {"given", "words", "many", "two", "one", "outer", "inner", "user"}
    assert variables.Reader().read_template("macros.html") == set()
