"""`varstudio` as a user types it: a real studio behind it, sentences when something is wrong."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import select

from app import cli
from app.commands import up
from app.commands.datasets import places
from app.commands.up import describe_missing_roots
from app.settings import Settings
from app.store.database import Database
from app.store.files.files import Files
from app.store.tables import Run, Scoring
from tests.browser.scorer import Previewer
from tests.flow.studio import free_port
from tests.planted import plant
from tests.scored import make_facts
from tests.store.files.answering import answering
from tests.waiting import END_SECONDS, wait_until

ROOT = Path(__file__).resolve().parents[2]
PAIRS = "".join(json.dumps({"prompt": f"Q {n}?", "chosen": f"Kind {n}.", "rejected": f"Rude {n}."}) + "\n" for n in range(20))
START_SECONDS = 60


@dataclass
class Shell:
    """A terminal in a folder of its own, with nothing of ours in the environment."""

    folder: Path
    environment: dict[str, str]

    def __call__(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command, carried out in this process: starting Python for each would take most of the time."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(stdout), redirect_stderr(stderr):
            for name in list(os.environ):
                if name.startswith("STUDIO_"):
                    patch.delenv(name)
            for name, value in {**self.environment, **environment}.items():
                patch.setenv(name, value)
            patch.chdir(self.folder)
            try:
                status = cli.run([str(argument) for argument in arguments])
            except SystemExit as end:
                status = int(end.code or 0)
        return subprocess.CompletedProcess(arguments, status, stdout.getvalue(), stderr.getvalue())

    def must(self, *arguments: object) -> str:
        done = self(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *arguments: object, status: int = 1, **environment: str) -> str:
        """The sentence of a command that can't do what was asked."""
        done = self(*arguments, **environment)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.strip()
        return done.stderr.strip()


def make_shell(folder: Path, **environment: str) -> Shell:
    base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "STUDIO_PORT": str(free_port())}
    return Shell(folder, {**base, **environment})


def start(shell: Shell, *options: str) -> tuple[subprocess.Popen[str], list[str]]:
    """`varstudio up`, and what it has printed when the studio answers."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "app.cli", "up", *options],
        cwd=shell.folder, env=shell.environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        return process, [process.stdout.readline(), process.stdout.readline()]


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Iterator[Shell]:
    """A terminal beside a running studio without a worker."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "models").mkdir()
    shell = make_shell(folder, STUDIO_MODEL_ROOTS=str(folder / "models"))
    ran = plant(folder)  # neither the web nor a child of its runs what lies in the working folder
    process, printed = start(shell, "--no-worker")
    assert printed[0].startswith("VAR Studio is at http://127.0.0.1:")
    assert "/login/" in printed[1]
    yield shell
    process.send_signal(signal.SIGTERM)
    assert process.wait(END_SECONDS) == 0
    assert not ran.exists(), ran.read_text()


def field(output: str, name: str) -> str:
    return re.search(rf"^{name} +(.+)$", output, re.MULTILINE)[1]


def test_up_leaves_a_token_that_only_the_user_can_read(shell):
    path = shell.folder / "var" / "cli-token"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (shell.folder / "var").stat().st_mode & 0o777 == 0o700


def test_whatever_lies_in_the_data_folder_is_its_users_alone(shell):
    (shell.folder / "own.jsonl").write_text(PAIRS)
    assert field(shell.must("datasets", "add", "own.jsonl", "--name", "Mine alone"), "state") == "ready"
    found = [path for path in (shell.folder / "var").rglob("*") if path.exists()]
    assert any(path.name == "examples.parquet" for path in found)
    assert [path for path in found if path.stat().st_mode & 0o077] == []


def test_up_names_the_model_roots_that_are_not_there(tmp_path):
    settings = Settings(_env_file=None, model_roots=f"{tmp_path}, {tmp_path}:{tmp_path}/b")
    (sentence,) = describe_missing_roots(settings)
    assert sentence.startswith(f"The folder {tmp_path}:{tmp_path}/b of STUDIO_MODEL_ROOTS does not exist")
    assert "comma" in sentence


