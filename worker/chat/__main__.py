"""The chatting process: `python -m worker.chat [IDLE_SECONDS] [MOST_BYTES]`.

One ChatJob a line in; lines {"events": […]} out, the last of which is `ended`. A line that comes meanwhile stops the answers
within a token. It is warm: torch is imported once, and models stay in memory while there is room. It ends by itself after idle
minutes, and when stdin ends, so that nothing of it stays on the device.
"""

import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from app.domain.answering.chat import ChatEvent, ChatJob, Declined, Ended, Loading, Rewarded
from app.domain.errors import InvalidInput, StudioError
from app.domain.problems import parse
from app.system.child import Inbox, open_replies
from app.system.limits import limit_data
from worker.chat.shelf import Key, NoRoom, Shelf
from worker.chat.voices import Tell, Voice, open_voice, talk, to_turns
from worker.models.prompts import Conversation
from worker.models.template import ChatTurn

IDLE_SECONDS = 600.0
UNEXPECTED = "The answer could not be made: something unexpected happened. The worker's log says what."
MEMORY = "There is not enough memory for it: choose smaller models or a shorter conversation, or ask one model at a time."
log = logging.getLogger("worker.chat")


def main() -> None:
    """Answer until stdin ends or nothing is asked for a while."""
    logging.basicConfig(format="chat: %(levelname)s %(message)s")
    idle_seconds = float(sys.argv[1]) if len(sys.argv) > 1 else IDLE_SECONDS
    if len(sys.argv) > 2 and int(sys.argv[2]):
        limit_data(int(sys.argv[2]))
    inbox, reply = Inbox(), open_replies()
    shelf: Shelf | None = None

    def tell(events: Sequence[ChatEvent]) -> None:
        reply({"events": [event.model_dump(mode="json") for event in events]})

    while (line := inbox.wait(idle_seconds)) is not None:
        if json.loads(line).get("stop"):  # it came after the end
            continue
        job = parse(ChatJob, json.loads(line), InvalidInput)
        shelf = shelf or Shelf(job.device, Path(job.hub_dir))
        stopped = answer(job, shelf, tell, inbox.has_news)
        tell([Ended(state="stopped" if stopped else "done")])


def answer(job: ChatJob, shelf: Shelf, tell: Tell, is_stopped: Callable[[], bool]) -> bool:
    """Let the models answer, as many at once as have room, and the reward model judge; return whether it was stopped."""
    began_at, answers = time.monotonic(), dict[int, str]()
    waiting = list(range(len(job.models)))

    def listen(events: Sequence[ChatEvent]) -> None:
        answers.update({event.model: event.text for event in events if event.kind == "answered"})
        tell(events)

    while waiting and not is_stopped():
        voices, waiting = gather(job, waiting, shelf, tell, began_at)
        numbers = [voice.number for voice in voices]
        guard(partial(talk, voices, listen, is_stopped), numbers, shelf, tell)
        voices.clear()  # they hold their models, whose room may be needed now
    if job.reward is not None and not is_stopped():
        judge(job, shelf, tell, answers)
    return is_stopped()


def gather(job: ChatJob, waiting: list[int], shelf: Shelf, tell: Tell, began_at: float) -> tuple[list[Voice], list[int]]:
    """Return the answers that can be made at once, and which models wait for the room of these."""
    voices: list[Voice] = []
    needed: list[Key] = []

    def open_next(number: int) -> None:
        asked, request = job.models[number], job.request
        kept = shelf.take(asked, "policy", request.sampling.dtype, needed, lambda: tell([Loading(name=asked.name)]))
        needed.append(kept[0])
        voices.append(open_voice(number, asked.name, kept[1], request.messages, request.sampling, began_at))

    for place, number in enumerate(waiting):
        try:
            guard(partial(open_next, number), [number], shelf, tell)
        except NoRoom:
            return voices, waiting[place:]
    return voices, []


def guard(work: Callable[[], None], numbers: Sequence[int], shelf: Shelf, tell: Tell) -> None:
    """Do some work; what is wrong is told of these models, in a sentence. Raises NoRoom."""
    try:
        work()
        return
    except NoRoom:
        raise
    except StudioError as error:
        detail = error.detail
    except (torch.OutOfMemoryError, MemoryError):
        detail = MEMORY
    except Exception:
        log.exception("unexpected")
        detail = UNEXPECTED
    if detail == MEMORY:
        shelf.clear()
    tell([Declined(model=number, detail=detail) for number in numbers])


def judge(job: ChatJob, shelf: Shelf, tell: Tell, answers: dict[int, str]) -> None:
    """Tell the reward of each answer, or why there is none."""
    assert job.reward is not None
    name, numbers = job.reward.name, sorted(answers)
    if not numbers:
        return
    try:
        _, model = shelf.take(job.reward, "reward", "float32", (), lambda: tell([Loading(name=name)]))
        turns = to_turns(job.request.messages)
        rewards = model.score([Conversation(turns, ChatTurn("assistant", answers[number])) for number in numbers])
        tell([Rewarded(model=number, reward=reward) for number, reward in zip(numbers, rewards, strict=True)])
        return
    except StudioError as error:
        detail = error.detail
    except (torch.OutOfMemoryError, MemoryError):
        detail = MEMORY
        shelf.clear()
    except Exception:
        log.exception("unexpected")
        detail = UNEXPECTED
    tell([Rewarded(model=number, reward=None, detail=detail) for number in numbers])


if __name__ == "__main__":
    main()
