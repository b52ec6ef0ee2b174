"""The stand-in for the runner, with checkpoints as folders that carry a manifest, as the real runner keeps them."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.flow import stand_in

KEEP = 2


class Runner(stand_in.Runner):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder_of_all = Path(self.spec["run_dir"]) / "checkpoints"
        self.checkpoint = self.newest()

    def newest(self) -> Path:
        found = sorted(self.folder_of_all.glob("step-*"))
        return found[-1] / "state.json" if found else self.folder_of_all / "none"

    def save(self, step: int) -> None:
        target, temporary = self.folder_of_all / f"step-{step:06d}", self.folder_of_all / f".step-{step:06d}.1.part"
        temporary.mkdir(parents=True, exist_ok=True)
        state = json.dumps(step).encode()
        (temporary / "state.json").write_bytes(state)
        files = {"state.json": {"size_bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}}
        (temporary / "manifest.json").write_text(json.dumps({"format": 1, "step": step, "files": files}))
        if target.exists():
            shutil.rmtree(target)
        os.rename(temporary, target)  # noqa: PTH104
        for old in sorted(self.folder_of_all.glob("step-*"))[:-KEEP]:
            shutil.rmtree(old)
        self.write("checkpoint", step=step, name=target.name, size_bytes=1)


if __name__ == "__main__":
    stand_in.Runner = Runner  # type: ignore[misc]
    stand_in.main(sys.argv[1:])