def test_commands_find_the_studio_at_the_address_that_up_was_started_at(shell):
    """As after `varstudio up --port …`: nothing in the surroundings says where it listens."""
    port = shell.environment.pop("STUDIO_PORT")
    try:
        assert "id" in shell.must("runs", "list")
        assert shell("runs", "list", STUDIO_URL=f"http://localhost:{port}").returncode == 0
        assert "No token" in shell.fails("runs", "list", STUDIO_URL=f"http://localhost:{int(port) + 1}")
    finally:
        shell.environment["STUDIO_PORT"] = port


def test_the_token_of_this_studio_is_found_by_its_address_too(shell):
    port = shell.environment["STUDIO_PORT"]
    for url in (f"http://127.0.0.1:{port}", f"http://localhost:{port}/", f"HTTP://[::1]:{port}"):
        done = shell("datasets", "list", STUDIO_URL=url)
        assert "No token" not in done.stderr, url
    assert shell("datasets", "list", STUDIO_URL=f"http://localhost:{port}").returncode == 0
    for url in ("http://127.0.0.1:1", f"https://127.0.0.1:{port}", f"http://studio.example:{port}", "http://[::1"):
        assert "No token" in shell.fails("datasets", "list", STUDIO_URL=url)


def test_a_second_up_says_that_the_port_is_taken(shell):
    said = shell.fails("up", "--no-worker", MAKELEVEL="")
    assert "can't be used" in said
    assert "choose another: varstudio up --port 8401." in said
    assert 'choose another: make up ARGS="--port 8401".' in shell.fails("up", "--no-worker", MAKELEVEL="1")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "studio.example"])
def test_up_does_not_listen_to_other_machines_by_accident(shell, host):
    assert "STUDIO_PUBLIC_URL" in shell.fails("up", "--host", host, "--no-worker")


def test_data_sets_are_added_listed_shown_mapped_and_deleted(shell):
    (shell.folder / "pairs.jsonl").write_text(PAIRS)
    (shell.folder / "odd.jsonl").write_text('{"a": "Q?", "b": "Kind.", "c": "Rude."}\n')
    (shell.folder / "mapping.yaml").write_text("shape: pair\ncolumns: {prompt: a, chosen: b, rejected: c}\n")
    added = shell.must("datasets", "add", "pairs.jsonl", "--name", "Help desk")
    assert field(added, "state") == "ready"
    dataset_id = field(added, "id")
    assert f"{dataset_id}  Help desk" in shell.must("datasets", "list", "--mine")
    assert "Help desk is private: only admin and admins see it" in shell.must("datasets", "private", dataset_id)
    assert "admin (private)" in shell.must("datasets", "list")
    assert "shared with all members" in shell.must("datasets", "share", dataset_id)
    assert "20 from 20 rows" in shell.must("datasets", "show", dataset_id)
    assert "Map them" in shell.fails("datasets", "add", "odd.jsonl")
    odd_id = re.search(r"^(data_\S+)  odd", shell.must("datasets", "list"), re.MULTILINE)[1]
    assert field(shell.must("datasets", "map", odd_id, "mapping.yaml"), "state") == "ready"
    assert field(shell.must("datasets", "add", "odd.jsonl", "--mapping", "mapping.yaml"), "examples").startswith("1 ")
    shell.must("datasets", "delete", odd_id)
    assert "no data set" in shell.fails("datasets", "show", odd_id)


def test_models_are_added_listed_and_deleted(shell):
    model_id = field(shell.must("models", "add", "small/policy", "--kind", "policy"), "id")
    assert model_id in shell.must("models", "list", "--kind", "policy")
    assert "allowed folder" in shell.fails("models", "add", "/etc")
    shell.must("models", "delete", model_id)


def launch(shell: Shell) -> str:
    (shell.folder / "pairs.jsonl").write_text(PAIRS)
    dataset_id = field(shell.must("datasets", "add", "pairs.jsonl"), "id")
    policy_id = field(shell.must("models", "add", "small/policy"), "id")
    recipe = {"name": "By file", "dataset": dataset_id, "policy": {"model": policy_id}, "weights": {"lambda": 0.5}}
    (shell.folder / "recipe.yaml").write_text(json.dumps(recipe))
    return shell.must("runs", "launch", "recipe.yaml", "--lambda", "0.3", "--steps", "2").strip()


