"""Reward models: sequence classifiers with one output and any tokenizer; one score for a prompt with an answer.

Decoder classifiers read the score at the last token that is not padding, so padding done wrong garbles them silently.
Rows are padded with the id the *model* takes for padding; when it has none, with an id that no row of the batch contains.
Decoders that pass a check encode the common beginning of a prompt's rows once and read the score from the last token themselves.
"""

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from app.domain.errors import ModelInvalid
from worker.models.adapter import adapt_body, blame_not_finite
from worker.models.encode import encode_whole
from worker.models.load import context_window, load_classifier, load_tokenizer
from worker.models.padding import group_rows, token_budget
from worker.models.prefix import run_continuations
from worker.models.prompts import Conversation, PromptFormat
from worker.models.template import ChatTurn, PromptRefused

Rows = list[list[int]]


def _go_on() -> None:
    """The default `check`: never stop."""


class RewardModel:
    """A loaded reward model; `score` is its one verb. Drop the object to free the memory."""

    def __init__(self, folder: Path, *, dtype: str, device: str, day: date | None = None) -> None:
        """Load, with `day` as its template's today; prove that no score depends on the rows beside it. Raises ModelInvalid."""
        self.folder = folder
        self.tokenizer = load_tokenizer(folder)
        self.network = load_classifier(folder, dtype=dtype, device=device)
        self.format = PromptFormat.choose(self.tokenizer, day=day)
        self.body = adapt_body(self.network)
        self._window = context_window(self.network.config)
        if self.body.find_row_limit() < len(self.tokenizer):
            raise ModelInvalid(
                f"The tokenizer in {folder} has {len(self.tokenizer)} entries, the reward model only "
                f"{self.body.find_row_limit()} embeddings: they don't belong together."
            )
        self.num_rows = self.num_cut = 0  # conversations that were asked about, and those of them that lost their beginning
        self._check_batch_invariance()
        self.shares_prefix = self.body.shares_prefix and self._reads_last_token()
        self.num_cut = 0  # without the probes

    @property
    def remark(self) -> str:
        """What a user should know of the model's set-up; "" when there is nothing."""
        if self._pad_id is not None:
            return ""
        return (
            f"The reward model in {self.folder.name} names no pad token. Rows are filled up with an id that none of them has; "
            "its scores were the same alone and in a batch."
        )

    @property
    def cut_remark(self) -> str:
        """How many conversations so far were longer than the model's window; "" when none was."""
        if not self.num_cut:
            return ""
        share = f"{self.num_cut} of {self.num_rows} conversations {'loses its' if self.num_cut == 1 else 'lose their'} beginning"
        return f"The reward model reads at most {self._window} tokens: {share}."

    def score(self, conversations: Sequence[Conversation], check: Callable[[], None] = _go_on) -> list[float]:
        """Scores of prompts with answers, in their order; `check` is called between forward passes and may raise."""
        rows = self._encode(conversations)
        self.num_rows += len(rows)
        if self.shares_prefix and all(row[-1] != self._pad_id for row in rows):
            return self._score_shared(rows, [conversation.turns for conversation in conversations], check)
        return self._score_plain(rows, check)

    def _encode(self, conversations: Sequence[Conversation]) -> Rows:
        """Ids of whole conversations, which lose the start of their prompt where they are longer than the model's window."""
        try:
            rows, num_cut = encode_whole(self.format, conversations, self._window)
        except PromptRefused as error:
            raise ModelInvalid(f"The reward model in {self.folder} can't read a conversation of the data set: {error}") from error
        self.num_cut += num_cut
        return rows

    @torch.inference_mode()
    def _score_shared(self, rows: Rows, owners: Sequence[Sequence[ChatTurn]], check: Callable[[], None]) -> list[float]:
        """Rows of one prompt share their longest common beginning; the score is read from each row's last token."""
        of_prompt: dict[tuple[ChatTurn, ...], list[int]] = {}
        for row, turns in enumerate(owners):
            of_prompt.setdefault(tuple(turns), []).append(row)
        beginnings, continuations = [], []
        for number, members in enumerate(of_prompt.values()):
            size = common_length([rows[row] for row in members])
            beginnings.append(rows[members[0]][:size])
            continuations += [(row, (number, rows[row][size:])) for row in members]
        scores = torch.zeros(len(rows))
        for part in run_continuations(self.body, beginnings, [c for _, c in continuations], check):
            last_RD = part.hidden_RTD[torch.arange(len(part.rows)), part.length_R - 1]
            scores[[continuations[k][0] for k in part.rows]] = self.network.score(last_RD)[:, 0].float().cpu()
        return scores.tolist()

    @torch.inference_mode()
    def _score_plain(self, rows: Rows, check: Callable[[], None] = _go_on) -> list[float]:
        """Return every row on its own, grouped by length so that little is padded."""
        scores = torch.zeros(len(rows))
        for chosen in group_rows([len(row) for row in rows], token_budget(self.body.device)):
            check()
            scores[chosen] = self._forward([rows[i] for i in chosen])
        return scores.tolist()

    @property
    def _pad_id(self) -> int | None:
        """The id that the model itself takes for padding."""
        pad_id: int | None = self.network.config.get_text_config().pad_token_id
        return pad_id

    def _forward(self, rows: Rows) -> Tensor:
        """Right-padded pass → [R] float32 on the CPU."""
        config, declared = self.network.config.get_text_config(), self._pad_id
        pad = declared if declared is not None else absent_id(rows, self.body.find_row_limit())
        width = max(len(row) for row in rows)
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=self.body.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.body.device)
        if len(rows) > 1:
            config.pad_token_id = pad
        try:
            logits: Tensor = self.network(input_ids=ids, attention_mask=mask).logits
        finally:
            config.pad_token_id = declared
        return logits[:, 0].float().cpu()

    def _probe_rows(self) -> Rows:
        answers = [ChatTurn("assistant", text) for text in ("Well.", "I am fine, and how are you today?", "No")]
        return self._encode([Conversation([ChatTurn("user", "How are you?")], answer) for answer in answers])

    @torch.inference_mode()
    def _check_batch_invariance(self) -> None:
        """Score three rows alone and together: they must agree, or the numbers would depend on the batch."""
        rows = self._probe_rows()
        alone, together = torch.cat([self._forward([row]) for row in rows]), self._forward(rows)
        if not alone.isfinite().all():
            raise blame_not_finite(self.network)
        if not self._agree(alone, together):
            raise ModelInvalid(
                f"The reward model in {self.folder} gives an answer another score when it stands in a batch "
                f"(pad token {self._pad_id}): its padding is not set up. "
                "Set pad_token_id in its config.json to the pad token of its tokenizer."
            )

    @torch.inference_mode()
    def _reads_last_token(self) -> bool:
        """Return whether the score is a linear map of the last token's hidden state, as it is for decoders."""
        rows = [row for row in self._probe_rows() if row[-1] != self._pad_id]
        if not rows or not isinstance(getattr(self.network, "score", None), nn.Linear):
            return False
        shared = self._score_shared(rows, [[ChatTurn("user", "one prompt")]] * len(rows), _go_on)
        return self._agree(torch.tensor(shared), torch.cat([self._forward([row]) for row in rows]))

    def _agree(self, have: Tensor, want: Tensor) -> bool:
        bound = 1e-3 if self.network.dtype == torch.float32 else 8e-2
        return bool(torch.isfinite(have).all() and (have - want).abs().max() <= bound * (1 + want.abs().max()))


def common_length(rows: Rows) -> int:
    """Return how many ids all rows begin with, leaving each at least one of its own."""
    first, last = min(rows), max(rows)  # what these two share, all rows between them share
    same = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return min(same, min(len(row) for row in rows) - 1)


def absent_id(rows: Rows, num_ids: int) -> int:
    """Return the highest id that occurs in none of the rows."""
    used: set[Any] = {token for row in rows for token in row}
    return next(token for token in range(num_ids - 1, -1, -1) if token not in used)
