"""What this machine does not allow of the quick ways to train, and why; found without torch, before any run needs it."""

import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path


def find_obstacles(has_gpu: bool) -> dict[str, str]:
    """Return why torch.compile (`compile`), FlexAttention (`flex`) or 4-bit weights (`nf4`) is off here; what works is left
    out.
    """
    compiling = find_compiling_obstacle(has_gpu)
    reasons = {
        "compile": compiling,
        "flex": compiling if has_gpu else "it needs an NVIDIA GPU.",
        "nf4": find_package_obstacle("bitsandbytes"),
    }
    return {name: reason for name, reason in reasons.items() if reason}


def find_compiling_obstacle(has_gpu: bool) -> str:
    """Return why no kernel can be compiled and loaded here; empty when one can."""
    compilers = [("g++", [os.environ.get("CXX", "g++")])]
    if has_gpu:  # triton's own choice
        compilers.append(("gcc", [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]))
    for package, programs in compilers:
        if not any(map(shutil.which, programs)):
            return f"there is no compiler: on Debian, apt-get install {package}."
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").exists():
        return "Python's headers are not there: on Debian, apt-get install python3-dev."
    caches = {"TORCHINDUCTOR_CACHE_DIR": Path(tempfile.gettempdir())}
    if has_gpu:
        caches["TRITON_CACHE_DIR"] = Path.home() / ".triton"
    for variable, usual in caches.items():
        folder = _nearest(Path(os.environ.get(variable) or usual))
        if not may_load_from(folder):
            return f"compiled kernels can't be written to and loaded from {folder}: set {variable} to a folder that allows both."
    return ""


def may_load_from(folder: Path) -> bool:
    """Return whether programs may be written there and loaded: not on a file system that is read-only or mounted noexec."""
    is_noexec = os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0)
    return os.access(folder, os.W_OK | os.X_OK) and not is_noexec


def find_package_obstacle(name: str) -> str:
    if find_spec(name) is not None:
        return ""
    return f"the package {name} is not installed: {shlex.quote(sys.executable)} -m pip install {name}."


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest above it that exists."""
    return next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