def test_the_queue_and_the_workers_are_steered(shell):
    first, second = launch(shell), launch(shell)
    assert [line.split()[:2] for line in shell.must("runs", "queue").splitlines()[1:]] == [["1", first], ["2", second]]
    shell.must("runs", "move", second, "--front")
    shell.must("runs", "priority", first, "--", "-5")
    assert shell.must("runs", "pause", second).strip() == "The run is paused."
    rows = [line.split()[:2] for line in shell.must("runs", "queue").splitlines()[1:]]
    assert rows == [["1", first], ["paused", second]]
    paused = shell.must("runs", "list", "--state", "paused")
    assert (second in paused, first in paused) == (True, False)
    assert shell.must("runs", "release", second).startswith("The run is released")
    assert "Say where to" in shell.fails("runs", "move", second)
    assert "no worker 'nowhere'" in shell.fails("runs", "move", second, "--to", "nowhere")
    assert shell.must("workers", "list").split() == ["id", "standing", "host", "devices", "slots", "runs"]
    for verb in ("pause", "resume", "forget"):
        assert "no worker 'nowhere'" in shell.fails("workers", verb, "nowhere")
    for run_id in (first, second):
        shell.must("runs", "cancel", run_id)


def test_runs_are_launched_steered_and_watched(shell):
    run_id = launch(shell)
    run = json.loads(shell.must("runs", "show", run_id))
    assert (run["name"], run["recipe"]["weights"]["lambda"], run["recipe"]["training"]["steps"]) == ("By file", 0.3, 2)
    assert run_id in shell.must("runs", "list", "--state", "queued")
    assert shell.must("runs", "tag", run_id, "kind", "first").strip() == "first, kind"
    assert shell.must("runs", "tag", run_id, "first", "--remove").strip() == "kind"
    shell.must("runs", "note", run_id, "Tried by hand")
    listed = shell.must("runs", "list", "--search", "HAND file", "--tag", "kind", "--sort", "name", "--order", "desc")
    assert [line.split()[0] for line in listed.splitlines()[1:]] == [run_id]
    assert run_id not in shell.must("runs", "list", "--sort", "kl")
    assert "no artifact" in shell.fails("runs", "download", run_id)
    assert shell.must("runs", "cancel", run_id).strip() == "The run is cancelled."
    assert shell.must("runs", "resume", run_id).startswith("The run is queued again")
    shell.must("runs", "cancel", run_id)
    watched = shell("runs", "watch", run_id)
    assert watched.returncode == 1
    assert "Queued" in watched.stdout
    assert "cancelled" in watched.stderr
    assert "already" in shell.fails("runs", "cancel", run_id)
    shell.must("runs", "delete", run_id)


def score(shell: Shell) -> str:
    """A scoring whose facts are known, as if a worker had made it."""
    run_id = launch(shell)
    shell.must("runs", "cancel", run_id)
    scoring_id = shell.must("scorings", "create", "recipe.yaml", "--batch-size", "4").strip()
    shell.must("runs", "cancel", field(shell.must("scorings", "show", scoring_id), "run"))
    with data_of(shell).writing() as session:
        session.get_one(Scoring, scoring_id).facts = make_facts().model_dump(mode="json")
    return scoring_id


def data_of(shell: Shell) -> Database:
    return Database(Settings(_env_file=None, data_dir=shell.folder / "var"))


def test_scorings_are_asked_for_listed_checked_and_deleted(shell):
    scoring_id = score(shell)
    assert f"{scoring_id}  By file  ready" in shell.must("scorings", "list")
    shown = shell.must("scorings", "show", scoring_id)
    assert field(shown, "examples") == "10 in 2 batches of 8"
    assert field(shown, "logprob") == "1280 pairs, 5.12 kB, made in 12.5 s shared, logprob-aaaa"
    checked = shell.must("scorings", "check", scoring_id)
    assert field(checked, "pairs") == "10, 1 of them tied"
    assert field(checked, "longer wins") == "60 % (31 % to 83 %)"
    assert "████" in checked
    assert json.loads(shell.must("scorings", "check", scoring_id, "--json"))["length_accuracy"] == 0.6
    assert shell.must("scorings", "create", "recipe.yaml", "--batch-size", "4", "--watch").strip() == scoring_id
    with data_of(shell).writing() as session:
        run = session.scalars(select(Run).where(Run.kind == "training")).first()
        run.scoring_id = scoring_id
    assert "was used by 1 run, which will stay" in shell.fails("scorings", "delete", scoring_id)
    shell.must("scorings", "delete", scoring_id, "--force")
    assert "no scoring" in shell.fails("scorings", "show", scoring_id)
    assert "--batch-size" in shell.fails("scorings", "create", "recipe.yaml", "--batch-size", "0")


