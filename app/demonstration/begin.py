"""What the web starts for somebody who tries the studio in the browser: make data and models, and take them in over REST.

    STUDIO_URL=… STUDIO_TOKEN=… python -P -m app.demonstration.begin FOLDER

Progress goes to standard output, a line at a time; the last is `ready QUERY`, by which the launch form is filled. It ends,
with all that it started, when the process is gone that asked for it, whose session it must not share.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from app.commands.client import Client, CommandFailed
from app.demonstration.flow import get_dataset, get_model, write_recipe
from app.settings import Settings
from app.system.files import private_files
from app.system.installation import inherit_environment, module_command

LOOK_SECONDS = 1.0


def main() -> int:
    folder = Path(sys.argv[1])
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    try:
        with private_files():
            made = subprocess.run(module_command("worker.demonstration", str(folder)), env=inherit_environment(), check=False)
        if made.returncode:
            raise CommandFailed(f"The demonstration's models could not be made (status {made.returncode}).")
        say(f"ready {register(Client(Settings()), folder)}")
    except CommandFailed as failed:
        say(failed.detail)
        return 1
    return 0


def end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def register(client: Client, folder: Path) -> str:
    """Upload the data, register the models, and return the launch form's fields as a query. Raises CommandFailed."""
    dataset = get_dataset(client, folder / "preferences.jsonl")
    say("data: uploaded")
    policy, reward = (get_model(client, folder.parents[1], folder / kind, kind) for kind in ("policy", "reward"))
    return urlencode(dict(flatten(write_recipe(dataset["id"], policy["id"], reward["id"], seed=0))))


def flatten(recipe: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Return a recipe's settings by their dotted paths."""
    return [
        pair
        for name, value in recipe.items()
        for pair in (flatten(value, f"{before}{name}.") if isinstance(value, Mapping) else [(f"{before}{name}", value)])
    ]


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
