"""The demonstration's way through the studio: start, make, upload, register, launch, watch, judge, serve."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from app.commands.client import Client, CommandFailed, token_path
from app.commands.events import follow
from app.commands.up import Children, check_address, prepare
from app.demonstration.making import Making
from app.demonstration.result import AnswerPair, Result, show, verdict
from app.services.accounts import LOGIN_LINK_HOURS
from app.settings import Settings
from app.store.files.files import DEMONSTRATION, make_root
from app.system.files import hash_file, private_files
from app.system.installation import find_untrainable, inherit_environment, module_command

NAME = "Help desk"
RUN_NAME = "Help desk, kind and specific"
MAX_WIDTH = 120
POLL_SECONDS = 0.5
FINAL_METRICS = ("test/kl", "test/kl_low", "test/kl_high", "test/length_policy", "test/length_reference")
WEIGHT_METRICS = ("weight/ess_share", "weight/spearman_length", "weight/spearman_reward")


def demo(
    exit_: Annotated[bool, typer.Option("--exit", help="End after the result instead of serving on.")] = False,
    port: Annotated[int | None, typer.Option(min=1, max=65535)] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where everything is kept.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the data, the models and the run.")] = 0,
    scale: Annotated[float, typer.Option(min=0.01, max=1, hidden=True)] = 1.0,
) -> None:
    """A whole alignment from nothing: make data, train a policy and a reward model, run VAR, show what it changed.

    Exit status 0: the aligned policy is clearly better on held-out prompts; 1: it isn't, or something failed.
    """
    if obstacle := find_untrainable():
        raise CommandFailed(obstacle)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else MAX_WIDTH)
    settings = settle(console, port, data_dir)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    console.print("Making data and two tiny models; the studio starts meanwhile.")
    folder = folder_of(settings, seed, scale)
    with (
        private_files(),
        Making(folder, workplace(settings) / "making.log", seed=seed, scale=scale) as making,
        studio(settings, console) as children,
    ):
        making.follow(console)
        result = align(settings, folder, seed, console)
        show(result, console)
        console.print()
        console.print(verdict(result), markup=False, style="yellow" if result.missed() else "bold green")
        console.print(f"Everything took {time.monotonic() - started:.0f} s.")
        if not exit_:
            serve(children, settings, console)
    sys.exit(1 if result.missed() else 0)


def settle(console: Console, port: int | None, data_dir: Path | None) -> Settings:
    """Our settings, with a port that is free, and a folder for data and models."""
    given = {"port": port, "data_dir": data_dir}
    settings = Settings(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    try:
        check_address(settings)
    except CommandFailed:
        taken, settings = settings.port, settings.model_copy(update={"port": free_port(settings.host)})
        console.print(f"Port {taken} is taken, so the demonstration uses {settings.port}.")
    make_root(settings.root)
    workplace(settings).mkdir(mode=0o700, exist_ok=True)
    os.environ.setdefault("STUDIO_RUNNER_THREADS", "1")  # models this small gain nothing from more, and lose on a busy machine
    return settings


def workplace(settings: Settings) -> Path:
    """Below data_dir; what the studio registers from it stays usable under a plain `varstudio up`."""
    return settings.root / DEMONSTRATION


def folder_of(settings: Settings, seed: int, scale: float) -> Path:
    """Return where data and models of this kind are; those of another seed stay as they are, since runs may use them."""
    return workplace(settings) / f"seed-{seed}{'' if scale == 1 else f'-scale-{scale:g}'}"


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def studio(settings: Settings, console: Console) -> Iterator[Children]:
    """Provide the web and a worker, as `varstudio up` starts them; their output goes to a file.

    Raises: CommandFailed when one of them ends by itself.
    """
    secret = prepare(settings)
    children, log, leaving = Children(settings, no_worker=False), workplace(settings) / "studio.log", threading.Event()
    with log.open("ab") as output:
        children.start(output)
    threading.Thread(target=interrupt_when_one_ends, args=(children, leaving), daemon=True).start()
    try:
        if not children.wait_for_web():
            raise KeyboardInterrupt
        greet(settings, secret, console)
        yield children
    except KeyboardInterrupt:
        if ended := find_ended(children):
            raise CommandFailed(f"The {ended} process ended by itself. The end of {log} says why.") from None
        raise
    finally:
        leaving.set()
        children.end_all()


def find_ended(children: Children) -> str | None:
    return next((name for name, process in children.processes.items() if process.poll() is not None), None)


def interrupt_when_one_ends(children: Children, leaving: threading.Event) -> None:
    """Nothing may wait for a worker that is gone: the main thread, blocked in a stream, is woken as by Ctrl-C."""
    while not leaving.wait(POLL_SECONDS):
        if find_ended(children):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            return


def greet(settings: Settings, secret: str | None, console: Console) -> None:
    """Where to watch."""
    console.print(f"VAR Studio is at {settings.url}", markup=False)
    if secret is not None:
        console.print(
            f"Sign in (once, within {LOGIN_LINK_HOURS} hours): {settings.url}/login/{secret}", markup=False, soft_wrap=True
        )
    else:
        console.print("Somebody is signed in already; varstudio login-link makes a new link for another browser.")


def align(settings: Settings, folder: Path, seed: int, console: Console) -> Result:
    """Upload, register, launch and watch, all over REST; returns what came of it."""
    url = f"http://{settings.host}:{settings.port}"
    client = Client(
        settings.model_copy(update={"server_url": url, "token": token_path(settings).read_text(encoding="utf-8").strip()})
    )
    dataset = get_dataset(client, folder / "preferences.jsonl")
    policy, reward = (get_model(client, settings.root, folder / kind, kind) for kind in ("policy", "reward"))
    console.print(f"Uploaded {dataset['num_examples']} preference pairs, registered policy and reward model.")
    cancel_unfinished(client)
    run = client.post("/runs", write_recipe(dataset["id"], policy["id"], reward["id"], seed))
    console.print(f"Launched {run['name']}: {settings.url}/runs/{run['id']}", markup=False, soft_wrap=True)
    follow(client, run["id"])
    if scoring := client.get(f"/runs/{run['id']}").get("scoring_id"):
        address = f"{settings.url}/scorings/{scoring}"
        console.print(f"What other λ would weigh, and what the rewards know: {address}", markup=False, soft_wrap=True)
    return collect(client, run["id"])


def get_dataset(client: Client, path: Path) -> dict[str, Any]:
    """Return the uploaded file: an earlier demonstration's when it is the same byte for byte.

    Raises: CommandFailed.
    """
    digest = hash_file(path)
    for known in client.get("/datasets", state="ready", limit=200)["items"]:
        if known["sha256"] == digest:
            return dict(known)
    with path.open("rb") as content:
        dataset = client.post("/datasets", files={"file": (path.name, content)}, data={"name": NAME})
    while dataset["state"] == "processing":
        time.sleep(POLL_SECONDS)
        dataset = client.get(f"/datasets/{dataset['id']}")
    if dataset["state"] != "ready":
        raise CommandFailed(f"The data set could not be read: {(dataset['error'] or {}).get('detail', dataset['state'])}")
    return dict(dataset)


def get_model(client: Client, root: Path, folder: Path, kind: str) -> dict[str, Any]:
    """Return the registered model of this folder: an earlier one while its files are unchanged."""
    for known in client.get("/models", kind=kind, limit=200)["items"]:
        if root / known["path"] == folder and client.get(f"/models/{known['id']}/check")["ok"]:
            return dict(known)
    return dict(client.post("/models", {"kind": kind, "source": "folder", "path": str(folder), "name": f"{NAME} {kind}"}))


def cancel_unfinished(client: Client) -> None:
    """What a demonstration that was stopped half-way has left would be trained first."""
    for state in ("queued", "paused", "running", "interrupted"):
        for run in client.get("/runs", state=state, limit=200)["items"]:
            if run["name"] == RUN_NAME:
                client.post(f"/runs/{run['id']}/cancel")


def write_recipe(dataset: str, policy: str, reward: str, seed: int) -> dict[str, Any]:
    """Return what is launched. λ = 0.4 keeps the weights healthy; 0.3 gains more, but now and then one response takes the
    batch.
    """
    return {
        "name": RUN_NAME,
        "dataset": dataset,
        "policy": {"model": policy},
        "reward": {"source": "model", "model": reward},
        "weights": {"preset": "length_normalised", "lambda": 0.4, "reward_norm": "zscore"},
        "tokens": {"max_prompt": 48, "max_response": 80},
        "training": {"batch_size": 8, "epochs": 2, "learning_rate": 1e-3, "seed": seed},
        "evaluation": {
            "share": 0.2, "test_share": 0.8, "every": 40, "num_prompts": 24, "num_test_prompts": 160, "num_samples_shown": 12,
            "max_new_tokens": 80, "seed": seed,
        },
    }  # fmt: skip


def collect(client: Client, run_id: str) -> Result:
    """Answers to the test prompts with rewards and true scores, metrics and findings of a run that has ended."""
    lines = client.send("GET", f"/runs/{run_id}/artifacts/samples.jsonl").text.splitlines()
    drawn = [json.loads(line) for line in lines]
    samples = [sample for sample in drawn if sample["set"] == "test"]
    prompts = [sample["prompt"][-1]["content"] for sample in samples]
    both = [[sample[name] for sample in samples] for name in ("reference", "policy")]
    base_scores, aligned_scores = (judge(prompts, [answer["text"] for answer in answers]) for answers in both)
    answers = [
        AnswerPair(prompt, base["text"], aligned["text"], base["reward"], aligned["reward"], base_score, aligned_score)
        for prompt, base, aligned, base_score, aligned_score in zip(prompts, *both, base_scores, aligned_scores, strict=True)
    ]
    if not answers:
        raise CommandFailed("The run has drawn no samples, so there is nothing to compare.")
    series = client.get(f"/runs/{run_id}/metrics", keys=",".join(FINAL_METRICS + WEIGHT_METRICS), points=5000)
    values = {key: [value for _, value in points["points"] if value is not None] for key, points in series.items()}
    metrics = {key: found[-1] if key in FINAL_METRICS else statistics.fmean(found) for key, found in values.items() if found}
    findings = [item["payload"] for item in client.get(f"/runs/{run_id}/findings")["items"]]
    return Result(answers, metrics, findings)


def judge(prompts: list[str], answers: list[str]) -> list[float]:
    """Return the true scores, asked of the worker's side, which made the help desk.

    Raises: CommandFailed.
    """
    lines = [json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in zip(prompts, answers, strict=True)]
    command = module_command("worker.demonstration.judge")
    done = subprocess.run(
        command, env=inherit_environment(), input="\n".join(lines), capture_output=True, encoding="utf-8", check=False
    )
    if done.returncode:
        raise CommandFailed(f"The answers could not be judged: {done.stderr.strip()[-400:]}")
    return [float(line) for line in done.stdout.split()]


def serve(children: Children, settings: Settings, console: Console) -> None:
    """Go on until Ctrl-C, or until the web or the worker ends."""
    console.print(f"The studio goes on at {settings.url}; Ctrl-C stops it.", markup=False)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        if find_ended(children):
            raise
        console.print("Stopping.")
