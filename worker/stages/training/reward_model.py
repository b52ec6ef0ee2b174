"""A reward model from preference pairs: conversations as reward models read them, and the accuracy on held-out pairs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from app.domain.errors import ModelInvalid
from app.domain.events import EvaluationLogged
from app.domain.findings import wilson_interval
from app.domain.run import Stage
from worker.models.adapter import Body
from worker.models.classifier import classify
from worker.models.encode import encode_whole
from worker.models.padding import BESIDE_TRAINING, group_rows
from worker.models.prompts import Conversation, PromptFormat
from worker.models.template import PromptRefused
from worker.stages.attempt import AttemptContext
from worker.stages.examples import Encoded
from worker.stages.training.gradients import TextBatch
from worker.stages.training.objectives import find_pairs
from worker.var.bradley_terry import bradley_terry_loss

MOST_PAIRS = 512  # of the held-out ones, the first so many judge


@dataclass(frozen=True)
class ConversationEncoder:
    """How conversations become ids, as worker.models.reward makes them; what is over `limit` loses the start of its prompt."""

    prompt_format: PromptFormat
    limit: int

    def read(self, batch: Sequence[Encoded], index: int = 0) -> TextBatch:
        """Return a batch of whole conversations, prompts of like length together; raises ModelInvalid."""
        batch = sorted(batch, key=lambda example: (example.longest, example.example_id))
        chosen_P, rejected_P = find_pairs(batch)
        conversations = [Conversation(e.turns, response.as_turn(), e.tools) for e in batch for response in e.responses]
        try:
            ids, _ = encode_whole(self.prompt_format, conversations, self.limit)
        except PromptRefused as error:
            raise ModelInvalid(f"A conversation of the data set can't be written for a reward model: {error}") from error
        prompt_M = torch.tensor([i for i, example in enumerate(batch) for _ in example.responses])
        return TextBatch(index, ids, prompt_M, chosen_P, rejected_P)


def evaluate_pairs(attempt: AttemptContext, model: Body, pairs: TextBatch, step: int) -> dict[str, float | None]:
    """Accuracy on held-out pairs (ties count half) with its 95 % Wilson interval, margin and loss; reported as an evaluation."""
    num = len(pairs.chosen_P)
    attempt.start_stage(Stage.EVALUATE, total=num, unit="pairs")
    reward_M = score_rows(model, pairs.ids, attempt)
    loss, margin_P = bradley_terry_loss(reward_M, pairs.chosen_P, pairs.rejected_P, num)
    right = float((margin_P > 0).sum() + 0.5 * (margin_P == 0).sum())
    low, high = wilson_interval(right, num)
    metrics = {
        "eval/pair_accuracy": right / num,
        "eval/pair_accuracy_low": low,
        "eval/pair_accuracy_high": high,
        "eval/pair_margin": float(margin_P.mean()),
        "eval/pair_loss": float(loss),
    }
    evaluation = EvaluationLogged.model_validate({"step": step, "metrics": metrics})
    attempt.emit(evaluation)
    return evaluation.metrics


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


def take_pairs(examples: Sequence[Encoded]) -> list[Encoded]:
    """Return the first examples that together have at most MOST_PAIRS pairs, and those without any left out."""
    taken: list[Encoded] = []
    total = 0
    for example in examples:
        num = len(find_pairs([example])[0])
        if num and (not taken or total + num <= MOST_PAIRS):
            taken.append(example)
            total += num
    return taken