def test_weights_are_previewed_in_the_terminal(shell):
    scoring_id, database = score(shell), data_of(shell)
    query = ("scorings", "preview", scoring_id, "--preset", "paper", "--lambda", "0.05", "--lambda", "2", "--batch-size", "4")
    with Previewer(SimpleNamespace(database=database, files=Files(database.settings.root))):
        shown = shell.must(*query, "--target-ess", "0.4", "--set", "logprob_norm=mean", "--responses")
        asked = json.loads(shell.must(*query, "--flip", "0.1", "--json"))
        drawn = shell.must("scorings", "preview", scoring_id, "--preset", "draws", "--lambda", "0.5", "--batch-size", "8")
    assert len(re.findall(r"^paper +4 +(?:0\.05|2) .*█.*%", shown, re.MULTILINE)) == 2
    assert "ESS 40 %, paper, B 4: λ 0.427" in shown
    assert shown.count("Not our problem") == 20
    assert "draws give" not in shown
    told = "draws, B 8, λ 0.5: the draws give log Z(x) with an error of 0.6 nats; for 0.1 it takes about 144 of each prompt"
    assert told in " ".join(drawn.split())
    assert [cell["lambda"] for cell in asked["cells"]] == [0.05, 2.0]
    assert shell.fails(*query[:3], "--lambda", "0") == "lambda must be greater than 0, not 0."
    assert "--set needs a name" in shell.fails(*query[:3], "--set", "mean")


def test_texts_are_shown_as_tokens_and_measured_in_the_terminal(shell):
    (shell.folder / "pairs.jsonl").write_text(PAIRS)
    dataset_id = field(shell.must("datasets", "add", "pairs.jsonl"), "id")
    model_id = field(shell.must("models", "add", "small/policy"), "id")
    judge_id = field(shell.must("models", "add", "small/judge", "--kind", "reward"), "id")
    database = data_of(shell)
    with Previewer(SimpleNamespace(database=database, files=Files(database.settings.root))):
        checked = shell.must("models", "check", model_id, "--prompt", "Why?", "--response", "Two words.")
        measured = shell.must("datasets", "lengths", dataset_id, "--model", model_id, "--max-prompt", "104")
        judged = shell.must("datasets", "lengths", dataset_id, "--model", judge_id)
        shown = shell.must("datasets", "tokens", dataset_id, "--model", model_id, "--example", "1", "--max-response", "4")
    assert "learned: answer: 2 tokens\nTwo│ words.\n" in checked
    assert "stops at  <|im_end|> (100)" in checked
    assert re.search(r"^prompts +59\.4 % +104 +119 +183 +198 +199 +224$", measured, re.MULTILINE)
    assert "640 of 640 examples were read." in measured
    assert "A run leaves out what is refused. To keep it, change these rows" in judged
    assert "response 2 of 2, rejected" in shown
    assert shown.count("learned: answer: 4 tokens, cut") == 2
    assert "no data set 'none'" in shell.fails("datasets", "lengths", "none", "--model", model_id)


def test_sweeps_are_launched_compared_extended_stopped_and_deleted(shell):
    shell.must("runs", "cancel", launch(shell))
    made = shell.must(
        "sweeps", "launch", "recipe.yaml", "--lambda", "0.1", "--lambda", "0.3", "--field", "training.batch_size=2,8",
        "--field", "training.schedule=cosine", "--baseline", "dpo", "--name", "Grid",
    )  # fmt: skip
    sweep_id = made.strip()
    assert f"{sweep_id}  Grid  queued  0/5" in shell.must("sweeps", "list")
    assert "λ 0.3, batch_size 8, schedule cosine" in shell.must("sweeps", "show", sweep_id)
    sweep = json.loads(shell.must("sweeps", "show", sweep_id, "--kl", "2", "--json"))
    assert (sweep["kl_budget"], sweep["request"]["fields"]["training.batch_size"]) == (2, [2, 8])
    assert "6 variants" in shell.must("sweeps", "add", sweep_id, "--baseline", "sft_chosen")
    assert shell.must("sweeps", "stop", sweep_id).startswith("The sweep is stopped")
    watched = shell("sweeps", "watch", sweep_id)
    assert watched.returncode == 1
    assert "SFT on chosen: cancelled" in watched.stdout
    assert "0/6 of its runs have succeeded" in watched.stderr
    assert shell.must("sweeps", "resume", sweep_id).startswith("6 runs wait")
    assert "haven't ended" in shell.fails("sweeps", "delete", sweep_id, "--yes")
    shell.must("sweeps", "stop", sweep_id)
    shell.must("sweeps", "delete", sweep_id, "--yes")
    assert "no sweep" in shell.fails("sweeps", "show", sweep_id)


