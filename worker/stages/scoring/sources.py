"""Where scores come from: the reward model and the reference policy, each loaded when first asked, and dropped when told."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from app.domain.errors import InvalidInput
from app.domain.jobs import ModelSource
from worker.models.adapter import LanguageModel
from worker.models.load import hash_folder, hash_tokenizer, load_policy, release_memory, resolve_folder
from worker.models.prompts import Conversation
from worker.models.rendering.dates import writes_date
from worker.models.reward import RewardModel
from worker.models.template import ChatTurn
from worker.stages.attempt import AttemptContext
from worker.stages.examples import Encoded
from worker.stages.prepare import Ground
from worker.stages.scoring.backends import SHARED, choose_backend, score_by
from worker.stages.scoring.cache import Wanted
from worker.stages.scoring.pairs import (
    NAN,
    describe_plan,
    hash_texts,
    hash_tokens,
    score_rewards,
    score_until_hopeless,
    sequence_logprobs,
)


class RewardSource:
    """The recipe's reward model. One of these and the reference are never loaded together: `release` before the other."""

    def __init__(self, attempt: AttemptContext, ground: Ground, source: ModelSource | None = None) -> None:
        """`source`: where the model is, for another than the recipe's."""
        source = source or attempt.spec.reward
        if source is None:
            raise InvalidInput.at(
                "reward.model", "The recipe names a reward model, but the attempt's spec does not say where it is."
            )
        self._attempt, self._ground = attempt, ground
        self._folder = resolve_folder(source, Path(attempt.spec.hub_dir))
        self._model: RewardModel | None = None

    @property
    def model(self) -> RewardModel:
        if self._model is None:
            self._model = self._load()
            if self._model.remark:
                self._attempt.log(self._model.remark, "warning")
        return self._model

    def _load(self) -> RewardModel:
        recipe, device, day = self._attempt.recipe, self._attempt.spec.device, self._attempt.day
        return RewardModel(self._folder, dtype=recipe.reward.dtype, device=device, day=day)

    def release(self) -> None:
        """Drop the model, which first tells of the conversations that it could not read whole."""
        if self._model is not None and self._model.cut_remark:
            self._attempt.log(self._model.cut_remark, "warning")
        self._model = None
        gc.collect()
        release_memory()

    def score(self, batch: Sequence[Encoded], wanted_BM: Tensor) -> Tensor:
        """r(x_i, y_j) of the marked pairs as [B, M] float32, NaN elsewhere; where none is marked, no model is loaded."""
        if not bool(wanted_BM.any()):
            return torch.full(wanted_BM.shape, NAN)
        return score_rewards(self.model, batch, wanted_BM, self._attempt.stop.check)

    def score_answers(self, prompts: Sequence[Encoded], texts: Sequence[str]) -> list[float]:
        """Rewards of a text for each prompt, from a model that is loaded for this and let go again."""
        model = self._load()
        answered = zip(prompts, texts, strict=True)
        conversations = [Conversation(e.turns, ChatTurn("assistant", text), e.tools) for e, text in answered]
        rewards = model.score(conversations, self._attempt.stop.check)
        del model
        release_memory()
        return rewards

    def score_texts(self, prompts: Sequence[Encoded], texts: Sequence[str]) -> list[float]:
        """Rewards of a text for each prompt, from the model that stays loaded until `release`."""
        answered = zip(prompts, texts, strict=True)
        conversations = [Conversation(e.turns, ChatTurn("assistant", text), e.tools) for e, text in answered]
        return self.model.score(conversations, self._attempt.stop.check)

    @cached_property
    def model_facts(self) -> dict[str, str]:
        """What the rewards of any text depend on."""
        dtype = self._attempt.recipe.reward.dtype
        facts = {"weights": hash_folder(self._folder), "tokenizer": hash_tokenizer(self._folder), "dtype": dtype}
        return facts | ({"template_date": str(self._attempt.day)} if writes_date(self._folder) else {})

    @cached_property
    def _facts(self) -> tuple[dict[str, str], dict[str, str]]:
        """What the numbers depend on, and the same with the plan for people."""
        facts = self.model_facts
        identity = {**facts, "texts": hash_texts(self._ground.batches).hexdigest()}
        return identity, {**describe_plan(self._ground.batches, self._ground.prepared.held_out, self._attempt.recipe), **facts}

    def want(self, extent: str, smallest_lambda: float | None = None, stopping: str = "") -> Wanted:
        return Wanted("reward", *self._facts, extent, smallest_lambda, stopping)


