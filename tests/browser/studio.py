"""A studio for the browser: the real web process on a free port, and a writer that plays a worker without torch.

The writer claims runs and records events through the services that the supervisor uses, so the pages see what a real run
would write, as fast or as slowly as a test wants.
"""

import math
import os
import random
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.domain.dataset import Audit
from app.domain.events import Event, OutcomeReached, SpoolLine
from app.domain.metrics import WEIGHT_EDGES
from app.domain.recipe import Recipe
from app.domain.run import Outcome
from app.services import accounts, attempts, recordings, runs
from app.settings import Settings
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.tables import Dataset, Model, User
from app.system.identifiers import new_id
from tests import warm
from tests.flow.studio import free_port
from tests.waiting import END_SECONDS

CHECKOUT = Path(__file__).resolve().parents[2]
PROMPTS = (
    "My parcel says delivered but it isn't here. What now?",
    "How do I change the address of an order I placed an hour ago?",
    "The app logs me out every time I open it.",
)
KIND = (
    "I'm sorry about that, and thank you for telling us. Please check with a neighbour first; "
    "if it isn't there, reply with the order number and I will send a replacement today."
)
CURT = "Not our problem. Ask the carrier. Parcels get lost sometimes and that is how it is."


@dataclass
class WebStudio:
    """The process, its address, and the same database and files from within the test."""

    settings: Settings
    url: str
    process: subprocess.Popen[bytes]
    database: Database
    files: Files
    user: User
    cookie: str
    policy: Model
    reward: Model
    dataset: Dataset

    def recipe(self, **changes: Any) -> Recipe:
        parts = {
            "name": "Kind help desk",
            "dataset": self.dataset.id,
            "policy": {"model": self.policy.id, "adaptation": "lora"},
            "reward": {"source": "model", "model": self.reward.id},
            "weights": {"preset": "length_normalised", "lambda": 0.3},
            "evaluation": {"num_prompts": 32},
        }
        return Recipe.model_validate({**parts, **changes})

    def launch(self, **changes: Any) -> str:
        with self.database.writing() as session:
            return runs.launch(session, self.user.id, self.recipe(**changes)).id

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(END_SECONDS)
        self.database.close()


def start_studio(data_dir: Path) -> WebStudio:
    """Rows first, then the web process; returns once it answers."""
    port = free_port()
    settings = Settings(_env_file=None, data_dir=data_dir, port=port, model_roots=[data_dir / "models-of-mine"])
    database, files = Database(settings), Files(settings.root)
    database.migrate()
    user, cookie = sign_up(database)
    dataset, policy, reward = stock(database, files, user)
    process = start_web(data_dir, port)
    return WebStudio(settings, f"http://127.0.0.1:{port}", process, database, files, user, cookie, policy, reward, dataset)


def start_web(data_dir: Path, port: int) -> subprocess.Popen[bytes]:
    """The web process on this port, once it answers."""
    environment = {**os.environ, "STUDIO_DATA_DIR": str(data_dir), "STUDIO_PORT": str(port), "STUDIO_POLL_SECONDS": "0.2"}
    environment["STUDIO_MODEL_ROOTS"] = str(data_dir / "models-of-mine")
    command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port), "--log-level", "warning"]
    with (data_dir / "web.log").open("ab") as log:
        process: subprocess.Popen[bytes] = warm.Popen(command, cwd=CHECKOUT, env=environment, stdout=log, stderr=log)
    wait_for(f"http://127.0.0.1:{port}/healthz", process, data_dir / "web.log")
    return process


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"the web process did not answer: {log.read_text(encoding='utf-8')}")


def sign_up(database: Database) -> tuple[User, str]:
    with database.writing() as session:
        user = accounts.ensure_admin(session)
        return user, accounts.redeem_login(session, accounts.create_login_link(session, user))


def stock(database: Database, files: Files, user: User) -> tuple[Dataset, Model, Model]:
    """A ready data set, whose examples are not read here, and two models."""
    audit = Audit(
        num_rows=640, num_kept_rows=640, num_examples=640, num_responses=1280, num_pairs=640, has_rating=True, has_preference=True
    )
    with database.writing() as session:
        at = now(session)
        dataset = Dataset(
            id=new_id("data"),
            owner_id=user.id,
            name="Help desk pairs",
            state="ready",
            filename="help-desk.jsonl.gz",
            size_bytes=412_345,
            sha256="a" * 64,
            mapping=None,
            audit=audit.model_dump(mode="json"),
            error=None,
            num_examples=640,
            created_at=at,
        )
        policy, reward = (
            Model(
                id=new_id("model"),
                owner_id=user.id,
                name=name,
                kind=kind,
                source="hub",
                path=path,
                revision="main",
                facts={"architecture": architecture, "num_parameters": size, "has_chat_template": True},
                created_at=at,
            )
            for kind, name, path, architecture, size in (
                ("policy", "SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct", "LlamaForCausalLM", 134_515_008),
                ("reward", "Kindness judge", "studio/kindness-judge", "LlamaForSequenceClassification", 134_515_584),
            )
        )
        session.add_all([dataset, policy, reward])
    return dataset, policy, reward


