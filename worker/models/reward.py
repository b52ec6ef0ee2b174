"""Reward models: sequence classifiers with one output and any tokenizer; one score for a prompt with an answer.

Decoder classifiers read the score at the last token that is not padding, so padding done wrong garbles them silently.
Rows are padded with the id the *model* takes for padding; when it has none, with an id that no row of the batch contains.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from app.domain.errors import ModelInvalid
from worker.models.load import context_window, load_classifier, load_tokenizer
from worker.models.prompts import PromptFormat, PromptRefused, Turn

Rows = list[list[int]]


class RewardModel:
    """A loaded reward model; `score_texts` is its one verb. Drop the object to free the memory."""

    def __init__(self, folder: Path, *, dtype: str, device: str) -> None:
        """Load and prove that a score does not depend on the rows beside it; raises ModelInvalid."""
        self.folder = folder
        self.tokenizer = load_tokenizer(folder)
        self.network = load_classifier(folder, dtype=dtype, device=device)
        self.format = PromptFormat.choose(self.tokenizer)
        self._window = context_window(self.network.config)
        self._budget = 32_768 if device.startswith("cuda") else 4_096
        self._vocab = self.network.get_input_embeddings().weight.shape[0]
        if self._vocab < len(self.tokenizer):
            raise ModelInvalid(
                f"The tokenizer in {folder} has {len(self.tokenizer)} entries, the reward model only {self._vocab} embeddings."
            )
        self._check_batch_invariance()

    def encode(self, turns: Sequence[Turn], response: str) -> list[int]:
        """Ids of the whole conversation; what is longer than the model's window loses its start."""
        try:
            text = self.format.write_conversation(turns, response)
        except PromptRefused as error:
            raise ModelInvalid(
                f"The reward model in {self.folder} can't read the conversation that begins {turns[0][1][:80]!r}: {error}"
            ) from error
        ids: list[int] = self.tokenizer(text, add_special_tokens=not self.format.chat)["input_ids"]
        if self._window is not None and len(ids) > self._window:
            ids = ids[:1] + ids[len(ids) - self._window + 1 :]
        return ids

    def score(self, pairs: Sequence[tuple[Sequence[Turn], str]], check: Callable[[], None] = lambda: None) -> list[float]:
        """Scores of (prompt, answer) pairs, in their order; `check` is called between forward passes and may raise."""
        return self.score_ids([self.encode(turns, response) for turns, response in pairs], check)

    @torch.inference_mode()
    def score_ids(self, rows: Rows, check: Callable[[], None] = lambda: None) -> list[float]:
        """Scores of token rows, grouped by length so that little is padded."""
        order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
        scores = torch.zeros(len(rows))
        at = 0
        while at < len(order):
            check()
            size = max(1, self._budget // max(1, len(rows[order[at]])))
            chosen = order[at : at + size]
            scores[chosen] = self._forward([rows[i] for i in chosen])
            at += size
        return scores.tolist()

    def _forward(self, rows: Rows) -> torch.Tensor:
        """Right-padded pass → [R] float32 on the CPU."""
        config = self.network.config.get_text_config()
        declared = config.pad_token_id
        pad = declared if declared is not None else _absent_id(rows, self._vocab)
        width = max(len(row) for row in rows)
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.network.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.network.device)
        if any(len(row) != width for row in rows) or len(rows) > 1:
            config.pad_token_id = pad
        try:
            logits: torch.Tensor = self.network(input_ids=ids, attention_mask=mask).logits
        finally:
            config.pad_token_id = declared
        return logits[:, 0].float().cpu()

    def _check_batch_invariance(self) -> None:
        """Score three rows alone and together: they must agree, or the numbers would depend on the batch."""
        rows = [
            self.encode([("user", "How are you?")], answer) for answer in ("Well.", "I am fine, and how are you today?", "No")
        ]
        alone = torch.cat([self._forward([row]) for row in rows])
        together = self._forward(rows)
        bound = 1e-3 if self.network.dtype == torch.float32 else 8e-2
        if not torch.isfinite(together).all() or (alone - together).abs().max() > bound * (1 + alone.abs().max()):
            raise ModelInvalid(
                f"The reward model in {self.folder} gives an answer another score when it stands in a batch "
                f"(pad token {self.network.config.get_text_config().pad_token_id}): its padding is not set up. "
                "Set pad_token_id in its config.json to the pad token of its tokenizer."
            )


def _absent_id(rows: Rows, vocab: int) -> int:
    """The highest id that occurs in none of the rows."""
    used = {token for row in rows for token in row}
    return next(token for token in range(vocab - 1, -1, -1) if token not in used)