def test_a_sweep_that_can_not_be_is_refused_in_a_sentence(shell):
    shell.must("runs", "cancel", launch(shell))
    for options, words in (
        (("--lambda", "0"), "must be greater than 0, not 0."),
        (("--lambda", "nan"), "--lambda must be a finite number"),
        (("--field", "training.batch_size"), "--field needs a setting and its values"),
        (("--field", "training.batch_size=2,none"), "training.batch_size must be a whole number, not 'none'"),
        (("--baseline", "ppo"), "There is no baseline 'ppo'"),
    ):
        assert words in shell.fails("sweeps", "launch", "recipe.yaml", *options)


def test_users_tokens_and_links_are_made_on_the_server(shell):
    assert "/login/" in shell.must("users", "add", "ada")
    assert "ada" in shell.must("users", "list")
    assert "already" in shell.fails("users", "add", "ada")
    token = shell.must("tokens", "create", "--user", "ada", "--scope", "read").strip()
    assert "only read" in shell.fails("models", "add", "a/b", STUDIO_TOKEN=token)
    link = shell.must("login-link").strip()
    assert httpx.post(link, follow_redirects=False).status_code == 303
    assert httpx.post(link, follow_redirects=False).status_code == 401
    assert "no user" in shell.fails("login-link", "--user", "nobody")
    assert "of this version" in shell.must("db", "upgrade")


def test_the_life_of_an_account_is_steered_on_the_server(shell):
    shell.must("users", "add", "grace", "--role", "admin")
    token = shell.must("tokens", "create", "--user", "grace", "--name", "laptop").strip()
    (row,) = re.findall(r"^(token_\S+) +grace +laptop +write +\S+ \S+ +(\d.+)$", shell.must("tokens", "list"), re.MULTILINE)
    token_id = row[0]
    assert token not in shell.must("tokens", "list", "--user", "grace")
    assert "without expiry" in shell.must("tokens", "expire", token_id, "--days", "0")
    shell.must("tokens", "rename", token_id, "old laptop")
    assert re.search(r"old laptop +write .+ without expiry$", shell.must("tokens", "list"), re.MULTILINE)
    shell.must("users", "disable", "grace")
    assert re.search(r"^grace +admin +disabled ", shell.must("users", "list"), re.MULTILINE)
    assert "disabled" in shell.fails("datasets", "list", STUDIO_TOKEN=token)
    assert "enable" in shell.fails("login-link", "--user", "grace")
    assert "last admin" in shell.fails("users", "disable", "admin")
    assert "last admin" in shell.fails("users", "role", "admin", "member")
    shell.must("users", "enable", "grace")
    shell.must("datasets", "list")
    shell.must("tokens", "revoke", token_id)
    assert "no token" in shell.fails("tokens", "revoke", token_id)
    assert "isn't known or has ended" in shell.fails("datasets", "list", STUDIO_TOKEN=token)
    shell.must("users", "sign-out", "grace", "--tokens")
    shell.must("users", "remove", "grace", "--yes")
    assert "grace" not in shell.must("users", "list")
    assert "grace (removed)" in shell.must("users", "list", "--removed")
    log = shell.must("acts", "--limit", "12")
    assert re.search(r"on the server +command line +User removed +grace\.", log)
    assert token not in log


def test_every_mistake_is_a_sentence(shell, tmp_path):
    (shell.folder / "broken.yaml").write_text("a: [1")
    (shell.folder / "list.yaml").write_text("- 1")
    (shell.folder / "bad.yaml").write_text("dataset: d\npolicy: {model: x}\nweights: {lambda: -1, preset: best}\n")
    assert "no file" in shell.fails("datasets", "add", "none.jsonl")
    assert "line" in shell.fails("runs", "launch", "broken.yaml")
    assert "recipe" in shell.fails("runs", "launch", "list.yaml")
    assert "weights.lambda" in shell.fails("runs", "launch", "bad.yaml")
    assert "weights.lambda" in shell.fails("train", "bad.yaml")
    assert "isn't known" in shell.fails("runs", "list", STUDIO_TOKEN="wrong")
    assert "No token" in shell.fails("runs", "list", STUDIO_DATA_DIR=str(tmp_path))
    nobody = f"http://127.0.0.1:{free_port()}"
    assert "No studio answers" in shell.fails("runs", "list", STUDIO_URL=nobody, STUDIO_TOKEN="x")
    assert "STUDIO_PORT" in shell.fails("runs", "list", STUDIO_PORT="many")