@dataclass
class Writer:
    """Plays the worker of one run: claims it, then records what the test asks for."""

    studio: WebStudio
    num_steps: int = 200
    run_id: str = ""
    token: int = 0
    n: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(7))

    def begin(self, run_id: str) -> None:
        """Claim this run, and whatever waits before it."""
        while self.run_id != run_id:
            self.claim()

    def claim(self) -> None:
        with self.studio.database.writing() as session:
            attempts.beat(
                session,
                "gpu-box-1",
                hostname="gpu-box-1",
                devices=[{"index": index, "name": name} for index, name in enumerate(["NVIDIA H200"] * 4)],
                slots=1,
                load={"lease_seconds": 600.0},
            )
            claim = attempts.begin(session, "gpu-box-1", 600)
            assert claim is not None
            attempts.open_spool(session, claim)
        self.run_id, self.token, self.n = claim.run_id, claim.token, 0

    def say(self, *events: dict[str, Any] | Event) -> None:
        lines = []
        for event in events:
            payload = event.model_dump(mode="json") if isinstance(event, Event) else dict(event)
            self.n += 1
            lines.append(SpoolLine(n=self.n, at=datetime.now(UTC).isoformat(), kind=payload.pop("kind"), payload=payload))
        with self.studio.database.writing() as session:
            recordings.record(session, self.run_id, self.token, lines)

    def steps(self, first: int, last: int) -> None:
        self.say(*(self.step(step) for step in range(first, last + 1)))

    def step(self, step: int) -> dict[str, Any]:
        """One step's event, of a run that learns: effective sample size falls a little, the weight follows the reward more."""
        share = step / self.num_steps
        noise = self.chance.gauss
        weights = [math.exp(noise(-1.2 * share, 0.6 + 0.5 * share)) for _ in range(16)]
        ess = sum(weights) ** 2 / sum(w * w for w in weights) / 16
        chosen = min(0.97, 0.55 + 0.33 * share + noise(0, 0.03))
        metrics = {
            "loss": 2.1 * math.exp(-1.6 * share) + 0.9 + noise(0, 0.06),
            "learning_rate": 1e-5 * 0.5 * (1 + math.cos(math.pi * share)),
            "grad_norm": 1.4 * math.exp(-share) + abs(noise(0, 0.15)),
            "tokens_per_second": 5200 + noise(0, 120),
            "peak_memory_bytes": 6.1e9 + 1e9 * min(1.0, share * 8),
            "step_seconds": 0.4,
            "weight/ess": ess * 16,
            "weight/ess_share": ess,
            "weight/share_chosen": chosen,
            "weight/share_rejected": 1 - chosen,
            "weight/share_above": max(0.0, 0.04 + noise(0, 0.02)),
            "weight/share_below": max(0.0, 0.1 + 0.3 * share + noise(0, 0.03)),
            "weight/spearman_reward": min(0.99, 0.7 + 0.2 * share + noise(0, 0.05)),
            "weight/spearman_length": -0.1 + noise(0, 0.12),
            "reward/chosen": 0.9 + noise(0, 0.2),
            "reward/rejected": -0.7 + noise(0, 0.2),
            "reward/gap": 1.6 + noise(0, 0.1),
        }
        left = 0.4 * (self.num_steps - step)
        return {
            "kind": "step",
            "step": step,
            "num_steps": self.num_steps,
            "epoch": share,
            "batch": step - 1,
            "metrics": metrics,
            "histogram": histogram(weights),
            "seconds_left": left,
        }

    def evaluate(self, step: int) -> None:
        share = step / self.num_steps
        win = 0.5 + 0.36 * share
        policy = 0.43 + 3.4 * (1 - math.exp(-2.2 * share))
        self.say(
            {
                "kind": "evaluation",
                "step": step,
                "metrics": {
                    "eval/reward_policy": policy,
                    "eval/reward_reference": 0.43,
                    "eval/reward_gain": policy - 0.43,
                    "eval/win_rate": win,
                    "eval/win_rate_low": win - 0.12,
                    "eval/win_rate_high": min(1.0, win + 0.11),
                    "eval/kl": 2.2 * share,
                    "eval/length_policy": 42 - 3 * share,
                    "eval/length_reference": 42.0,
                    "eval/loss": 2.4 - 0.9 * share,
                },
            },
            *(self.sample(step, index, prompt) for index, prompt in enumerate(PROMPTS)),
        )

    def sample(self, step: int, index: int, prompt: str) -> dict[str, Any]:
        kind = step / self.num_steps > 0.2 * (index + 1)
        return {
            "kind": "sample",
            "step": step,
            "index": index,
            "example_id": 600 + index,
            "prompt": [{"role": "user", "content": prompt}],
            "reference": CURT,
            "policy": KIND if kind else CURT,
            "reference_reward": -0.8,
            "policy_reward": 2.9 if kind else -0.8,
        }

    def prepare(self, *, weights: bool = True) -> None:
        self.say(
            {"kind": "stage", "stage": "prepare", "total": 640, "unit": "examples"},
            {"kind": "log", "level": "info", "text": "Tokenized 640 examples: 12 prompts truncated"},
            {"kind": "progress", "stage": "prepare", "done": 640, "total": 640},
            {"kind": "stage", "stage": "score", "total": 80, "unit": "batches"},
            {"kind": "progress", "stage": "score", "done": 80, "total": 80},
            {"kind": "log", "level": "info", "text": "Scored 80 batches: 640 × 16 pairs in 41 s"},
            {"kind": "stage", "stage": "train", "total": self.num_steps, "unit": "steps"},
        )
        if weights:
            self.write_weights()

    def write_weights(self) -> None:
        """artifacts/weights.parquet, as the training stage writes it."""
        rows = [
            {
                "batch": batch,
                "example_id": batch * 8 + row // 2,
                "response": row % 2,
                "preference": 1 - 2 * (row % 2),
                "num_tokens": 30 + row,
                "logprob_ref": -40.0 - row,
                "reward": 1.5 - row * 0.2,
                "weight": math.exp(-row / 4),
            }
            for batch in range(self.num_steps)
            for row in range(16)
        ]
        folder = self.studio.files.artifacts_dir(self.run_id)
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "weights.parquet")

    def tell_final(self) -> None:
        figures = {
            "num_prompts": 128, "num_preferences": 128, "reward_gain": 3.02, "reward_gain_low": 2.61, "reward_gain_high": 3.44,
            "win_rate": 0.859, "win_rate_low": 0.79, "win_rate_high": 0.91, "kl": 2.14, "kl_low": 1.97, "kl_high": 2.36,
            "preference_accuracy": 0.71, "preference_accuracy_low": 0.63, "preference_accuracy_high": 0.78,
            "preference_margin": 1.42, "preference_margin_low": 0.9, "preference_margin_high": 1.93,
            "loss": 1.52, "length_policy": 39.1, "unfinished_policy": 0.016,
        }  # fmt: skip
        self.say({"kind": "final", "step": self.num_steps, "metrics": {f"test/{key}": value for key, value in figures.items()}})

    def finish(self) -> None:
        self.say(
            {"kind": "checkpoint", "step": self.num_steps, "name": f"step-{self.num_steps:06}", "size_bytes": 12_400_000},
            *(
                {"kind": "artifact", "name": name, "title": title, "size_bytes": size, "sha256": f"{size:064x}"}
                for name, title, size in (
                    ("model/model.safetensors", "The trained policy", 269_060_552),
                    ("model/config.json", "The trained policy", 861),
                    ("adapter/adapter_model.safetensors", "The LoRA adapter", 4_884_568),
                    ("weights.parquet", "Weights of every batch", 91_234),
                    ("samples.jsonl", "Side-by-side generations", 48_120),
                )
            ),
        )
        with self.studio.database.writing() as session:
            attempts.finish(
                session, self.run_id, self.token, OutcomeReached(outcome=Outcome.SUCCEEDED, summary={"eval/reward_gain": 3.02})
            )


def histogram(weights: list[float]) -> list[int]:
    """Counts per bin of WEIGHT_EDGES, with one below and one above."""
    counts = [0] * (len(WEIGHT_EDGES) + 1)
    for weight in weights:
        counts[sum(weight >= edge for edge in WEIGHT_EDGES)] += 1
    return counts
