"""The documents are true: links resolve, commands exist, the table of settings is that of the code."""

import re
from pathlib import Path

from typer.main import get_command

from app.cli import cli
from app.settings import Settings
from tests.architecture.tree import ROOT, list_files, read

DOCUMENTS = [path for path in list_files() if path.suffix == ".md"]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SECTIONS = ["Context", "Decision", "Consequences", "Alternatives"]


def targets(path: Path) -> list[str]:
    return [target for target in LINK.findall(read(path)) if "://" not in target and not target.startswith("#")]


def test_every_link_of_a_document_leads_somewhere():
    assert [
        f"{path}: {target}"
        for path in DOCUMENTS
        for target in targets(path)
        if not (ROOT / path.parent / target.split("#")[0]).exists()
    ] == []


def anchors(path: Path) -> set[str]:
    """What a link may name behind `#`: the headings, as GitHub makes addresses of them."""
    headings = re.findall(r"^#+ (.+)$", read(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_into_a_document_names_one_of_its_headings():
    assert [
        f"{path}: {target}"
        for path in DOCUMENTS
        for target in targets(path)
        for file, _, anchor in [target.partition("#")]
        if anchor and anchor not in anchors((ROOT / path.parent / file).resolve().relative_to(ROOT))
    ] == []


def test_the_readme_is_read_in_one_go():
    assert len(read(Path("README.md")).splitlines()) <= 150


def test_every_make_target_that_a_document_names_exists():
    made = set(re.findall(r"^([\w-]+):", read(Path("Makefile")), re.MULTILINE))
    named = {name for path in DOCUMENTS for name in re.findall(r"(?:`|^ {4})make (\w+)", read(path), re.MULTILINE)}
    assert named <= made


def commands() -> set[str]:
    """Every command of `varstudio`, groups and their commands joined by a blank."""
    program = get_command(cli)
    groups = {name: set(getattr(command, "commands", {})) for name, command in program.commands.items()}
    return {*groups, *(f"{name} {inner}" for name, inners in groups.items() for inner in inners)}


def test_every_command_that_a_document_names_exists():
    named = {
        f"{group} {inner}".strip() if inner and any(known.startswith(f"{group} ") for known in commands()) else group
        for path in DOCUMENTS
        for group, inner in re.findall(r"(?:`|^ {4})varstudio ([a-z-]+)(?: ([a-z-]+))?", read(path), re.MULTILINE)
    }
    assert named <= commands()


def test_every_file_and_folder_that_a_document_names_exists():
    present = {str(above) for path in list_files() for above in [path, *path.parents]}
    assert [
        f"{path}: {name}"
        for path in DOCUMENTS
        if path.name != "CHANGELOG.md" and not path.is_relative_to("docs/log") and path != Path("docs/log.md")
        for name in re.findall(r"`((?:app|worker|tests|templates|migrations|docs)/[\w./-]*)`", read(path))
        if name.rstrip("/") not in present
    ] == []


def settings_table() -> str:
    """The settings as Markdown: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        variable = field.validation_alias or f"STUDIO_{name.upper()}"
        default = field.get_default(call_default_factory=True)
        shown = ",".join(map(str, default)) if isinstance(default, list) else str(default)
        rows.append(f"| `{variable}` |{f' `{shown}`' if shown else ''} | {field.description} |")
    return "\n".join(rows)


def test_the_page_of_settings_lists_each_as_the_code_has_it():
    assert all(field.description for field in Settings.model_fields.values())
    table = re.search(r"<!-- settings:.*?-->\n(.*?)\n<!-- end", read(Path("docs/settings.md")), re.DOTALL)
    assert table is not None
    assert table[1] == settings_table()


def test_a_decision_is_a_page_with_its_reasons():
    for path in [path for path in DOCUMENTS if "decisions" in path.parts]:
        text = read(path)
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS, path
        assert len(text.splitlines()) <= 60, path
        assert re.search(r"^\d{4}-\d\d-\d\d · ", text, re.MULTILINE), path
