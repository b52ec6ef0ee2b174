"""Today's date in chat templates: whatever asks for it is given the day of the run."""

from datetime import date
from pathlib import Path

FUNCTION = "strftime_now"
HELD = """\
{%- macro strftime_now(format) -%}
    {%- set read = namespace(parts=[]) -%}
    {%- for part in format.split('%%') -%}
        {%- set read.part = part -%}
        {%- for code, written in day_of_run.items() -%}{%- set read.part = read.part.replace(code, written) -%}{%- endfor -%}
        {%- set read.parts = read.parts + [read.part] -%}
    {%- endfor -%}
    {{- read.parts | join('%') -}}
{%- endmacro %}
"""
CODES = [f"%{sign}{letter}" for sign in ("", "-") for letter in "aAbBcdfGHIjmMpSuUVwWxXyYZz"]


def hold_date(template: str) -> str:
    """Return a template that writes the day of `name_day` in the place of today's."""
    return HELD + template if FUNCTION in template else template


def name_day(day: date) -> dict[str, dict[str, str]]:
    """Return what a template with a held date must be given."""
    return {"day_of_run": {code: day.strftime(code) for code in CODES}}


def writes_date(folder: Path) -> bool:
    """Return whether a chat template in this folder writes the day it runs on."""
    files = [*folder.glob("tokenizer_config.json"), *folder.glob("*.jinja"), *folder.glob("*/*.jinja")]
    return any(FUNCTION in path.read_text("utf-8", "replace") for path in files)
