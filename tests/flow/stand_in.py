"""A stand-in for the runner: the same protocol (spec in, spool out, checkpoints, cancel file, signals), no torch, any mishap.

    python stand_in.py [steps=20] [pause=0.02] [mishap@step] … ATTEMPT_DIR

Mishaps happen in the first attempt only, or in each with a `!` behind: kill (SIGKILL itself), exit (status 3), fail
(outcome failed), hopeless (failed, no retry), leave (interrupted, unasked), deaf (ignores every request and hangs),
torn (half a line, then the rest 0.3 s later), child (leaves a grandchild that outlives it), silent (ends without an outcome),
wait (until it is told to stop, or the run's folder holds a file `go`, or `go-N` for the wait at step N).
"""

import contextlib
import hashlib
import json
import os
import shutil
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
        self.checkpoints = Path(self.spec["run_dir"]) / "checkpoints"
        self.record = Path(self.spec["run_dir"]) / "artifacts" / "metrics.jsonl"
        self.record.parent.mkdir(parents=True, exist_ok=True)
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
        name = f"step-{step:06d}"
        temporary = self.checkpoints / f".{name}.part"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        (temporary / "state.json").write_text(json.dumps(step))
        shutil.rmtree(self.checkpoints / name, ignore_errors=True)
        temporary.rename(self.checkpoints / name)
        self.write("checkpoint", step=step, name=name, size_bytes=1)
        for old in self.list_checkpoints()[:-2]:
            shutil.rmtree(self.checkpoints / old)

    def list_checkpoints(self) -> list[str]:
        return sorted(path.name for path in self.checkpoints.glob("step-*"))

    def resume(self) -> int:
        """The step of the newest checkpoint that can be read; the record is cut back to it."""
        start = 0
        for name in self.list_checkpoints():
            with contextlib.suppress(ValueError, OSError):
                start = int(json.loads((self.checkpoints / name / "state.json").read_text()))
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        self.record.write_text("".join(f"{line}\n" for line in lines[:start]))
        return start

    def obey(self, step: int) -> None:
        if os.getppid() != self.spec["supervisor_pid"] or self.terminated:
            self.save(step)
            self.end("interrupted", 12, reason="asked to stop")
        if (self.folder / "cancel").exists():
            self.end("cancelled", 11)

    def run(self, steps: int, pause: float, mishaps: dict[int, str]) -> None:
        start = self.resume()
        if start:
            self.write("resume", attempt=self.spec["attempt"], step=start, checkpoint=f"step-{start:06d}")
        self.write("stage", stage="train", total=steps, unit="steps")
        for step in range(start + 1, steps + 1):
            self.obey(step - 1)
            self.suffer(mishaps.get(step, ""), step, steps)
            self.write("step", **self.measure(step, steps))
            with self.record.open("a") as record:
                record.write(json.dumps({"step": step, "loss": 1.0 / step}) + "\n")
            if step % CHECKPOINT_EVERY == 0:
                self.save(step)
            time.sleep(pause)
        if "silent" not in mishaps.values():
            content = self.record.read_bytes()
            facts = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            self.write("artifact", name="metrics.jsonl", title="Every metric of every step", **facts)
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
        signs = [Path(self.spec["run_dir"]) / name for name in ("go", f"go-{step}")]
        while mishap == "wait" and not any(sign.exists() for sign in signs):
            self.obey(step - 1)
            time.sleep(0.02)
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
