"""Scorings as the score pass keeps them, with made-up scores, for tests and measurements of the preview."""

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from app.domain.preview.weights import PreviewJob
from worker.models.template import ChatTurn
from worker.stages.batches import plan_batches
from worker.stages.examples import Encoded, EncodedResponse
from worker.stages.scoring.cache import CROSS, EARLY, OWN, Layout, Wanted, score_in_groups
from worker.stages.scoring.index import keep_index

SPEC = torch.tensor([1.2, 1.8])  # nats a token: of the own prompt, of another one


def draw_examples(
    num: int, *, seed: int = 0, counts: Sequence[int] = (2,), labelled: bool = True, words: int = 12
) -> list[Encoded]:
    """Examples with `counts` responses in turn, of lognormal lengths; the first response is the chosen one."""
    chance = torch.Generator().manual_seed(seed)
    total = sum(counts[i % len(counts)] for i in range(num))
    lengths = iter(torch.exp(4.4 + 0.5 * torch.randn(total, generator=chance)).clamp(4, 400).int().tolist())
    ids = array("i", range(400))

    def response(i: int, k: int) -> EncodedResponse:
        label = (1 if k == 0 else -1) if labelled else None
        return EncodedResponse(
            array("i", [64 * i + k]) + ids[: next(lengths) - 1], f"answer {k} to {i} " + "word " * words, float(k % 5), label, k
        )

    return [
        Encoded(i, (ChatTurn("user", f"question {i} " + "word " * words),), ids[:20],
                tuple(response(i, k) for k in range(counts[i % len(counts)])))
        for i in range(num)
    ]  # fmt: skip


def draw_scores(batches: Sequence[Sequence[Encoded]], seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """log π_ref and rewards of every pair: chosen responses one better, other prompts' responses three worse."""
    chance = torch.Generator().manual_seed(seed)
    logprobs, rewards = [], []
    for batch in batches:
        own_M = own_prompts(batch)
        foreign_BM = own_M != torch.arange(len(batch))[:, None]
        responses = [response for example in batch for response in example.responses]
        length_M = torch.tensor([len(response.ids) for response in responses])
        label_M = torch.tensor([response.preference or 0 for response in responses])
        nats_BM = SPEC[foreign_BM.long()] * (1 + 0.1 * torch.randn(foreign_BM.shape, generator=chance))
        logprobs.append(-nats_BM * length_M)
        rewards.append(torch.randn(foreign_BM.shape, generator=chance) + 0.5 * label_M - 3.0 * foreign_BM)
    return logprobs, rewards


def own_prompts(batch: Sequence[Encoded]) -> Tensor:
    return torch.tensor([i for i, example in enumerate(batch) for _ in example.responses])


def keep_scoring(
    folder: Path,
    batches: Sequence[Sequence[Encoded]],
    logprobs: Sequence[Tensor],
    rewards: Sequence[Tensor] | None,
    *,
    source: str = "model",
    extents: tuple[str, str] = (CROSS, CROSS),
    smallest_lambda: float | None = None,
    dataset: Path | None = None,
    request: dict[str, Any] | None = None,
) -> PreviewJob:
    """Writes index and scores as the score pass does; the job that previews them."""
    layout = Layout([own_prompts(batch) for batch in batches], [len(batch) for batch in batches])
    keys: list[str | None] = []
    for kind, matrices, extent in zip(("logprob", "reward"), (logprobs, rewards), extents, strict=True):
        if matrices is None:
            keys.append(None)
            continue
        lowest = smallest_lambda if extent == EARLY else None
        wanted = Wanted(kind, {"made": "up", "scores": str(float(matrices[0].nansum()))}, {}, extent, lowest)
        made = score_in_groups(folder, wanted, layout, lambda k, m=matrices: (m[k], m[k].numel()), lambda *_: None)
        keys.append(made.manifest.key)
    return PreviewJob(
        scorings_dir=str(folder), index_key=keep_index(folder, batches, source).key, logprob_key=keys[0], reward_key=keys[1],
        reward_source=source, batch_size=max(len(batch) for batch in batches), dataset_path=str(dataset or folder / "none"),
        request=request or {},
    )  # fmt: skip


def make_plan(examples: Sequence[Encoded], batch_size: int, seed: int = 0) -> list[list[Encoded]]:
    return [[examples[i] for i in places] for places in plan_batches(len(examples), batch_size, seed)]


def write_dataset(path: Path, examples: Sequence[Encoded], *, group_rows: int = 1024) -> Path:
    """The examples' texts in the internal form, in row groups as uploads have them."""
    rows = [
        {
            "example_id": example.example_id, "line": example.example_id + 1, "meta": "{}",
            "prompt": [{"role": role, "content": content} for role, content, _ in example.turns],
            "responses": [{"content": r.content, "rating": r.rating, "preference": r.preference} for r in example.responses],
        }
        for example in examples
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group_rows, compression="zstd")
    return path


__all__ = [
    "CROSS", "EARLY", "OWN", "draw_examples", "draw_scores", "keep_scoring", "make_plan", "own_prompts", "write_dataset",
]  # fmt: skip