class ReferenceSource:
    """The untrained policy, which is the reference."""

    def __init__(self, attempt: AttemptContext, ground: Ground) -> None:
        self._attempt, self._ground = attempt, ground
        self.loaded: LanguageModel | None = None
        self._backends: dict[bool, str] = {}

    @property
    def model(self) -> LanguageModel:
        if self.loaded is None:
            self.loaded = self._load()
            if fault := self.loaded.flex_fault:
                self._attempt.log(f"FlexAttention is off for this model, so packed rows take longer: {fault}", "warning")
        return self.loaded

    def _load(self) -> LanguageModel:
        policy, folder, device = self._attempt.recipe.policy, self._ground.policy_folder, self._attempt.spec.device
        return load_policy(folder, dtype=policy.dtype, device=device, quantization=policy.quantization).language_model

    def release(self) -> None:
        self.loaded = None
        gc.collect()
        release_memory()

    @property
    def backend(self) -> str:
        """How the pairs were scored; "" when none was."""
        return next(iter(self._backends.values()), "")

    def score(self, batch: Sequence[Encoded], wanted_BM: Tensor) -> Tensor:
        """log π_ref(y_j|x_i) of the marked pairs as [B, M] float32, NaN elsewhere."""
        return score_by(self._choose(batch, chunks=False), self.model, batch, wanted_BM, self._attempt.stop.check)

    def score_until_hopeless(self, batch: Sequence[Encoded], wanted_BM: Tensor, floor_BM: Tensor) -> Tensor:
        """Return the same, but a pair is left off once its sum is below `floor_BM`: its entry is then the sum up to there."""
        if self._choose(batch, chunks=True) == SHARED:
            return score_until_hopeless(self.model, batch, wanted_BM, floor_BM, self._attempt.stop.check)
        return self.score(batch, wanted_BM)

    @contextmanager
    def beside(self, policy: LanguageModel) -> Iterator[Callable[[], AbstractContextManager[LanguageModel]]]:
        """Provide how to turn to the reference: with LoRA the policy without its adapter, else a model loaded for the block."""
        if policy.lora is not None:
            yield policy.as_reference
            return
        loaded = [self._load()]
        try:
            yield lambda: nullcontext(loaded[0])
        finally:
            loaded.clear()  # whoever was given the function may still hold it
            release_memory()

    def score_answers(self, model: LanguageModel, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
        """log π_ref of pairs of ids: with LoRA from `model` without its adapter, else from one loaded for this."""
        with self.beside(model) as as_reference, as_reference() as reference:
            return sequence_logprobs(reference, pairs)

    def _choose(self, batch: Sequence[Encoded], *, chunks: bool) -> str:
        """Checked on the first batch that is scored, and kept."""
        if chunks not in self._backends:
            wanted, attempt = self._attempt.recipe.scoring.backend, self._attempt
            self._backends[chunks] = choose_backend(self.model, wanted, batch, attempt.log, attempt.stop.check, chunks=chunks)
        return self._backends[chunks]

    @cached_property
    def model_facts(self) -> dict[str, str]:
        """What the log-probabilities of any text depend on."""
        policy, folder = self._attempt.recipe.policy, self._ground.policy_folder
        return {"weights": hash_folder(folder), "dtype": policy.dtype, "quantization": policy.quantization}

    @cached_property
    def _facts(self) -> tuple[dict[str, str], dict[str, str]]:
        ground, model = self._ground, self.model_facts
        tokens = {
            "tokenizer": hash_tokenizer(ground.policy_folder),
            "format": "chat template" if ground.prompt_format.chat else "plain turns",
            "max_prompt": str(ground.lengths.max_prompt),
            "max_response": str(ground.lengths.max_response),
        }
        identity = {**model, "tokens": hash_tokens(ground.batches).hexdigest()}
        return identity, {**describe_plan(ground.batches, ground.prepared.held_out, self._attempt.recipe), **tokens, **model}

    def want(self, extent: str, smallest_lambda: float | None = None, stopping: str = "") -> Wanted:
        return Wanted("logprob", *self._facts, extent, smallest_lambda, stopping)
