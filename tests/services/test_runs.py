"""What a user can do with runs."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from app.domain.answering.chat import ChatRequest
from app.domain.dataset import Audit
from app.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, RecipeInvalid
from app.domain.events import OutcomeReached
from app.domain.run import Outcome
from app.services import accounts, attempts, datasets, names, provenance
from app.services import runs as services
from app.services.answering import chats
from app.services.sharing import take
from app.store import journal, metrics, runs
from app.store.database import Database, now
from app.store.files.files import Files
from app.store.tables import Dataset, Model, Run
from tests.conftest import Library, make_library
from tests.waiting import wait_until


def launch(database: Database, library: Library, key: str | None = None, **changes: Any) -> Run:
    with database.writing() as session:
        return services.launch(session, library.user.id, library.recipe(**changes), idempotency_key=key)


def test_a_launch_asks_the_database_few_things(database: Database, library: Library) -> None:
    launch(database, library)
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    launch(database, library)
    assert [statement for statement in sent if statement.startswith("PRAGMA")] == []  # its connection was a writer's before
    assert len(sent) <= 9, sent  # one writer at a time: a hundred launches wait for each other's statements


def act(database: Database, verb: Callable[..., Run], library: Library, run_id: str) -> Run:
    with database.writing() as session:
        return verb(session, library.user.id, run_id)


def end(database: Database, outcome: Outcome) -> None:
    """Claim the waiting run and end it."""
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
        assert claim is not None
        attempts.finish(session, claim.run_id, claim.token, OutcomeReached(outcome=outcome, retry=False))


def problems_of(error: pytest.ExceptionInfo[RecipeInvalid]) -> dict[str, str]:
    return {problem["field"]: problem["message"] for problem in error.value.problems}


def change_audit(database: Database, library: Library, **changes: Any) -> None:
    with database.writing() as session:
        dataset = session.get(Dataset, library.dataset.id)
        assert dataset is not None
        dataset.audit = {**Audit.model_validate(dataset.audit).model_dump(mode="json"), **changes}


def test_a_launched_run_is_queued_with_its_whole_recipe_and_where_it_comes_from(database: Database, library: Library) -> None:
    run = launch(database, library)
    assert (run.state, run.name, run.attempt, run.last_seq) == ("queued", "Pairs · Small policy", 0, 1)
    assert run.recipe == library.recipe().to_dict()
    assert run.recipe["weights"]["lambda"] == 0.5
    assert run.provenance["dataset"]["sha256"] == "d" * 64
    assert run.provenance["models"]["policy"]["revision"] == "main"
    assert "python" in run.provenance["packages"]
    with database.reading() as session:
        (entry,) = journal.read(session, run.id)
        assert (entry.kind, entry.payload["state"]) == ("state", "queued")


def test_every_fault_of_a_recipe_is_named_with_its_field(database: Database, library: Library) -> None:
    with pytest.raises(RecipeInvalid, match=r"There is no data set 'data_x'.*3 faults") as error:
        launch(database, library, dataset="data_x", policy={"model": "model_reward"}, reward={"judge": "model_x"})
    assert problems_of(error) == {
        "dataset": "There is no data set 'data_x': choose one from your list.",
        "policy.model": "“Small reward” is registered as a reward model, but a policy (a causal language model) is needed here.",
        "reward.judge": "There is no model 'model_x': choose one from your list, or register it first.",
    }
    with database.reading() as session:
        assert runs.list_runs(session, library.user.id) == []


def test_a_policy_is_no_reward_model(database: Database, library: Library) -> None:
    with pytest.raises(RecipeInvalid, match="a reward model") as error:
        launch(database, library, reward={"source": "model", "model": "model_policy"})
    assert set(problems_of(error)) == {"reward.model"}


@pytest.mark.parametrize(
    ("audit", "changes", "field", "words"),
    [
        ({"has_rating": False}, {"reward": {"source": "rating"}}, "reward.source", "has no ratings: use the preference label"),
        ({"has_preference": False}, {}, "reward.source", "doesn't say which responses were preferred: use the rating"),
        (
            {"has_preference": False},
            {"reward": {"source": "rating"}, "weights": {"lambda": 1, "responses": "chosen"}},
            "weights.responses",
            "no chosen responses",
        ),
        (
            {"num_responses": 10, "num_pairs": 0},
            {"weights": {"lambda": 1, "preset": "within_prompt"}},
            "weights.partition_scope",
            "one response per prompt and no pairs",
        ),
        (
            {"num_pairs": 0},
            {"method": "dpo", "weights": {}},
            "method",
            "which dpo learns from: take kto, which learns from single",
        ),
        (
            {"num_pairs": 0, "has_preference": False},
            {"method": "ipo", "weights": {}},
            "method",
            "which ipo learns from: take method var with ratings or a reward model, or data with pairs",
        ),
        (
            {"num_pairs": 0, "facts": {"labels": {"chosen": 0, "rejected": 0}}},
            {"method": "kto", "weights": {}},
            "method",
            "says of no response whether it is desirable, which KTO learns from: map a column of labels",
        ),
        (
            {"num_pairs": 0, "facts": {"labels": {"chosen": 3, "rejected": 0}}},
            {"method": "kto", "weights": {}},
            "method",
            r"no undesirable \(rejected\) responses, and KTO learns from both kinds: add some",
        ),
        (
            {"num_pairs": 0},
            {"method": "reward_model", "weights": {}},
            "method",
            "rejected response, which reward_model learns from",
        ),
        (
            {"has_preference": False},
            {"method": "sft", "weights": {"responses": "chosen"}},
            "weights.responses",
            "no chosen responses to train on: use both",
        ),
        ({"num_examples": 0}, {}, "evaluation.share", "leaves none to train on"),
    ],
)
def test_a_data_set_without_what_the_recipe_needs_is_refused(
    database: Database, library: Library, audit: dict[str, Any], changes: dict[str, Any], field: str, words: str
) -> None:
    change_audit(database, library, **audit)
    with pytest.raises(RecipeInvalid, match=words) as error:
        launch(database, library, **changes)
    assert field in problems_of(error)


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_data_without_labels_have_one_fault_where_rewards_are_not_read(database: Database, library: Library, method: str) -> None:
    change_audit(database, library, num_pairs=0, has_preference=False, facts={"labels": {"chosen": 0, "rejected": 0}})
    with pytest.raises(RecipeInvalid) as error:
        launch(database, library, method=method, weights={})
    assert set(problems_of(error)) == {"method"}


def test_plain_fine_tuning_needs_no_labels(database: Database, library: Library) -> None:
    change_audit(database, library, has_preference=False, num_pairs=0)
    assert launch(database, library, method="sft", weights={}).recipe["method"] == "sft"


def test_fresh_answers_compete_where_the_data_has_one_response_per_prompt(database: Database, library: Library) -> None:
    change_audit(database, library, num_responses=10, num_pairs=0)
    online = {"reward": {"source": "model", "model": library.reward.id}, "online": {"every": 4}}
    assert launch(database, library, weights={"lambda": 1, "preset": "within_prompt"}, **online).state == "queued"


@pytest.mark.parametrize("state", ["processing", "needs_mapping", "failed"])
def test_a_data_set_that_is_not_ready_is_refused(database: Database, library: Library, state: str) -> None:
    with database.writing() as session:
        dataset = session.get(Dataset, library.dataset.id)
        assert dataset is not None
        dataset.state = state
    with pytest.raises(RecipeInvalid, match="“Pairs”") as error:
        launch(database, library)
    assert set(problems_of(error)) == {"dataset"}


def test_somebody_elses_private_data_and_models_are_not_there(database: Database, library: Library) -> None:
    with database.writing() as session:
        session.get_one(Dataset, library.dataset.id).private = session.get_one(Model, library.policy.id).private = True
    with database.writing() as session, pytest.raises(RecipeInvalid) as error:
        services.launch(session, "user_eve", library.recipe())
    assert set(problems_of(error)) == {"dataset", "policy.model"}


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "\ud800"])
def test_control_characters_are_refused_at_their_field(either_database: Database, text: str) -> None:
    library = make_library(either_database)
    with pytest.raises((RecipeInvalid, ValueError)) as error:
        launch(either_database, library, dataset=text)
    assert "dataset" in str(getattr(error.value, "problems", error.value))


def test_one_key_and_fifty_launches_at_once_make_one_run(either_database: Database) -> None:
    library = make_library(either_database)
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(launch(either_database, library, key="once").id)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 50
    assert len(set(made)) == 1
    with either_database.reading() as session:
        assert [entry.seq for entry in journal.read(session, made[0])] == [1]


def test_a_key_with_another_recipe_is_refused(database: Database, library: Library) -> None:
    run = launch(database, library, key="once")
    with pytest.raises(InvalidInput, match=run.id):
        launch(database, library, key="once", name="another")
    assert launch(database, library, key="twice").id != run.id


@pytest.mark.parametrize("key", ["", "x" * 201, "a\nb"])
def test_a_strange_key_is_refused(database: Database, library: Library, key: str) -> None:
    with pytest.raises(InvalidInput, match="printable"):
        launch(database, library, key=key)


def test_cancelling_a_queued_run_ends_it_and_it_is_never_begun(database: Database, library: Library) -> None:
    run = launch(database, library)
    assert act(database, services.request_cancel, library, run.id).state == "cancelled"
    with database.writing() as session:
        assert attempts.begin(session, "worker", 30) is None
    with pytest.raises(Conflict, match="already been cancelled"):
        act(database, services.request_cancel, library, run.id)


def test_cancelling_a_running_run_twice_is_one_request(database: Database, library: Library) -> None:
    run = launch(database, library)
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
        assert claim is not None
    for _ in range(2):
        assert act(database, services.request_cancel, library, run.id).state == "running"
    with database.reading() as session:
        assert len(journal.read(session, run.id, kinds=["log"])) == 1
        assert runs.watch(session, [run.id]) == {run.id: (claim.token, True, False)}


def test_cancel_against_finish_ends_in_one_state(either_database: Database) -> None:
    library = make_library(either_database)
    for _ in range(25):
        run = launch(either_database, library)
        with either_database.writing() as session:
            claim = attempts.begin(session, "worker", 30)
            assert claim is not None

        def cancel(run_id: str = run.id) -> None:
            try:
                act(either_database, services.request_cancel, library, run_id)
            except Conflict:
                return

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with either_database.writing() as session:
            attempts.finish(session, claim.run_id, claim.token, OutcomeReached(outcome=Outcome.SUCCEEDED))
        canceller.join()
        with either_database.reading() as session:
            states = [entry.payload["state"] for entry in journal.read(session, run.id, kinds=["state"])]
        assert states == ["queued", "running", "succeeded"]


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.CANCELLED])
def test_a_failed_or_cancelled_run_can_be_resumed(database: Database, library: Library, outcome: Outcome) -> None:
    run = launch(database, library)
    end(database, outcome)
    resumed = act(database, services.resume, library, run.id)
    assert (resumed.state, resumed.num_failures, resumed.error, resumed.finished_at) == ("queued", 0, None, None)
    with database.writing() as session:
        claim = attempts.begin(session, "worker", 30)
        assert claim is not None
        assert (claim.attempt, claim.token) == (2, 2)


def test_a_run_that_waits_or_has_succeeded_can_not_be_resumed(database: Database, library: Library) -> None:
    run = launch(database, library)
    with pytest.raises(Conflict, match="is queued"):
        act(database, services.resume, library, run.id)
    end(database, Outcome.SUCCEEDED)
    with pytest.raises(Conflict, match="clone it"):
        act(database, services.resume, library, run.id)


def test_a_clone_is_a_new_run_of_the_same_recipe(database: Database, library: Library) -> None:
    run = launch(database, library, name="first", reward={"source": "model", "model": "model_reward"})
    copy = act(database, services.clone, library, run.id)
    assert copy.id != run.id
    assert (copy.recipe, copy.reward_id, copy.state) == ({**run.recipe, "name": "first (2)"}, "model_reward", "queued")


def test_clones_are_told_apart_by_their_names(database: Database, library: Library) -> None:
    run = launch(database, library, name="first_100 %")
    names = [act(database, services.clone, library, run.id).name for _ in range(2)]
    assert names == ["first_100 % (2)", "first_100 % (3)"]
    again = launch(database, library, name="second (7)")
    assert act(database, services.clone, library, again.id).name == "second (2)"
    long = launch(database, library, name="x" * 120)
    assert act(database, services.clone, library, long.id).name == "x" * 111 + " (2)"


def test_a_clone_asked_for_again_with_its_key_is_the_same_run(database: Database, library: Library) -> None:
    run = launch(database, library, name="first")
    with database.writing() as session:
        made = [services.clone(session, library.user.id, run.id, idempotency_key="k").id for _ in range(2)]
    assert made[0] == made[1]


def test_deleting_an_ended_run_takes_journal_metrics_and_files(either_database: Database, tmp_path: Path) -> None:
    library, files = make_library(either_database), Files(tmp_path)
    run = launch(either_database, library)
    with either_database.writing() as session, pytest.raises(Conflict, match="cancel it first"):
        services.delete(session, files, library.user.id, run.id)
    end(either_database, Outcome.FAILED)
    files.artifacts_dir(run.id).mkdir(parents=True)
    with either_database.writing() as session:
        metrics.write_metrics(session, run.id, {("loss", 1): 1.0})
        services.delete(session, files, library.user.id, run.id)
        assert files.run_dir(run.id).exists()
    assert not files.run_dir(run.id).exists()
    with either_database.reading() as session:
        assert journal.read(session, run.id) == []
        assert metrics.metric_keys(session, run.id) == []
        assert runs.list_attempts(session, run.id) == []
        with pytest.raises(NotFound):
            runs.get_run(session, library.user.id, run.id)


def test_a_run_whose_model_is_registered_can_not_be_deleted(database: Database, files: Files, library: Library) -> None:
    run = launch(database, library)
    end(database, Outcome.SUCCEEDED)
    path = str(files.artifacts_dir(run.id) / "model")
    with database.writing() as session:
        model = Model(id="m", owner_id=library.user.id, name="Mine", kind="policy", source="run", path=path, facts={})
        model.created_at = now(session)
        session.add(model)
    with database.writing() as session, pytest.raises(Conflict, match="“Mine”"):
        services.delete(session, files, library.user.id, run.id)


@pytest.mark.parametrize("private", [False, True])
def test_nothing_can_be_done_to_somebody_elses_run(database: Database, library: Library, files: Files, private: bool) -> None:
    run, refusal = launch(database, library), NotFound if private else Forbidden
    with database.writing() as session:
        session.get_one(Run, run.id).private = private
    for verb in (services.request_cancel, services.resume):
        with database.writing() as session, pytest.raises(refusal):
            verb(session, "user_eve", run.id)
    with database.writing() as session, pytest.raises(refusal):
        services.delete(session, files, "user_eve", run.id)


def test_the_commit_is_read_from_a_checkout_whether_its_refs_are_loose_or_packed(tmp_path: Path) -> None:
    git = tmp_path / ".git"
    assert provenance.git_revision(tmp_path) is None
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text(f"# pack-refs\n{'a' * 40} refs/heads/main\n")
    assert provenance.git_revision(tmp_path) == "a" * 40
    (git / "refs" / "heads" / "main").write_text("b" * 40 + "\n")
    assert provenance.git_revision(tmp_path) == "b" * 40
    (git / "HEAD").write_text("c" * 40 + "\n")
    assert provenance.git_revision(tmp_path) == "c" * 40


def test_label_noise_that_changes_nothing_is_refused_at_the_launch(database: Database, library: Library) -> None:
    with pytest.raises(RecipeInvalid, match="Swapped labels change nothing") as error:
        launch(database, library, reward={"source": "rating"}, noise={"label_flip_share": 0.2})
    assert [problem["field"] for problem in error.value.problems] == ["noise.label_flip_share"]


@pytest.mark.parametrize(
    ("method", "temperature", "words"),
    [("var", 0.7, "collapses onto them"), ("raft", 0.7, "collapses onto them"), ("rloo", 1.2, "draw at a temperature of 1")],
)
def test_fresh_responses_at_a_temperature_that_can_not_be_are_refused(database, library, method, temperature, words):
    with pytest.raises(RecipeInvalid, match=words) as error:
        launch(
            database, library, method=method, reward={"source": "model", "model": library.reward.id},
            online={"every": 2, "temperature": temperature},
        )  # fmt: skip
    assert [problem["field"] for problem in error.value.problems] == ["online.temperature"]


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"method": "dpo", "weights": {"preset": "draws", "lambda": 1}}, "weights.partition_scope"),
        ({"weights": {"preset": "reward_weighted", "lambda": 1, "mean_one": "off", "plans": 2}}, "weights.plans"),
        ({"method": "grpo", "reward": {"length_control": True}}, "reward.length_control"),
        ({"reward": {"caution": 2}}, "reward.caution"),
    ],
)
def test_a_setting_that_can_do_nothing_is_refused_at_the_launch(database, library, parts, field):
    reward = {"source": "model", "model": library.reward.id, **parts.get("reward", {})}
    with pytest.raises(RecipeInvalid) as error:
        launch(database, library, **{**parts, "reward": reward})
    assert [problem["field"] for problem in error.value.problems] == [field]


def test_the_day_that_a_chat_template_writes_is_the_launchs(database: Database, library: Library) -> None:
    assert launch(database, library).recipe["tokens"]["template_date"] is None
    with database.writing() as session:
        policy = session.get(Model, library.policy.id)
        assert policy is not None
        policy.facts = {**policy.facts, "writes_date": True}
    run = launch(database, library)
    assert run.recipe["tokens"]["template_date"] == run.created_at.date().isoformat()
    asked = launch(database, library, tokens={"template_date": "2020-02-03"})
    assert asked.recipe["tokens"]["template_date"] == "2020-02-03"
    with database.writing() as session:
        assert services.clone(session, library.user.id, asked.id).recipe["tokens"]["template_date"] == "2020-02-03"


LAYERS = ["lm_head", "model.embed_tokens", "model.layers.*.mlp.up_proj", "model.layers.*.self_attn.q_proj"]


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["q_proj", "layers.0.mlp.up_proj", "embed_tokens"], None),
        ("all-linear", None),
        (["all-linear", "embed_tokens"], None),
        (["q_proj", "query_key"], "put on query_key: “Small policy” has no such layer. It has embed_tokens, up_proj, q_proj."),
        (["proj"], "LoRA can't be put on proj"),
        (["lm_head"], r"The language-model head \(lm_head\) can't carry an adapter"),
    ],
)
def test_layers_that_cannot_carry_an_adapter_are_refused_at_the_launch(
    targets: Any, said: str | None, database: Database, library: Library
) -> None:
    with database.writing() as session:
        session.get_one(Model, library.policy.id).facts = {"layers": LAYERS}
    policy = {"model": library.policy.id, "adaptation": "lora", "lora": {"target_modules": targets}}
    if said is None:
        launch(database, library, policy=policy)
        return
    with pytest.raises(RecipeInvalid, match=said) as caught:
        launch(database, library, policy=policy)
    assert set(problems_of(caught)) == {"policy.lora.target_modules"}
    launch(database, library, policy={**policy, "adaptation": "full"})


@pytest.fixture
def at_once(either_database: Database) -> Callable[[Callable[[Any], object], Callable[[Any], object]], Exception | None]:
    """Have a second transaction begin while a first one has not ended, where the database lets it; what the second meets."""

    def do(first: Callable[[Any], object], second: Callable[[Any], object]) -> Exception | None:
        met: list[Exception] = []

        def follow() -> None:
            try:
                with either_database.writing() as session:
                    second(session)
            except Exception as error:
                met.append(error)

        thread = threading.Thread(target=follow)
        with either_database.writing() as session:
            first(session)
            session.flush()
            thread.start()
            if not either_database.is_sqlite:
                wait_until(lambda: is_held_up(either_database), "the second transaction's wait for the first")
        thread.join()
        return met[0] if met else None

    return do


def is_held_up(database: Database) -> bool:
    with database.reading() as session:
        return bool(session.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar())


def test_data_that_are_deleted_and_begin_to_be_used_at_once_are_told(
    either_database: Database, files: Files, at_once: Callable[..., Exception | None]
) -> None:
    library = make_library(either_database)
    ada, recipe = library.user.id, library.recipe()

    def delete(session: Any) -> None:
        datasets.delete(session, files, ada, library.dataset.id)

    def use(session: Any) -> None:
        services.launch(session, ada, recipe)

    assert isinstance(at_once(use, delete), Conflict)
    with either_database.writing() as session:
        session.execute(text("DELETE FROM runs"))
    refused = at_once(delete, use)
    assert isinstance(refused, Conflict if not either_database.is_sqlite else RecipeInvalid)


def test_a_name_that_two_take_at_once_is_told(either_database: Database, at_once: Callable[..., Exception | None]) -> None:
    refused = at_once(lambda session: accounts.create_user(session, "bob"), lambda session: accounts.create_user(session, "bob"))
    assert isinstance(refused, Conflict)


def test_what_is_renamed_while_it_is_deleted_is_told(
    either_database: Database, files: Files, at_once: Callable[..., Exception | None]
) -> None:
    library = make_library(either_database)
    ada, dataset_id = library.user.id, library.dataset.id

    def rename(session: Any) -> None:
        names.rename(take(session, ada, Dataset, dataset_id, "renamed"), "Others")

    refused = at_once(lambda session: datasets.delete(session, files, ada, dataset_id), rename)
    assert isinstance(refused, NotFound if either_database.is_sqlite else Conflict)


def test_a_chat_that_is_stopped_while_it_is_deleted_is_not_found(
    either_database: Database, at_once: Callable[..., Exception | None]
) -> None:
    library = make_library(either_database)
    asked = {"models": [library.policy.id], "messages": [{"role": "user", "content": "Who?"}]}
    with either_database.writing() as session:
        chat_id = chats.ask(session, library.user.id, ChatRequest.model_validate(asked)).id
    refused = at_once(
        lambda session: chats.delete(session, library.user.id, chat_id),
        lambda session: chats.request_stop(session, library.user.id, chat_id),
    )
    assert isinstance(refused, NotFound)
