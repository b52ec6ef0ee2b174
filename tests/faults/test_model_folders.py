"""Model folders of strangers: refused when they are added and again before a worker loads them; nothing in them is ever run."""

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.domain.errors import ModelInvalid
from app.domain.jobs import ModelSource
from tests import warm
from tests.faults.bad_folders import FOLDERS, Bird, canary_of, make_bad, template
from tests.faults.web_process import running_web
from tests.services.test_models import make_model
from tests.worker.workshop import CHAT_TEMPLATE, Workshop

MAX_SECONDS = 5.0
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    with running_web(tmp_path_factory.mktemp("web"), popen=warm.Popen) as web:
        yield web


@pytest.fixture
def place(web, tmp_path):
    """A folder of this test's own below the allowed root."""
    folder = web.settings.model_roots[0] / tmp_path.name
    folder.mkdir()
    return folder


def add(web, folder: Path, **changes):
    return web.http.post("/api/v1/models", json={"kind": "policy", "source": "folder", "path": str(folder), **changes})


@pytest.mark.parametrize("name", FOLDERS)
def test_a_bad_folder_is_refused_when_it_is_added(web, place, name):
    folder = make_bad(place / "model", name)
    answer = add(web, folder)
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    assert problem["problems"][0]["field"] == "path"
    assert problem["detail"].endswith(".")
    assert FOLDERS[name].sentence in problem["detail"]
    assert not canary_of(folder).exists()
    assert [one for one in web.http.get("/api/v1/models").json()["items"] if one["path"] == str(folder)] == []


@pytest.mark.bench
def test_each_bad_folder_is_refused_within_five_seconds(web, place):
    seconds = {}
    for name in FOLDERS:
        folder = make_bad(place / name.replace("/", "-"), name)
        began = time.perf_counter()
        assert add(web, folder).status_code == 422
        seconds[name] = time.perf_counter() - began
    slowest = max(seconds, key=lambda name: seconds[name])
    print(f"\n{len(seconds)} folders; slowest: {slowest}, {seconds[slowest]:.2f} s")
    assert seconds[slowest] < MAX_SECONDS


@pytest.mark.parametrize("name", ["no weights", "header of 2^63", "code for the model", "template that loops", "10^9 layers"])
def test_a_folder_that_turned_bad_is_told_by_its_check(web, place, name):
    folder = make_model(place / "model")
    model_id = add(web, folder).json()["id"]
    sound = web.http.get(f"/api/v1/models/{model_id}/check").json()
    assert (sound["ok"], sound["problems"], sound["reading"]) == (True, [], None)
    FOLDERS[name].spoil(folder)
    told = web.http.get(f"/api/v1/models/{model_id}/check").json()
    assert told["ok"] is False
    assert FOLDERS[name].sentence in told["problems"][0]["message"]
    assert web.http.delete(f"/api/v1/models/{model_id}").status_code == 204


def test_a_tokenizer_without_a_chat_template_is_taken_and_said_so(web, place):
    """Plain turns are written then; a recipe that insists on the template is refused before anything is loaded."""
    model = add(web, make_model(place / "model")).json()
    assert model["facts"]["has_chat_template"] is False
    rows = "".join(json.dumps({"prompt": f"p{n}", "chosen": "a", "rejected": "b"}) + "\n" for n in range(30))
    dataset = web.upload(rows.encode()).json()["id"]
    recipe = {"dataset": dataset, "policy": {"model": model["id"]}, "weights": {"lambda": 1}}
    refused = web.http.post("/api/v1/runs", json={**recipe, "tokens": {"prompt_format": "chat"}})
    assert refused.status_code == 422, refused.text
    assert refused.json()["problems"][0]["field"] == "tokens.prompt_format"
    assert "no chat template" in refused.json()["detail"]
    run = web.http.post("/api/v1/runs", json=recipe)
    assert run.status_code == 202
    assert web.http.post(f"/api/v1/runs/{run.json()['id']}/cancel").status_code == 202
    assert web.http.delete(f"/api/v1/runs/{run.json()['id']}").status_code == 204
    web.forget()
    assert web.http.delete(f"/api/v1/models/{model['id']}").status_code == 204