def test_a_command_line_that_can_not_be_understood_ends_with_status_2(shell):
    assert shell.fails("lunch", status=2) == "No such command 'lunch'. Try --help."
    assert shell.fails("runs", "show", status=2) == "Missing argument 'run_id'. Try --help."
    assert shell.fails("runs", "list", "--limit", "0", status=2).endswith(". Try --help.")
    usage = shell.fails("runs", status=2)
    assert usage.startswith("Usage: varstudio runs")
    assert "Try --help" not in usage


def test_a_refused_option_is_named_as_it_was_typed(shell):
    one = shell.fails("runs", "launch", "--dataset", "d", "--policy", "p", "--lambda", "0")
    assert "--lambda" in one
    assert "weights.lambda" not in one
    two = shell.fails("runs", "launch", "--dataset", "d", "--policy", "p", "--lambda", "0", "--batch-size", "0")
    assert "--lambda" in two
    assert "--batch-size" in two


def test_where_rows_were_left_out_is_said_in_one_or_many_lines_or_rows():
    assert places({"lines": [2], "count": 1}, "line") == "line 2"
    assert places({"lines": [2, 5], "count": 2}, "row") == "rows 2, 5"
    assert places({"lines": list(range(1, 21)), "count": 40}, "line") == "lines 1, 2, 3, 4, 5 …"


def test_up_ends_when_a_part_of_it_ends_again_and_again_and_says_so(tmp_path):
    shell = make_shell(tmp_path)
    process, _ = start(shell, "--no-worker")
    killed: set[str] = set()
    deadline = time.monotonic() + END_SECONDS
    while process.poll() is None:
        assert time.monotonic() < deadline
        for child in set(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()) - killed:
            os.kill(int(child), signal.SIGKILL)
            killed.add(child)
        time.sleep(0.1)
    assert process.wait(END_SECONDS) == 1
    assert len(killed) == 6  # the first and five restarts


def test_a_studio_that_answers_to_other_names_alone_is_up_all_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(up, "READY_SECONDS", 1)
    with answering((400, b"This studio doesn't answer to that name.")) as server:
        settings = Settings(_env_file=None, data_dir=tmp_path, port=urlsplit(server.url).port, allowed_hosts="studio.example.org")
        children = up.Children(settings, no_worker=True)
        children.processes = {"web": SimpleNamespace(poll=lambda: None)}
        assert children.wait_for_web()


def test_the_children_end_with_a_killed_up(tmp_path):
    shell = make_shell(tmp_path)
    process, _ = start(shell, "--no-worker")
    process.kill()
    process.wait()

    def answers() -> bool:
        try:
            return bool(httpx.get(f"http://127.0.0.1:{shell.environment['STUDIO_PORT']}/healthz", timeout=END_SECONDS))
        except httpx.TransportError:
            return False

    wait_until(lambda: not answers(), "the end of the web process")


def test_train_runs_a_recipe_without_a_server(tmp_path, shared):
    shell = make_shell(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(PAIRS)
    (tmp_path / "recipe.yaml").write_text(
        json.dumps(
            {
                "dataset": "pairs.jsonl",
                "policy": {"model": str(shared / "models/stories260K-hf")},
                "weights": {"lambda": 0.5, "preset": "within_prompt"},
                "tokens": {"max_prompt": 40, "max_response": 16},
                "training": {"batch_size": 4, "steps": 2},
                "evaluation": {"num_prompts": 1, "max_new_tokens": 4},
            }
        )
    )
    printed = shell.must("train", "recipe.yaml", "--to", "out")
    assert "20 examples, 40 responses from 20 rows." in printed
    assert (tmp_path / "out/runs/run/artifacts/model/config.json").is_file()
    assert "--resume" in shell.fails("train", "recipe.yaml", "--to", "out")
