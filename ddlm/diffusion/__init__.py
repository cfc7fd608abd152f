"""Masked (absorbing-state) discrete diffusion; and its autoregressive twin, the model that it is compared with.

Notation, the same everywhere in ddlm:

    t                       diffusion time in [0, 1]; 0 is clean, 1 is all mask
    x_0, x_t, x_s           clean, noised, less noised (s < t)
    alpha(t), dalpha(t)     survival probability and its derivative; alpha(0) = 1, alpha(1) = 0
    is_masked               bool, which positions are masked
    mask_id = vocab_size    the last embedding row, input only; the head writes the ids 0 … vocab_size - 1
    batch_size, seq_len, vocab_size, d_model, num_layers, num_heads, head_dim
    b, l, v, h, d           axes in shape annotations: batch, position, vocabulary, head, width
    num_sampling_steps      sampler steps; `step` is an optimizer step
    nll_nats                per token; bits_per_byte
"""

from typing import Literal

from pydantic import Field, model_validator

from ddlm.config import Section

PARAMETERS_OF = {
    "schedule_power": ("schedule", "polynomial"),
    "schedule_steepness": ("schedule", "sigmoid"),
    "schedule_sigma": ("schedule", "geometric"),
    "weight_clip": ("weighting", "clipped"),
    "bell_floor": ("weighting", "bell"),
}
"""The choice that each parameter of the objective belongs to; beside any other choice it is refused."""


class ObjectiveConfig(Section):
    """`[objective]`: what training minimises."""

    kind: Literal["masked", "autoregressive"] = "masked"
    """`autoregressive`: the negative log-likelihood from left to right, by the same network with causal attention over
    the row shifted right behind one end token. Every position is predicted; there is no noise, so nothing below but
    `truncation_share` applies."""
    schedule: Literal["linear", "cosine", "polynomial", "square_root", "sigmoid", "geometric", "log_linear"] = "linear"
    """How many tokens are masked, and how often. It never moves the bound, only the variance of its estimate."""
    schedule_power: float | None = Field(default=None, ge=0.1, le=10)
    """Of `polynomial`: the exponent; 2 when absent."""
    schedule_steepness: float | None = Field(default=None, gt=0, le=40)
    """Of `sigmoid`: 10 when absent."""
    schedule_sigma: tuple[float, float] | None = None
    """Of `geometric`: the smallest and the largest total noise; [1e-4, 20] when absent."""
    weighting: Literal["bound", "plain", "clipped", "bell"] = "bell"
    """`bell` favours rows that are about half masked, and learns fastest. `bound`: the negative ELBO; the others are
    none: `plain` weighs all masked tokens alike, `clipped` caps the bound's weight of a token."""
    weight_clip: float | None = Field(default=None, ge=1)
    """Of `clipped`: the cap, where a token of a fully masked row weighs 1; 10 when absent."""
    bell_floor: float | None = Field(default=None, ge=0, le=1)
    """Of `bell`: the share of the bound's own density that is mixed in, so that rows which are all mask, where every
    text begins, are trained too; 0 when absent. It does not lower the bound: 0.1 and 0.25 gave 0.004 and 0.006 bits a
    byte more after 200 steps of `configs/quick.toml`, two seeds."""
    complementary: bool = False
    """Every row comes twice: with a mask and with its complement."""
    truncation_share: float = Field(default=0.0, ge=0, le=1)
    """The share of steps whose whole batch is cut to a random length."""
    causal_start: float = Field(default=0.0, ge=0, lt=1)
    """The share of training, from its beginning, in which the network reads and predicts as the twin does."""

    @property
    def is_autoregressive(self) -> bool:
        return self.kind == "autoregressive"

    def at(self, share_done: float) -> "ObjectiveConfig":
        """What is minimised when so much of training is done.

        A causal model learns from every position of a row, a masked one from some. Source: Gong et al., 2024
        (2410.17891), who adapt trained causal models and keep their shifted output; our deviations: one training does
        both, and what is masked is predicted in its own place.
        """
        if share_done >= self.causal_start:
            return self
        return ObjectiveConfig(kind="autoregressive", truncation_share=self.truncation_share)

    @model_validator(mode="after")
    def _the_twin_has_no_noise(self) -> "ObjectiveConfig":
        for name, field in type(self).model_fields.items():
            given = getattr(self, name)
            if self.is_autoregressive and name not in ("kind", "truncation_share") and given != field.default:
                raise ValueError(f"{name} {given!r} has no effect with kind autoregressive; leave it out")
        return self

    @model_validator(mode="after")
    def _parameters_belong_to_what_is_chosen(self) -> "ObjectiveConfig":
        for parameter, (choice, owner) in PARAMETERS_OF.items():
            chosen = getattr(self, choice)
            if getattr(self, parameter) is not None and chosen != owner:
                raise ValueError(f"{parameter} is for {choice} {owner}, and {choice} is {chosen}; leave it out")
        if self.schedule_sigma and not 0 < self.schedule_sigma[0] < self.schedule_sigma[1] <= 100:
            raise ValueError(f"schedule_sigma is {list(self.schedule_sigma)}; wanted 0 < smallest < largest <= 100")
        return self


