"""docker-compose.yml and the Dockerfiles say what Docker and the studio understand, and nothing is open or default there."""

import json
import re
from importlib.resources import files

import jsonschema
import pytest
import yaml

from app.settings import Settings
from tests.box.compose import ROOT, VariableMissing, copied, read_compose, read_dockerfile

PASSWORDS = {"POSTGRES_PASSWORD": "one", "REDIS_PASSWORD": "two"}
DOCKERFILES = ["app/Dockerfile", "worker/Dockerfile"]
PINNED = re.compile(r"[\w./-]+:\d+\.\d+[\w.-]*")


@pytest.fixture
def services():
    return read_compose(PASSWORDS)


def test_the_compose_file_follows_the_compose_specification():
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    document = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    faults = [
        f"{'.'.join(map(str, fault.path))}: {fault.message}"
        for fault in jsonschema.validators.validator_for(schema)(schema).iter_errors(document)
    ]
    assert faults == []


@pytest.mark.parametrize("missing", PASSWORDS)
def test_a_missing_password_stops_compose_with_a_sentence(missing):
    with pytest.raises(VariableMissing, match=rf"set {missing} in \.env"):
        read_compose({**PASSWORDS, missing: ""})


def test_the_example_names_every_variable_and_holds_no_password():
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    lines = [line for line in (ROOT / ".env.example").read_text().splitlines() if line and not line.startswith("#")]
    given = dict(line.split("=", 1) for line in lines)
    assert set(given) == used | {"COMPOSE_PROFILES"}
    assert [name for name in PASSWORDS if given[name]] == []


def test_every_studio_variable_is_a_setting(services):
    known = {field.validation_alias or f"STUDIO_{name.upper()}" for name, field in Settings.model_fields.items()}
    for name, service in services.items():
        asked = {variable for variable in service.get("environment", {}) if variable.startswith("STUDIO_")}
        assert asked <= known, name


def test_the_settings_of_the_box_mean_postgresql_and_redis(services, monkeypatch):
    for variable, value in services["web"]["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = Settings(_env_file=None)
    assert settings.sqlalchemy_url == "postgresql+psycopg://studio:one@postgres:5432/studio"
    assert settings.has_redis
    assert str(settings.root) == "/data"


def test_a_worker_is_given_longer_to_stop_than_it_gives_its_runs(services):
    for name in ("worker", "worker-cpu"):
        grace = float(services[name]["environment"]["STUDIO_GRACE_SECONDS"])
        assert grace < float(services[name]["stop_grace_period"].removesuffix("s"))


def test_web_and_workers_wait_for_the_migrations(services):
    for name in ("web", "worker", "worker-cpu"):
        assert services[name]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert services["migrate"]["depends_on"]["postgres"] == {"condition": "service_healthy"}


def test_only_the_web_is_published_and_only_on_this_machine(services):
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "web": ["127.0.0.1:8400:8400"]
    }
    assert services["postgres"]["networks"] == services["redis"]["networks"] == ["inside"]


def test_every_service_runs_without_rights_on_a_read_only_system(services):
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        if name in ("postgres", "redis"):
            assert service["user"] == "999:999"


def test_no_image_is_built_twice(services):
    built = [service["image"] for service in services.values() if "build" in service]
    assert len(built) == len(set(built))
    assert {service["image"] for service in services.values()} - set(built) == {
        services["postgres"]["image"], services["redis"]["image"]
    }  # fmt: skip
    assert services["migrate"]["pull_policy"] == "never"  # it is the image of the web, made here


def test_no_service_may_take_the_whole_memory(services):
    for name, service in services.items():
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]), name
        assert [place for place in service["tmpfs"] if not re.fullmatch(r"/\S+:size=\d+[mg]", place)] == [], name


