"""Settings of the training loop, and of the methods that have some of their own."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from app.domain.problems import fault
from app.domain.training.methods import Method
from app.domain.weighting import Positive, RecipePart, Share


class TrainingSettings(RecipePart):
    batch_size: int = Field(8, ge=1, le=65_536, description="B: prompts per optimizer step; Z(x) spans all of them.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Prompts per forward pass; empty: the whole batch. Changes memory, not the result.",
    )
    epochs: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = Field(1.0, description="Passes over the data.")
    steps: int | None = Field(None, ge=1, le=10_000_000, description="Optimizer steps; when given it replaces epochs.")
    learning_rate: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = Field(
        default_factory=lambda: 1e-5,
        description="Peak of the schedule. Left out: what is proposed, 1e-5 for all weights and 1e-4 for LoRA; "
        "under DPO 2e-6 and 2e-5; the other methods have their own.",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after its peak: along a cosine, in a straight line, or not at all."
    )
    warmup_share: Share = Field(0.03, description="Share of the steps over which the learning rate rises.")
    weight_decay: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] = Field(
        0.0, description="AdamW's pull of the trained parameters towards 0; 0 switches it off."
    )
    grad_clip: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(
        1.0, description="Largest gradient norm; 0 switches clipping off."
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Starts training's own random choices: the batches and their order, dropout, the first weights of an adapter "
        "or a reward head, fresh responses. What is held out follows evaluation.seed.",
    )
    num_processes: int = Field(1, ge=1, le=64, description="Devices that train together; Z(x) still spans the whole batch.")
    sharding: Literal["none", "full"] = Field(
        "none", description="none: every device holds the whole policy. full: weights, gradients and optimizer are split (FSDP2)."
    )
    checkpoint_every: int = Field(100, ge=1, le=10_000_000, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(2, ge=1, le=1000, description="How many of the newest checkpoints are kept.")

    @model_validator(mode="after")
    def micro_batch_fits(self) -> Self:
        if self.micro_batch_size is not None and self.micro_batch_size > self.batch_size:
            raise fault("micro_batch_size", f"{self.micro_batch_size} is larger than batch_size {self.batch_size}.")
        if self.num_processes > self.batch_size:
            raise fault(
                "num_processes", f"{self.num_processes} processes share {self.batch_size} prompts: use fewer, or a larger batch."
            )
        if self.epochs is None and self.steps is None:
            raise fault("epochs", "Give epochs or steps.")
        return self


class DpoSettings(RecipePart):
    beta: Positive = Field(0.1, description="β of direct preference optimisation: larger stays nearer to the reference.")


class IpoSettings(RecipePart):
    beta: Positive = Field(0.1, description="β of IPO: the margin per token that is aimed at is 1/(2β); larger stays nearer.")


class SimpoSettings(RecipePart):
    beta: Positive = Field(2.0, description="β of SimPO: scale of the mean log-probability per token, its reward.")
    gamma: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(
        1.0, description="γ of SimPO: by how much the chosen response's reward is to be above the rejected one's."
    )


class KtoSettings(RecipePart):
    beta: Positive = Field(0.1, description="β of KTO: larger stays nearer to the reference.")
    desirable_weight: Positive = Field(1.0, description="Weight of desirable responses; raise it where they are few.")
    undesirable_weight: Positive = Field(1.0, description="Weight of undesirable responses; raise it where they are few.")
    split_pairs: bool = Field(
        False, description="Data of pairs alone: take every chosen response for desirable, every rejected one for undesirable."
    )


class GroupSettings(RecipePart):
    """RLOO and GRPO, beside what `online` says of the fresh responses."""

    clip: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = Field(
        0.2, description="ε: how far π_θ/π_s may move from 1 before a response (GRPO: a token) gains nothing more."
    )
    kl_weight: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(
        0.04, description="κ: weight of the KL from the reference, in the loss (GRPO) or taken off the reward (RLOO)."
    )


class OrpoSettings(RecipePart):
    beta: Positive = Field(0.1, description="β of ORPO: weight of the odds ratio beside fine-tuning on the chosen responses.")


class OnlineSettings(RecipePart):
    """Fresh responses of the policy itself: for VAR weighted with a Z(x) over each prompt's candidates, for RAFT, RLOO and GRPO
    compared with one another.
    """

    every: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Steps between two rounds of sampling from the policy; empty: offline, and 1 for raft, rloo and grpo.",
    )
    num_responses: int = Field(4, ge=2, le=64, description="Fresh responses per prompt.")
    max_new_tokens: int = Field(128, ge=1, le=32_768, description="Longest fresh response, in tokens.")
    temperature: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = Field(
        1.0, description="Temperature of the sampling, 1 or more: below, the policy collapses onto its likeliest responses."
    )


def find_kto_fault(
    settings: KtoSettings, num_desirable: int | None, num_undesirable: int | None, only_pairs: bool
) -> tuple[str, str] | None:
    """Return the field and what is wrong with data for KTO, to follow their name; None where nothing is.

    Numbers that are None are not known. `only_pairs`: every example has a chosen and a rejected response.
    """
    if only_pairs and not settings.split_pairs:
        return "kto.split_pairs", (
            "holds pairs alone, where KTO learns from single responses with a label of their own: set kto.split_pairs to true, "
            "which takes every chosen response for desirable and every rejected one for undesirable, or train by dpo, which "
            "reads the pairs."
        )
    if num_desirable == num_undesirable == 0:
        return "method", (
            "says of no response whether it is desirable, which KTO learns from: map a column of labels, or take method var with "
            "ratings or a reward model."
        )
    for number, what in ((num_desirable, "desirable (chosen)"), (num_undesirable, "undesirable (rejected)")):
        if number == 0:
            return "method", f"has no {what} responses, and KTO learns from both kinds: add some, or take another method."
    return None


def tell_missing_pairs(method: Method, has_labels: bool) -> str:
    """Return what is wrong with data without pairs for a method that needs them, to follow their name."""
    if method is Method.REWARD_MODEL:
        instead = "take a data set that has some."
    elif has_labels:
        instead = "take kto, which learns from single labelled responses, or data with pairs."
    else:
        instead = "take method var with ratings or a reward model, or data with pairs."
    return f"has no pairs of a chosen and a rejected response, which {method} learns from: {instead}"