SAMPLING_PARAMETERS = {
    "threshold": ("threshold",),
    "entropy_bound": ("entropy_bound",),
    "most_per_step": ("threshold", "entropy_bound"),
    "remask_share": ("remdm_cap", "remdm_rescale", "remdm_loop"),
}
"""The unmasking policies that a parameter belongs to; beside any other it is refused."""


class SamplingConfig(Section):
    """`[sampling]`: how text is drawn."""

    unmasking: Literal[
        "random", "first_hitting", "left_to_right", "confidence", "margin", "entropy", "threshold", "entropy_bound",
        "remdm_cap", "remdm_rescale", "remdm_loop", "revise",
    ] = "random"  # fmt: skip
    """Which positions are opened next, and how many; `ddlm.diffusion.unmasking` says what each does."""
    num_sampling_steps: int = Field(default=64, ge=1, le=100_000)
    """Steps at most, over all blocks of a canvas. `first_hitting` takes one for each token instead."""
    grid: Literal["linear", "cosine"] = "linear"
    """How the number of masks falls over the steps: evenly, or slowly at first (Shi et al., MD4, 2024). `threshold` and
    `entropy_bound` fall no slower."""
    block_size: int | None = Field(default=None, ge=1)
    """Write blocks of so many positions from left to right, each by the policy; absent: the whole canvas at once."""
    cache: Literal["exact", "approximate", "off"] = "exact"
    """With blocks: reuse keys and values of other blocks. `exact` does where it changes nothing, which is in
    block-causal models; `approximate` everywhere (Wu et al., Fast-dLLM, 2025: the prefix and suffix of a block are
    computed once a block)."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Of `threshold`: the probability from which a position is opened; 0.9 when absent."""
    entropy_bound: float | None = Field(default=None, ge=0)
    """Of `entropy_bound`: nats that positions opened together may depend on each other at most; 0.5 when absent."""
    most_per_step: int | None = Field(default=None, ge=1)
    """Of `threshold` and `entropy_bound`: positions that one step opens at most."""
    remask_share: float | None = Field(default=None, gt=0, le=1)
    """Of `remdm_*`: the share of written tokens that a step masks again, at most; 0.02 when absent, of rescale 0.1."""
    temperature: float = Field(default=0.8, ge=0, le=100)
    """0 takes the most likely token."""
    final_temperature: float | None = Field(default=None, gt=0, le=100)
    """The temperature moves to this one while a text is written; it stays when absent."""
    temperature_schedule: Literal["linear", "cosine"] = "linear"
    """How it moves: evenly, or slowly at both ends."""
    top_k: int | None = Field(default=None, ge=1)
    """Tokens are drawn from so many of the most likely ones; from all when absent."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Tokens are drawn from the most likely ones that together have this probability; 1 takes all."""
    repetition_penalty: float = Field(default=1.0, ge=1, le=100)
    """Logits of tokens that the text has already are divided by this where positive, multiplied where negative."""
    ends: Literal["drawn", "last", "free"] = "drawn"
    """Where a text ends. `drawn`: the model says at a block's first step how likely it ends before each position, and
    one draw decides. `last`: end tokens are opened when nothing else is left. `free`: like any other token."""

    @model_validator(mode="after")
    def _parameters_belong_to_the_policy(self) -> "SamplingConfig":
        for parameter, owners in SAMPLING_PARAMETERS.items():
            if getattr(self, parameter) is not None and self.unmasking not in owners:
                wanted = " or ".join(owners)
                raise ValueError(f"{parameter} is for unmasking {wanted}, and that is {self.unmasking}; leave it out")
        if self.final_temperature is not None and self.temperature == 0:
            raise ValueError("final_temperature has no effect from temperature 0; leave it out or start above 0")
        if self.cache == "approximate" and self.block_size is None:
            raise ValueError("cache approximate has no effect without blocks; set block_size, or leave it out")
        return self
