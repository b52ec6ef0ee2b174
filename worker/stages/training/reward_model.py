"""A reward model from preference pairs: conversations as reward models read them, and the accuracy on held-out pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from app.domain.errors import ModelInvalid
from app.domain.events import EvaluationLogged
from app.domain.run import Stage
from worker.models.adapter import Body
from worker.models.classifier import classify
from worker.models.encode import encode_whole
from worker.models.padding import BESIDE_TRAINING, group_rows
from worker.models.prompts import Conversation, PromptFormat
from worker.models.template import PromptRefused
from worker.stages.attempt import AttemptContext
from worker.stages.evaluation.course import report_final
from worker.stages.evaluation.figures import Figures, figure_pairs
from worker.stages.evaluation.records import RESPONSES, RewardRecord, append_rows
from worker.stages.examples import Encoded
from worker.stages.held_out import PREFIXES, SetName
from worker.stages.training.gradients import TextBatch
from worker.stages.training.objectives import find_pairs

MOST_PAIRS = 512  # of a side of the held-out ones, the first so many judge


@dataclass(frozen=True)
class ConversationEncoder:
    """How conversations become ids, as worker.models.reward makes them; what is over `limit` loses the start of its prompt."""

    prompt_format: PromptFormat
    limit: int

    def read(self, batch: Sequence[Encoded], index: int = 0) -> TextBatch:
        """Return a batch of whole conversations, prompts of like length together; raises ModelInvalid."""
        batch = by_length(batch)
        chosen_P, rejected_P = find_pairs(batch)
        conversations = [Conversation(e.turns, response.as_turn(), e.tools) for e in batch for response in e.responses]
        try:
            ids, _ = encode_whole(self.prompt_format, conversations, self.limit)
        except PromptRefused as error:
            raise ModelInvalid(f"A conversation of the data set can't be written for a reward model: {error}") from error
        prompt_M = torch.tensor([i for i, example in enumerate(batch) for _ in example.responses])
        return TextBatch(index, ids, prompt_M, chosen_P, rejected_P)


@dataclass(frozen=True)
class HeldOutPairs:
    """Held-out examples with a chosen and a rejected response, in the order in which `batch` has their conversations."""

    examples: list[Encoded]
    batch: TextBatch


def evaluate_pairs(attempt: AttemptContext, pairs: HeldOutPairs, model: Body, step: int) -> dict[str, float | None]:
    """Judge the reward model by the validation pairs, and report that as an evaluation."""
    evaluation = EvaluationLogged.model_validate({"step": step, "metrics": _judge(attempt, pairs, model, step, "validation")})
    attempt.emit(evaluation)
    return evaluation.metrics


def finish_pairs(attempt: AttemptContext, pairs: HeldOutPairs, model: Body, step: int) -> dict[str, float | None]:
    """Judge the finished reward model by the test pairs, which nothing has read so far, and report the final figures."""
    return report_final(attempt, _judge(attempt, pairs, model, step, "test"), step)


def _judge(attempt: AttemptContext, pairs: HeldOutPairs, model: Body, step: int, name: SetName) -> Figures:
    """Accuracy (ties count half) and margin with their intervals, and loss; the rewards are kept in responses.jsonl."""
    attempt.start_stage(Stage.EVALUATE, total=len(pairs.batch.chosen_P), unit="pairs" if name == "validation" else "test pairs")
    reward_M = score_rows(model, pairs.batch.ids, attempt)
    rewards = iter(reward_M.tolist())
    records = [RewardRecord(example, [next(rewards) for _ in example.responses]) for example in pairs.examples]
    append_rows(attempt, RESPONSES, {"step": step, "set": name}, (row for record in records for row in record.to_rows()))
    return {f"{PREFIXES[name]}/{key}": value for key, value in figure_pairs(records).items()}


@torch.inference_mode()
def score_rows(model: Body, rows: Sequence[Sequence[int]], attempt: AttemptContext) -> torch.Tensor:
    """Scores of rows of ids: [R] float32 on the CPU, those of like length together."""
    was_training = model.network.training
    model.network.eval()
    scores = torch.zeros(len(rows))
    for chosen in group_rows([len(row) for row in rows], BESIDE_TRAINING):
        attempt.stop.check()
        scores[chosen] = classify(model, [rows[k] for k in chosen]).cpu()
    model.network.train(was_training)
    return scores


def take_pairs(reader: ConversationEncoder, examples: Sequence[Encoded]) -> HeldOutPairs | None:
    """Return the first examples that together have at most MOST_PAIRS pairs, those without any left out; None without pairs."""
    taken: list[Encoded] = []
    total = 0
    for example in examples:
        num = len(find_pairs([example])[0])
        if num and (not taken or total + num <= MOST_PAIRS):
            taken.append(example)
            total += num
    return HeldOutPairs(by_length(taken), reader.read(taken)) if taken else None


def by_length(batch: Sequence[Encoded]) -> list[Encoded]:
    """Return the examples, those of like length together."""
    return sorted(batch, key=lambda example: (example.longest, example.example_id))
