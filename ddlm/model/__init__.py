"""The denoiser: a transformer over clean tokens and masks."""

from typing import Any, Literal

from pydantic import Field, model_validator

from ddlm.config import Section

PRESETS = {"tiny": 4, "small": 6, "medium": 8, "large": 10, "xlarge": 12, "xxlarge": 16}
"""A preset is a depth n: n layers, n heads of 64 and a width of 64 n. At vocabulary 8192: 7 to 219 million weights."""
TIME_DIM = 128
"""Width of the time features. MDLM's: as wide as the model, as in DiT, they would add half of a block's parameters."""


class ModelConfig(Section):
    """`[model]`: the network. Vocabulary and length come from the tokenizer and the shards."""

    preset: Literal["tiny", "small", "medium", "large", "xlarge", "xxlarge"] | None = Field(default=None, exclude=True)
    """Fills in the dimensions that are not given, and is gone from the parsed config: only dimensions are left."""
    d_model: int = Field(default=256, ge=8, le=2**15)
    num_layers: int = Field(default=4, ge=1, le=1024)
    num_heads: int = Field(default=4, ge=1, le=2**12)
    d_ff: int | None = Field(default=None, ge=8, le=2**18)
    """Width of the feed-forward layer; absent: 4 d_model for relu2, for swiglu 8/3 of it up to a multiple of 32."""
    activation: Literal["swiglu", "relu2"] = "swiglu"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rope_theta: float = Field(default=10000.0, gt=0)
    tied_head: bool = False
    logit_soft_cap: float | None = Field(default=None, gt=0)
    """Logits x become cap · tanh(x / cap)."""
    time_conditioning: bool = False
    """Blocks are told the masked share of their row."""
    attention: Literal["bidirectional", "causal", "block_causal"] = "bidirectional"
    block_size: int | None = Field(default=None, ge=1)
    """For block_causal: positions see the whole of their own block and of those before it."""
    segment_mask: bool = False
    """Stories that share a row do not see each other, as far as visible end tokens show where they end."""

    @model_validator(mode="before")
    @classmethod
    def _preset_fills_dimensions(cls, given: Any) -> Any:
        preset = given.get("preset") if isinstance(given, dict) else None
        if not (isinstance(preset, str) and preset in PRESETS):
            return given
        depth = PRESETS[preset]
        dimensions = {"d_model": 64 * depth, "num_layers": depth, "num_heads": depth}
        if dimensions.keys() <= given.keys():
            raise ValueError(f"model.preset {preset!r} has no effect beside {', '.join(dimensions)}; drop one of them")
        return {**dimensions, **given, "preset": None}

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "ModelConfig":
        if self.d_model % (2 * self.num_heads):
            raise ValueError(
                f"d_model {self.d_model} is not an even multiple of num_heads {self.num_heads}; "
                f"take a multiple of {2 * self.num_heads}"
            )
        return self

    @model_validator(mode="after")
    def _attention_is_whole(self) -> "ModelConfig":
        if self.attention == "block_causal" and self.block_size is None:
            raise ValueError('attention "block_causal" needs block_size, got none; give one, for example 32')
        if self.attention != "block_causal" and self.block_size is not None:
            raise ValueError(
                f'block_size {self.block_size} has no effect with attention "{self.attention}"; '
                'drop it or set attention = "block_causal"'
            )
        if self.attention != "bidirectional" and self.time_conditioning:
            raise ValueError(
                "time_conditioning counts the masks of the whole row, also where attention "
                f'"{self.attention}" must not look; set time_conditioning = false or attention = "bidirectional"'
            )
        return self

    @property
    def visible_block(self) -> int | None:
        """Positions see the whole of their own block of this size and of those before it; None: they see all."""
        return {"bidirectional": None, "causal": 1, "block_causal": self.block_size}[self.attention]

    @property
    def head_dim(self) -> int:
        return self.d_model // self.num_heads

    @property
    def hidden_dim(self) -> int:
        return self.d_ff or (4 * self.d_model if self.activation == "relu2" else -(-8 * self.d_model // 3 // 32) * 32)

    @property
    def block_matrices(self) -> int:
        """Weights of one block's matrices that every token meets."""
        feed_forward = 3 if self.activation == "swiglu" else 2
        return 4 * self.d_model**2 + feed_forward * self.d_model * self.hidden_dim


def require_causal(config: ModelConfig, is_autoregressive: bool) -> None:
    """Raises: ValueError for an autoregressive network that could see what it predicts, or whose segments, found in
    the shifted row, would begin one token late."""
    if is_autoregressive and (config.attention != "causal" or config.segment_mask):
        got = f'"{config.attention}"' + " with a segment mask" * config.segment_mask
        raise ValueError(
            f'objective.kind "autoregressive" needs model.attention "causal" without a segment mask, got {got}; '
            'set model.attention = "causal" and model.segment_mask = false'
        )