def test_usual_chat_templates_are_taken(web, place):
    usual = {
        "turns": CHAT_TEMPLATE,
        "refusing system": "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x",
        "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}{{ eos_token }}",
        "broken": "{% for %}",
        "calling itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "date and JSON": "{{ strftime_now('%d %b') }}{{ messages | tojson }}{% for m in messages %}{% break %}{% endfor %}",
    }
    for name, text in usual.items():
        folder = make_model(place / name)
        template(text)(folder)
        answer = add(web, folder)
        assert answer.status_code == 201, f"{name}: {answer.text}"
        assert answer.json()["facts"]["has_chat_template"]
        assert web.http.delete(f"/api/v1/models/{answer.json()['id']}").status_code == 204


@pytest.mark.parametrize(
    "path",
    [
        "../etc", "/etc", "/etc/passwd", "{root}/../..", "{root}/%2e%2e/x", "{root}/a\0b", "~root", "x" * 900, "//",
        "{root}/../models/../../etc",
    ],
)  # fmt: skip
def test_a_path_out_of_the_allowed_folders_is_refused_and_tells_nothing(web, path):
    answer = add(web, path.format(root=web.settings.model_roots[0]))
    assert answer.status_code == 422
    assert "root:x" not in answer.text
    assert "no folder" in answer.text or "full path under an allowed folder" in answer.text or "isn't a path" in answer.text


@pytest.mark.parametrize("name", ["../../x", "a/../../b", "/etc", "..", "a\\..\\b", "file:///etc", "a/b/c", "-x", "a b"])
def test_a_hub_name_is_no_path(web, name):
    answer = add(web, "", source="hub", name=name)
    assert (answer.status_code, answer.json()["problems"][0]["field"]) == (422, "name")


HUB = ["no weights", "10^9 layers", "missing shard", "index to ../../x", "header of 2^63", "code for the tokenizer",
       "an adapter beside the model", "template that loops", "template that builds 1 GB", "pickled weights"]  # fmt: skip


@pytest.mark.parametrize("name", HUB)
def test_a_worker_refuses_it_too_before_it_loads_anything(tmp_path, name):
    """A model of the hub is seen by nobody before the worker that downloads it."""
    from worker.models.load import resolve_folder

    folder = make_bad(tmp_path / "model", name)
    with pytest.raises(ModelInvalid) as caught:
        resolve_folder(ModelSource(source="folder", path=str(folder)), tmp_path / "hub")
    assert str(folder) in caught.value.detail
    assert not canary_of(folder).exists()


WATCHER = """
import json, sys
from pathlib import Path
seen = []
watched = ("open", "pickle.find_class", "import")
sys.addaudithook(lambda name, args: seen.append([name, " ".join(map(str, args[:2]))]) if name in watched else None)
from worker.models.load import load_policy, resolve_folder
from app.domain.jobs import ModelSource
folder = resolve_folder(ModelSource(source="folder", path=sys.argv[1]), Path(sys.argv[1]) / "hub")
load_policy(folder, dtype="float32", device="cpu")
print(json.dumps(seen))
"""


def test_loading_a_model_opens_no_pickle_no_code_and_nothing_elsewhere(tmp_path):
    """An audit hook in the loading process is the judge."""
    folder = Workshop(tmp_path).policy()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    canaries = ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt", "model.pkl")
    for name in canaries:
        (folder / name).write_bytes(pickle.dumps(Bird(canary_of(folder))))
    (folder / "modeling_evil.py").write_text(f"import os; os.mkdir({str(canary_of(folder))!r})")
    path = folder / "tokenizer_config.json"
    named = {"tokenizer_file": str(outside / "tokenizer.json"), "vocab_file": "../outside/tokenizer.json"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **named}))
    done = subprocess.run(
        [sys.executable, "-c", WATCHER, str(folder)], capture_output=True, text=True, cwd=CHECKOUT, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    opened = [what for name, what in seen if name == "open"]  # path and mode
    assert any("tokenizer.json" in what for what in opened)
    forbidden = (*canaries, "modeling_evil.py", str(outside))
    assert [what for what in opened if any(name in what for name in forbidden)] == []
    assert [what for name, what in seen if name == "pickle.find_class" and "pathlib" in what] == []
    assert [what for name, what in seen if name == "import" and "evil" in what] == []
    assert not canary_of(folder).exists()