def test_compiled_kernels_lie_where_they_can_be_loaded(services):
    """A tmpfs of Docker's is noexec, and the rest of the container is read-only."""
    (variables,) = (rest for word, rest in read_dockerfile("worker/Dockerfile") if word == "ENV" and "TRITON" in rest)
    given = dict(part.split("=", 1) for part in variables.split())
    for name in ("worker", "worker-cpu"):
        volumes = {volume.split(":")[1] for volume in services[name]["volumes"] if not volume.startswith(("/", "."))}
        for variable in ("HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
            assert [volume for volume in volumes - {"/data"} if given[variable].startswith(volume)], variable


def test_the_worker_image_has_compilers_and_4_bit_weights():
    runs = [rest for word, rest in read_dockerfile("worker/Dockerfile") if word == "RUN"]
    assert any({"gcc", "g++", "libc6-dev"} <= set(rest.split()) for rest in runs)
    assert any("'.[worker,quantized]'" in rest for rest in runs)


def test_keys_of_the_store_reach_web_and_workers_and_are_not_there_at_all_where_the_machine_has_a_role(services):
    keys = {"AWS_ACCESS_KEY_ID": "one", "AWS_SECRET_ACCESS_KEY": "two"}
    with_keys = read_compose({**PASSWORDS, **keys})
    for name in ("web", "worker", "worker-cpu"):
        assert keys.items() <= with_keys[name]["environment"].items()
        assert not keys.keys() & services[name]["environment"].keys()


def test_a_token_of_the_hub_reaches_the_workers():
    services = read_compose({**PASSWORDS, "HF_TOKEN": "hf_x"})
    assert {name for name, service in services.items() if service["environment"].get("HF_TOKEN") == "hf_x"} == {
        "worker", "worker-cpu"
    }  # fmt: skip


@pytest.mark.parametrize("path", DOCKERFILES)
def test_an_image_works_from_a_checkout_that_only_its_owner_can_read(path):
    lines = read_dockerfile(path)
    last_stage = max(index for index, (word, _) in enumerate(lines) if word == "FROM")
    assert ("COPY", "--from=checkout /srv/studio ./") in lines[last_stage:]
    assert all(rest.startswith("--from=") for word, rest in lines[last_stage:] if word == "COPY")
    assert any(word == "RUN" and rest.startswith("chmod -R a+rX .") for word, rest in lines)


@pytest.mark.parametrize("path", DOCKERFILES)
def test_only_the_studio_may_look_into_its_data(path):
    assert any("-m 0700 /data" in rest for word, rest in read_dockerfile(path) if word == "RUN")


def test_one_gpu_worker_and_one_without_are_profiles_apart(services):
    assert services["worker"]["profiles"] == ["gpu"]
    (device,) = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu", "compute", "utility"]  # compute for CUDA, utility for nvidia-smi
    assert services["worker-cpu"]["profiles"] == ["cpu"]
    assert "deploy" not in services["worker-cpu"]


def test_the_health_of_each_service_is_watched(services):
    for name in ("web", "worker", "worker-cpu", "postgres", "redis"):
        assert services[name]["healthcheck"]["test"], name


def test_all_images_are_pinned(services):
    for name, service in services.items():
        assert PINNED.fullmatch(service["image"]), name
    for path in DOCKERFILES:
        bases = [rest.split()[0] for word, rest in read_dockerfile(path) if word == "FROM"]
        stages = {rest.split()[-1] for word, rest in read_dockerfile(path) if word == "FROM" and " AS " in rest}
        assert [base for base in bases if base not in stages and not PINNED.fullmatch(base)] == []


@pytest.mark.parametrize("path", DOCKERFILES)
def test_an_image_copies_what_exists(path):
    for sources, _ in copied(path):
        assert [source for source in sources if not (ROOT / source).exists()] == []


@pytest.mark.parametrize("path", DOCKERFILES)
def test_what_an_image_copies_is_let_in_by_dockerignore(path):
    let_in = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {source.split("/")[0] for sources, _ in copied(path) for source in sources} <= let_in


@pytest.mark.parametrize("path", DOCKERFILES)
def test_an_image_installs_the_pinned_versions_and_runs_without_rights(path):
    lines = read_dockerfile(path)
    installs = [rest for word, rest in lines if word == "RUN" and "pip install" in rest]
    assert installs
    assert all("--constraint constraints.txt" in rest for rest in installs)
    assert [rest for word, rest in lines if word == "USER"] == ["10001:10001"]


def test_the_web_image_asks_for_no_torch():
    (install, _) = (rest for word, rest in read_dockerfile("app/Dockerfile") if word == "RUN" and "pip install" in rest)
    assert install.endswith("--editable .")
