"""The denoiser: a bidirectional transformer over clean tokens and masks."""

from pydantic import Field, model_validator

from ddlm.config import Section


class ModelConfig(Section):
    """`[model]`: dimensions. Vocabulary and length come from the tokenizer and the shards."""

    d_model: int = Field(default=256, ge=8)
    num_layers: int = Field(default=4, ge=1)
    num_heads: int = Field(default=4, ge=1)
    d_ff: int | None = Field(default=None, ge=8)
    """Width of the SwiGLU layer; absent: 8/3 of d_model, rounded up to a multiple of 32."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rope_theta: float = Field(default=10000.0, gt=0)
    tied_head: bool = False

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> "ModelConfig":
        if self.d_model % (2 * self.num_heads):
            raise ValueError(
                f"d_model {self.d_model} is not an even multiple of num_heads {self.num_heads}; "
                f"take a multiple of {2 * self.num_heads}"
            )
        return self

    @property
    def head_dim(self) -> int:
        return self.d_model // self.num_heads

    @property
    def hidden_dim(self) -> int:
        return self.d_ff or -(-8 * self.d_model // 3 // 32) * 32
