"""A working folder of a stranger's: modules with the names of Python's own, which say in `RAN` that they ran."""

import sys
from pathlib import Path

OURS = {"app", "worker", "uvicorn", "celery", "torch", "transformers", "jinja2", "numpy", "celeryconfig", "sitecustomize"}


def plant(folder: Path) -> Path:
    """Plant the modules; returns the file that is written when one of them runs."""
    ran = folder / "RAN"
    for name in {*sys.stdlib_module_names, *OURS} - {"__main__"}:
        program = f"import sys\nopen({str(ran)!r}, 'a', encoding='utf-8').write({name!r} + ' ' + repr(sys.argv) + '\\n')\n"
        (folder / f"{name}.py").write_text(f"{program}raise ImportError('planted')\n", encoding="utf-8")
    return ran
