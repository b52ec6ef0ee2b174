"""A stand-in for the runner: the same protocol (spec in, spool out, checkpoints, cancel file, signals), no torch, any mishap.

    python stand_in.py [steps=20] [pause=0.02] [mishap@step] … ATTEMPT_DIR

Mishaps happen in the first attempt only, or in each with a `!` behind: kill (SIGKILL itself), exit (status 3), fail
(outcome failed), hopeless (failed, no retry), leave (interrupted, unasked), deaf (ignores every request and hangs),
torn (half a line, then the rest 0.3 s later), child (leaves a grandchild that outlives it), silent (ends without an outcome).
"""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

CHECKPOINT_EVERY = 5


class Runner:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec = json.loads((folder / "spec.json").read_text())
        self.checkpoint = Path(self.spec["run_dir"]) / "checkpoints" / "stand-in.json"
        self.spool = (folder / "events.jsonl").open("ab")
        self.n = 0
        self.terminated = False
        signal.signal(signal.SIGTERM, self.on_terminate)

    def on_terminate(self, *_: object) -> None:
        self.terminated = True

    def line(self, kind: str, **payload: object) -> bytes:
        self.n += 1
        return json.dumps({"n": self.n, "at": datetime.now(UTC).isoformat(), "kind": kind, "payload": payload}).encode() + b"\n"

    def write(self, kind: str, **payload: object) -> None:
        self.spool.write(self.line(kind, **payload))
        self.spool.flush()

    def end(self, outcome: str, status: int, **more: object) -> None:
        self.write("outcome", outcome=outcome, **more)
        sys.exit(status)

    def save(self, step: int) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_suffix(".tmp")
        temporary.write_text(json.dumps(step))
        temporary.replace(self.checkpoint)
        self.write("checkpoint", step=step, name=f"step-{step:06d}", size_bytes=1)

    def obey(self, step: int) -> None:
        if os.getppid() != self.spec["supervisor_pid"] or self.terminated:
            self.save(step)
            self.end("interrupted", 12, reason="asked to stop")
        if (self.folder / "cancel").exists():
            self.end("cancelled", 11)

    def run(self, steps: int, pause: float, mishaps: dict[int, str]) -> None:
        start = json.loads(self.checkpoint.read_text()) if self.checkpoint.exists() else 0
        if start:
            self.write("resume", attempt=self.spec["attempt"], step=start, checkpoint=f"step-{start:06d}")
        self.write("stage", stage="train", total=steps, unit="steps")
        for step in range(start + 1, steps + 1):
            self.obey(step - 1)
            self.suffer(mishaps.get(step, ""), step, steps)
            self.write("step", **self.measure(step, steps))
            if step % CHECKPOINT_EVERY == 0:
                self.save(step)
            time.sleep(pause)
        if "silent" not in mishaps.values():
            self.end("succeeded", 0, summary={"loss": 1.0 / steps})

    @staticmethod
    def measure(step: int, steps: int) -> dict[str, object]:
        return {
            "step": step, "num_steps": steps, "epoch": step / steps, "batch": step - 1, "metrics": {"loss": 1.0 / step},
            "histogram": [0, 1], "seconds_left": 0.1 * (steps - step),
        }  # fmt: skip

    def suffer(self, mishap: str, step: int, steps: int) -> None:
        if mishap == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if mishap == "exit":
            sys.stderr.write("Traceback: the stand-in fell over\n")
            sys.exit(3)
        if mishap == "fail":
            self.end("failed", 10, reason="It failed.", remedy="Try again.")
        if mishap == "hopeless":
            self.end("failed", 10, reason="CUDA is out of memory.", remedy="Lower micro_batch_size.", retry=False)
        if mishap == "leave":
            self.end("interrupted", 12, reason="it felt like leaving")
        if mishap == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        if mishap == "child":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        if mishap == "torn":
            text = self.line("log", level="info", text="in two halves")
            self.spool.write(text[:20])
            self.spool.flush()
            time.sleep(0.3)
            self.spool.write(text[20:])
            self.spool.flush()


def main(arguments: list[str]) -> None:
    runner = Runner(Path(arguments[-1]))
    steps, pause, mishaps = 20, 0.02, {}
    for argument in arguments[:-1]:
        if "=" in argument:
            name, value = argument.split("=")
            steps, pause = (int(value), pause) if name == "steps" else (steps, float(value))
        else:
            mishap, at = argument.split("@")
            if runner.spec["attempt"] == 1 or at.endswith("!"):
                mishaps[int(at.rstrip("!"))] = mishap.removesuffix("!")
    sys.stderr.write("the stand-in begins\n")
    runner.run(steps, pause, mishaps)


if __name__ == "__main__":
    main(sys.argv[1:])
