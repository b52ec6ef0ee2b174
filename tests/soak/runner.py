"""The runner of the soak: a run named `real…` is really trained, any other has the stand-in, which steps without torch.

python runner.py ATTEMPT_DIR
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.flow.stand_in import Runner

PAUSE_SECONDS = 0.1


def main(folder: Path) -> None:
    recipe = json.loads((folder / "spec.json").read_text())["recipe"]
    if recipe["name"].startswith("real"):
        os.execv(sys.executable, [sys.executable, "-m", "worker.runner", str(folder)])
    Runner(folder).run(recipe["training"]["steps"], PAUSE_SECONDS, {})


if __name__ == "__main__":
    main(Path(sys.argv[-1]))
