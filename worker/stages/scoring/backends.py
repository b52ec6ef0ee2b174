"""Three ways to score pairs, and which of them a model gets: the quickest that gives the right numbers on the data itself.

shared  each prompt is encoded once and its responses go on from the cached copy (worker.models.prefix)
flex    prompts and responses packed into one row, attended by FlexAttention (worker.models.flex); for GPUs
naive   every pair in full, one by one (worker.models.naive): the oracle
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor

from worker.models.adapter import LanguageModel
from worker.models.flex import run_flex
from worker.models.naive import score_naively
from worker.stages.batches import collate_packed
from worker.stages.examples import Encoded
from worker.stages.scoring.pairs import NAN, own_prompts, score_pairs
from worker.var.logprobs import sequence_sums, token_logprobs

SHARED, FLEX, NAIVE = "shared", "flex", "naive"
SAMPLE = 2  # prompts that the check compares, with a response of their own and one of another prompt each
ROW_TOKENS = 16_384  # of a packed row, whose mask is made whole once; a prompt with more is repeated in several rows
WORDS = {SHARED: "The shared prompt cache", FLEX: "FlexAttention"}

Check = Callable[[], None]


def score_by(backend: str, model: LanguageModel, batch: Sequence[Encoded], wanted_BM: Tensor, check: Check) -> Tensor:
    """log π_ref(y_j|x_i) of the marked pairs, summed over tokens, as [B, M] float32 on the CPU; NaN elsewhere."""
    if backend == SHARED:
        return score_pairs(model, batch, wanted_BM, check)
    score = _score_naively if backend == NAIVE else _score_packed
    return score(model, batch, wanted_BM, check)


def choose_backend(
    model: LanguageModel, wanted: str, batch: Sequence[Encoded], log: Callable[[str], None], check: Check, *, chunks: bool = False
) -> str:
    """Return the backend to use: `wanted`, or for auto the quickest, unless its numbers on a few pairs of `batch` are wrong.

    `chunks`: pairs will be scored a few tokens at a time, which only the shared cache can do.
    """
    auto = [FLEX, SHARED] if model.device.type == "cuda" else [SHARED]
    names = auto if wanted == "auto" else [] if wanted == NAIVE else [wanted, *([SHARED] if wanted == FLEX else [])]
    if chunks:
        names = [name for name in names if name != FLEX]
    for name in names:
        fault = find_fault(name, model, batch, check)
        if fault is None:
            return name
        log(f"{WORDS[name]} is not used for this model: {fault}")
    return NAIVE


def find_fault(backend: str, model: LanguageModel, batch: Sequence[Encoded], check: Check) -> str | None:
    """Return what is wrong with the backend's numbers on a few pairs, compared with full passes; None when they are right."""
    own_M = own_prompts(batch)
    wanted_BM = torch.zeros(len(batch), len(own_M), dtype=torch.bool)
    for i in range(min(SAMPLE, len(batch))):
        wanted_BM[i, int((own_M == i).nonzero()[0, 0])] = True
        wanted_BM[i, (int((own_M == i).nonzero()[-1, 0]) + 1) % len(own_M)] = True
    want_BM = _score_naively(model, batch, wanted_BM, check)
    try:
        have_BM = score_by(backend, model, batch, wanted_BM, check)
    except torch.OutOfMemoryError:
        raise  # says nothing of the backend
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        return f"it can't run it ({str(error).splitlines()[0][:200] if str(error) else type(error).__name__})."
    # Sums over tokens; in bfloat16 each token's log-probability is rough, and so is the oracle's own.
    absolute, relative = (0.01, 1e-4) if model.network.dtype in (torch.float32, torch.float64) else (0.5, 2e-2)
    want_N, have_N = want_BM[wanted_BM], have_BM[wanted_BM]
    if bool(((have_N - want_N).abs() <= absolute + relative * want_N.abs()).all()):
        return None
    largest = float((have_N - want_N).abs().nan_to_num(torch.inf).max())
    return f"on {len(want_N)} pairs it differs from full passes by up to {largest:.3g} nats."


def _score_naively(model: LanguageModel, batch: Sequence[Encoded], wanted_BM: Tensor, check: Check) -> Tensor:
    responses = [response for example in batch for response in example.responses]
    pairs = wanted_BM.nonzero()
    logprob_BM = torch.full(wanted_BM.shape, NAN)
    sums = score_naively(model, [(batch[i].prompt_before(responses[j]), responses[j].ids) for i, j in pairs.tolist()], check)
    logprob_BM[pairs[:, 0], pairs[:, 1]] = torch.tensor(sums)
    return logprob_BM


@torch.inference_mode()
def _score_packed(model: LanguageModel, batch: Sequence[Encoded], wanted_BM: Tensor, check: Check) -> Tensor:
    responses = [response for example in batch for response in example.responses]
    logprob_BM = torch.full(wanted_BM.shape, NAN)
    for filled in _fill_rows(batch, [len(response.ids) for response in responses], wanted_BM):
        check()
        pairs = sorted(filled, key=lambda pair: (pair[0], responses[pair[1]].overlap))
        families = [
            family
            for i, own in groupby(pairs, lambda pair: pair[0])
            for family in batch[i].families(responses[j] for _, j in own)
        ]
        rows = collate_packed(families).to(model.device)
        assert rows.packing is not None
        hidden_ND = run_flex(model.body, rows.ids_RT[0], rows.packing)
        head = model.head
        logprob_N = token_logprobs(hidden_ND[rows.place_N], head.weight_VD, rows.target_N, **head.options())
        index = torch.tensor(pairs)
        logprob_BM[index[:, 0], index[:, 1]] = sequence_sums(logprob_N.double(), rows.owner_N, len(pairs)).cpu().float()
    return logprob_BM


def _fill_rows(batch: Sequence[Encoded], lengths: Sequence[int], wanted_BM: Tensor) -> list[list[tuple[int, int]]]:
    """Return the marked pairs, prompt by prompt, in rows of at most ROW_TOKENS tokens (one pair at least)."""
    rows: list[list[tuple[int, int]]] = []
    total = ROW_TOKENS
    for i, j in wanted_BM.nonzero().tolist():
        new = not rows or rows[-1][-1][0] != i
        cost = lengths[j] + (len(batch[i].prompt_ids) if new else 0)
        if total + cost > ROW_TOKENS:
            rows.append([])
            total, cost = 0, lengths[j] + len(batch[i].prompt_ids)
        rows[-1].append((i, j))
        total += cost
    return rows
