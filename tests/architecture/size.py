"""How large the code is: `python -m tests.architecture.size [CHECKOUT]`, a line of Markdown for app/ and for worker/."""

import ast
import sys
from collections import Counter
from pathlib import Path
from statistics import median


def describe(top: Path) -> str:
    """Return modules, lines, largest flat folder, functions, and their median and longest length, docstrings included."""
    modules = [path for path in top.rglob("*.py") if path.name != "__init__.py"]
    texts = [path.read_text(encoding="utf-8") for path in [*modules, *top.rglob("__init__.py")]]
    folder, num_modules = Counter(path.parent for path in modules).most_common(1)[0]
    lengths = [
        node.end_lineno - node.lineno + 1
        for text in texts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    largest = f"{folder.relative_to(top.parent)} {num_modules}"
    lines = sum(len(text.splitlines()) for text in texts)
    return f"| {top.name} | {len(modules)} | {lines} | {largest} | {len(lengths)} | {median(lengths):g} | {max(lengths)} |"


if __name__ == "__main__":
    checkout = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    print(describe(checkout / "app"), describe(checkout / "worker"), sep="\n")
