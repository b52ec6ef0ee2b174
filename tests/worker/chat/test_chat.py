"""The chatting process's work, within this process: real tiny models, whatever is said and whoever stops it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain.answering.chat import Answered, ChatEvent, ChatJob, ChatModel, ChatRequest, Declined, Loading, Rewarded, gather
from app.domain.answering.job import CheckpointSource
from app.domain.jobs import ModelSource
from app.domain.recipe import PolicySettings
from tests.worker.workshop import Workshop
from worker.chat import shelf as shelves
from worker.chat.__main__ import MEMORY, answer
from worker.chat.shelf import Shelf
from worker.models.checkpoint import save_checkpoint
from worker.models.load import load_policy, load_tokenizer

HELLO = [{"role": "user", "content": "The printer is broken <eos>"}]
TURNS = [{"role": "system", "content": "Be kind."}, *HELLO, {"role": "assistant", "content": "Which one?"}, *HELLO]


def name_model(folder: Path, name: str = "A") -> ChatModel:
    return ChatModel(name=name, source=ModelSource(source="folder", path=str(folder)))


def make_job(*folders: Path, reward: Path | None = None, messages: object = HELLO, **sampling: object) -> ChatJob:
    asked = {"models": ["model_x"] * len(folders), "messages": messages, "sampling": {"max_new_tokens": 12, **sampling}}
    return ChatJob(
        request=ChatRequest.model_validate(asked), hub_dir="/nowhere", device="cpu",
        models=tuple(name_model(folder, "ABC"[place]) for place, folder in enumerate(folders)),
        reward=name_model(reward, "R") if reward else None,
    )  # fmt: skip


@pytest.fixture
def shelf() -> Shelf:
    return Shelf("cpu", Path("/nowhere"))


def hold(job: ChatJob, shelf: Shelf, is_stopped: Callable[[list[ChatEvent]], bool] = lambda _: False) -> list[ChatEvent]:
    told: list[ChatEvent] = []
    answer(job, shelf, told.extend, lambda: is_stopped(told))
    return told


def test_models_speak_in_turn_and_give_the_answers_of_the_sampler(shelf: Shelf, workshop: Workshop) -> None:
    folders = [workshop.policy("llama", chat=True), workshop.policy("gpt2")]
    told = hold(make_job(*folders, reward=workshop.reward("llama"), seed=3), shelf)
    spoken = [event.model for event in told if event.kind == "spoken"]
    assert set(spoken[:2]) == {0, 1}
    answers = gather(2, told)
    assert [one.answered.end for one in answers if one.answered] == ["length", "length"]
    assert [type(one.rewarded.reward) for one in answers if one.rewarded] == [float, float]
    assert [event.name for event in told if isinstance(event, Loading)] == ["A", "B", "R"]
    again = hold(make_job(*folders, seed=3), shelf)
    assert not [event for event in again if isinstance(event, Loading)]
    assert [one.text for one in gather(2, again)] == [one.text for one in answers]
    assert [one.text for one in gather(2, hold(make_job(*folders, seed=4), shelf))] != [one.text for one in answers]


def test_what_is_told_in_pieces_is_the_whole(shelf: Shelf, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.chat.voices.TELL_SECONDS", 0.0)
    told = hold(make_job(workshop.policy("llama", chat=True)), shelf)
    [whole] = gather(1, told)
    assert len([event for event in told if event.kind == "spoken"]) > 3
    assert whole.text.startswith(gather(1, [event for event in told if not isinstance(event, Answered)])[0].text)


def test_a_control_token_in_a_users_text_is_text(shelf: Shelf, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    monkeypatch.setattr("worker.chat.voices.stream", lambda _model, prompt, _sampling: asked.append(prompt) or iter(()))
    folder = workshop.policy("llama", chat=True)
    hold(make_job(folder, messages=TURNS), shelf)
    tokenizer = load_tokenizer(folder)
    assert asked[0].count(tokenizer.eos_token_id) == len(TURNS)
    assert tokenizer.decode(asked[0]).count("<eos>") == len(TURNS) + 2


def test_a_stop_comes_within_a_token_and_keeps_what_there_is(shelf: Shelf, workshop: Workshop) -> None:
    folder = workshop.policy("llama", chat=True)
    told = hold(make_job(folder, folder, max_new_tokens=4000), shelf, lambda told: any(event.kind == "spoken" for event in told))
    assert [(event.end, event.num_tokens) for event in told if isinstance(event, Answered)] == [("stopped", 1), ("stopped", 1)]


def test_faults_are_sentences_and_the_other_model_answers(shelf: Shelf, workshop: Workshop, tmp_path: Path) -> None:
    told = hold(make_job(workshop.policy("gpt2"), workshop.policy("llama", chat=True), tmp_path, messages=TURNS), shelf)
    refused = {event.model: event.detail for event in told if isinstance(event, Declined)}
    assert "“A” has no chat template, so it can't go on with a chat of several turns" in refused[0]
    assert "has no config.json" in refused[2]
    assert [event.model for event in told if isinstance(event, Answered)] == [1]


def test_a_conversation_longer_than_the_window_is_refused_and_a_long_answer_ends_there(shelf: Shelf, workshop: Workshop) -> None:
    folder = workshop.policy("llama", chat=True)
    long = [{"role": "user", "content": "the printer " * 3000}]
    [refused] = [event for event in hold(make_job(folder, messages=long), shelf) if isinstance(event, Declined)]
    assert "its answer included: shorten it." in refused.detail


def test_models_that_do_not_fit_together_answer_one_after_the_other(
    shelf: Shelf, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shelf, "find_free", lambda shelf: 10**6 if not shelf._kept else 0)
    monkeypatch.setattr(shelves, "measure", lambda *_: 1000)
    told = hold(make_job(workshop.policy("llama", chat=True), workshop.policy("gpt2")), shelf)
    kinds = [(event.kind, getattr(event, "model", None)) for event in told if event.kind in ("loading", "answered")]
    assert kinds == [("loading", None), ("loading", None), ("answered", 0), ("loading", None), ("answered", 1)]
    assert len(shelf._kept) == 1


def test_a_model_larger_than_what_is_free_is_refused_with_both_sizes(
    shelf: Shelf, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shelf, "find_free", lambda _: 0)
    [_, refused] = hold(make_job(workshop.policy("llama", chat=True)), shelf)
    assert isinstance(refused, Declined)
    assert "GiB, and the worker's machine has 0.0 GiB free" in refused.detail


def test_want_of_memory_is_told_and_empties_the_shelf(shelf: Shelf, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    job = make_job(workshop.policy("llama", chat=True), reward=workshop.reward("llama"))
    hold(job, shelf)
    with monkeypatch.context() as patched:
        patched.setattr("worker.chat.__main__.talk", fail)
        assert Declined(model=0, detail=MEMORY) in hold(job, shelf)
    assert not shelf._kept
    monkeypatch.setattr("worker.models.reward.RewardModel.score", fail)
    assert Rewarded(model=0, reward=None, detail=MEMORY) in hold(job, shelf)


def test_a_checkpoint_answers_otherwise_than_the_model_it_began_from(shelf: Shelf, workshop: Workshop, tmp_path: Path) -> None:
    folder = workshop.policy("llama", chat=True)
    network = load_policy(folder, dtype="float32", device="cpu").language_model.network
    trained = {f"value/{name}": value.flip(0).contiguous() for name, value in network.named_parameters()}
    save_checkpoint(tmp_path, 3, trained, {})
    job = make_job(folder, folder)
    checkpoint = CheckpointSource(folder=str(tmp_path), step=3, policy=PolicySettings(model="model_x", adaptation="full"))
    at_step = job.models[1].model_copy(update={"checkpoint": checkpoint})
    base, later = gather(2, hold(job.model_copy(update={"models": (job.models[0], at_step)}), shelf))
    assert base.text != later.text
    assert not later.declined
    gone = at_step.model_copy(update={"checkpoint": checkpoint.model_copy(update={"step": 4})})
    [one] = gather(1, hold(make_job(folder).model_copy(update={"models": (gone,)}), shelf))
    assert "The checkpoint of step 4 can't be read" in one.declined
