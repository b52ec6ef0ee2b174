"""Where a recipe's rewards come from, and with how much care they are taken."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from app.domain.problems import fault
from app.domain.texts import Line, Reference
from app.domain.training.methods import ON_GROUPS, Method
from app.domain.weighting import RecipePart


class RewardSettings(RecipePart):
    source: Literal["model", "rating", "preference"] = Field(
        "preference", description="A reward model, the data set's rating column, or the preference label (+1 / −1)."
    )
    model: Reference | None = Field(None, description="The reward model (source: model).")
    revision: Line | None = Field(None, max_length=120, description="Hub revision of the reward model (branch, tag or commit).")
    second: Reference | None = Field(
        None,
        description="A further reward model, as one trained with another seed: the reward is then the models' mean less "
        "reward.caution of their deviations. Empty: reward.model alone, which judges evaluations in any case.",
    )
    third: Reference | None = Field(None, description="One more of them.")
    caution: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = Field(
        1.0, description="k in mean − k · deviation of several reward models: what they dispute is worth less. 0: their mean."
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number type in which reward model and judge compute. bfloat16 halves their memory and rounds rewards "
        "to about three digits.",
    )
    judge: Reference | None = Field(
        None, description="A reward model that only scores evaluation generations; the reward model itself when empty."
    )
    length_control: bool = Field(
        False,
        description="Take out of the rewards what response length explains: a straight line through all scored responses.",
    )
    per_prompt: bool = Field(
        False,
        description="Rewards in standard deviations of each prompt's own responses: prompts that are rewarded more, or more "
        "widely, than others then count alike. Needs several responses a prompt.",
    )
    accept_inverted: bool = Field(
        False, description="Launch anyway when the rewards contradict the preference labels (finding inverted_rewards)."
    )

    @property
    def further(self) -> dict[str, str]:
        """The reward models beside `model`, by their fields."""
        named = {"reward.second": self.second, "reward.third": self.third}
        return {path: model for path, model in named.items() if model is not None}

    @model_validator(mode="after")
    def model_fits_source(self) -> Self:
        if self.source == "model" and self.model is None:
            raise fault(
                "model",
                "Choose a reward model. Of the data's own responses the rating or the preference may be the reward instead.",
            )
        if self.source != "model" and self.model is not None:
            raise fault(
                "model",
                f"Rewards come from the {self.source}: leave the reward model empty, or name it as judge.",
            )
        return self

    @model_validator(mode="after")
    def models_differ(self) -> Self:
        if self.source != "model" and self.further:
            raise fault(
                "second" if self.second else "third",
                f"Rewards come from the {self.source}, which is one opinion: leave further reward models empty.",
            )
        if self.third is not None and self.second is None:
            raise fault("third", "There is no second reward model: name this one as reward.second.")
        if self.second is not None and self.second == self.model:
            raise fault("second", "It is reward.model itself, which agrees with itself: name one that was trained apart.")
        if self.third is not None and self.third in (self.model, self.second):
            raise fault("third", "It is named twice, and agrees with itself: name one that was trained apart.")
        return self


def find_idle_care(reward: RewardSettings, method: Method) -> tuple[str, str] | None:
    """Return the field and the sentence of a treatment of the rewards that would not be made; None where all are."""
    for name in ("length_control", "per_prompt"):
        if method in ON_GROUPS and getattr(reward, name):
            return f"reward.{name}", (
                f"{method} takes the rewards of fresh responses as the model gives them, and compares those to one prompt alone: "
                f"set reward.{name} to false, or take method var, online where responses shall be fresh."
            )
    if method is Method.VAR and reward.second is None and reward.caution != RewardSettings.model_fields["caution"].default:
        return "reward.caution", (
            "There is one reward model, which has no deviation from itself: name a second one as reward.second, or leave "
            "reward.caution at 1."
        )
    return None
