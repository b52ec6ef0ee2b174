"""The oracle: log π(y|x) by one full forward pass and one full log-softmax per pair, as slow as it is plain.

It asks the network itself and shares no code with the quick ways, which are checked against it.
"""

from collections.abc import Callable, Sequence

import torch

from worker.models.adapter import LanguageModel

Ids = Sequence[int]


@torch.inference_mode()
def score_naively(
    model: LanguageModel, pairs: Sequence[tuple[Ids, Ids]], check: Callable[[], None] = lambda: None
) -> list[float]:
    """Σ_t log π(y_t|x, y_<t) of each (prompt ids, response ids), both non-empty; `check` is called between passes."""
    sums = []
    for prompt, response in pairs:
        check()
        ids_1T = torch.tensor([[*prompt, *response]], device=model.device)
        logits_TV = model.network(input_ids=ids_1T, attention_mask=torch.ones_like(ids_1T), use_cache=False).logits[0]
        predicted_TV = torch.log_softmax(logits_TV[len(prompt) - 1 : -1].float(), dim=1)
        sums.append(float(predicted_TV.gather(1, ids_1T[0, len(prompt) :, None]).double().sum()))
    return sums
