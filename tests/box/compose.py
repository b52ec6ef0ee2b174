"""docker-compose.yml and the Dockerfiles, read as Docker would: variables filled in, images laid out as folders."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = re.compile(r"\$\$|\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


class VariableMissing(Exception):
    """A variable that has no default is not set: what `${NAME:?sentence}` does in Compose."""


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """`${NAME}`, `${NAME:-default}`, `${NAME:?sentence}` and `$$`; an empty value counts as missing."""

    def fill(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        value = variables.get(match["name"], "")
        if not value and match["kind"] == "?":
            raise VariableMissing(match["rest"])
        return value or (match["rest"] if match["kind"] == "-" else "")

    return VARIABLE.sub(fill, text)


def read_compose(variables: Mapping[str, str]) -> dict[str, Any]:
    """The services of docker-compose.yml, by name, with `variables` as the .env file."""

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: walk(value) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value) for value in node]
        return interpolate(node, variables) if isinstance(node, str) else node

    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    services: dict[str, Any] = walk(document["services"])
    for service in services.values():  # a variable without a value is passed on where it is set
        for name in [name for name, value in service.get("environment", {}).items() if value is None]:
            del service["environment"][name]
            service["environment"] |= {name: variables[name]} if name in variables else {}
    return services


def read_dockerfile(path: str) -> list[tuple[str, str]]:
    """(instruction, rest) of every line, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / path).read_text(encoding="utf-8"))
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line[0], line[1]) for line in lines]


def copied(path: str) -> list[tuple[list[str], str]]:
    """(sources, target) of every COPY from the build context."""
    parts = [rest.split() for word, rest in read_dockerfile(path) if word == "COPY" and not rest.startswith("--from")]
    return [(words[:-1], words[-1]) for words in parts]


def default_command(path: str) -> list[str]:
    """The CMD of the final stage."""
    command: list[str] = json.loads([rest for word, rest in read_dockerfile(path) if word == "CMD"][-1])
    return command


def lay_out(path: str, tree: Path) -> None:
    """Fill `tree` with what the Dockerfile copies into its image, so that a file which it forgets is missing here too."""
    for sources, target in copied(path):
        for source in sources:
            place = tree / target / Path(source).name if target.endswith("/") or len(sources) > 1 else tree / target
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                ignored = shutil.ignore_patterns("vendor", "node_modules")  # compiled, as the image is, where the checkout is
                shutil.copytree(ROOT / source, place, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copyfile(ROOT / source, place)
    if (tree / "static").is_dir() and (ROOT / "static/vendor").is_dir():
        shutil.copytree(ROOT / "static/vendor", tree / "static/vendor")  # the stage `assets` makes it
