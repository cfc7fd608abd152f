"""The denoiser: token ids with masks in, logits of the clean tokens out. No time input.

Source: Sahoo et al., MDLM, 2024, for the parametrisation; without time conditioning as in Ou et al., RADD, 2024.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddlm.model import ModelConfig
from ddlm.model.attention import Attention, RMSNorm, rotary_table


class FeedForward(nn.Module):
    """SwiGLU. Source: Shazeer, 2020."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.hidden_dim, bias=False)
        self.up = nn.Linear(config.d_model, config.hidden_dim, bias=False)
        self.down = nn.Linear(config.hidden_dim, config.d_model, bias=False)

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Pre-norm: attention, then feed-forward, each added to the stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "b l d"], table: Float[Tensor, "2 l half"]) -> Float[Tensor, "b l d"]:
        x = x + self.dropout(self.attention(self.attention_norm(x), table))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))  # type: ignore[no-any-return]


class Denoiser(nn.Module):
    """The whole network. The embedding has one row more than the head writes: the mask's, the last."""

    rotary: Tensor

    def __init__(self, config: ModelConfig, *, vocab_size: int, seq_len: int) -> None:
        super().__init__()
        self.config, self.vocab_size, self.seq_len = config, vocab_size, seq_len
        self.embedding = nn.Embedding(vocab_size + 1, config.d_model)
        self.start = nn.Parameter(torch.empty(config.d_model))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model)
        if not config.tied_head:
            self.output = nn.Linear(config.d_model, vocab_size, bias=False)
        self.register_buffer("rotary", rotary_table(seq_len, config.head_dim, config.rope_theta), persistent=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Projections that write into the stream, and the head, start at zero: at first every token is equally likely.

        A tied head can't be zero; its embedding is small enough that the first loss is near log(vocab_size).
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        for table in (self.embedding.weight, self.start):
            nn.init.normal_(table, std=0.02 if self.config.tied_head else 1.0)
        for block in self.blocks:
            assert isinstance(block, Block)
            nn.init.zeros_(block.attention.output.weight)
            nn.init.zeros_(block.feed_forward.down.weight)
        if not self.config.tied_head:
            nn.init.zeros_(self.output.weight)

    def forward(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l v"]:
        """Logits in float32 over the vocabulary without the mask."""
        return self.logits(self.hidden(ids))

    def hidden(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """The stream before the head.

        `start` marks the first position. Rotary positions are relative: without it a canvas of masks looks the same
        everywhere, and the model could not know where a story begins or how far it has come.
        """
        x = self.embedding(ids)
        x = torch.cat([x[:, :1] + self.start, x[:, 1:]], dim=1)
        table = self.rotary[:, : ids.shape[1]]
        for block in self.blocks:
            x = block(x, table)
        return self.norm(x)  # type: ignore[no-any-return]

    def logits(self, hidden: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes v"]:
        """The head alone: training calls it at masked positions only."""
        weight = self.embedding.weight[: self.vocab_size] if self.config.tied_head else self.output.weight
        return F.linear(hidden, weight).float()

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def train_flops_per_token(config: ModelConfig, *, vocab_size: int, seq_len: int, masked_share: float = 0.5) -> float:
    """Floating point operations of one training step a token, forward and backward (3 times the forward).

    Multiply and add count as two; the head runs at masked positions only, on average at half of them.
    """
    matrices = config.num_layers * (4 * config.d_model**2 + 3 * config.d_model * config.hidden_dim)
    attention = config.num_layers * 2 * seq_len * config.d_model
    head = masked_share * config.d_model * vocab_size
    return 3 * 2 * (matrices + attention + head)
