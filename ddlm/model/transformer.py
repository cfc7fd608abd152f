"""The denoiser: token ids with masks in, logits of the clean tokens out.

Source: Sahoo et al., MDLM, 2024, for the parametrisation; by default without time, as in Ou et al., RADD, 2024.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ddlm.model import TIME_DIM, ModelConfig
from ddlm.model.attention import Attention, Mask, Past, RMSNorm, make_mask, rotary_table, segments_of, starts_of


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, 2020) or squared ReLU (So et al., Primer, 2021)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.is_gated = config.activation == "swiglu"
        if self.is_gated:
            self.gate = nn.Linear(config.d_model, config.hidden_dim, bias=False)
        self.up = nn.Linear(config.d_model, config.hidden_dim, bias=False)
        self.down = nn.Linear(config.hidden_dim, config.d_model, bias=False)

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        inner = F.silu(self.gate(x)) * self.up(x) if self.is_gated else F.relu(self.up(x)).square()
        return self.down(inner)  # type: ignore[no-any-return]


class TimeFeatures(nn.Module):
    """Time as the masked share of each row: under the schedule its mean is 1 - alpha(t), and a sampler needs no clock.

    Source: Peebles and Xie, DiT, 2023, for the features; Shi et al., MD4, 2024, and MDLM for time in masked diffusion.
    """

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(TIME_DIM, TIME_DIM, bias=False)

    def forward(self, masked_share: Float[Tensor, " b"]) -> Float[Tensor, "b features"]:
        pairs = TIME_DIM // 2
        frequencies = torch.exp(-math.log(10000) / pairs * torch.arange(pairs, device=masked_share.device))
        angles = 1000 * masked_share[:, None] * frequencies
        features = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.project.weight.dtype)
        return F.silu(self.project(features))


def modulated(
    branch: Callable[[Tensor], Tensor], x: Float[Tensor, "b l d"], modulation: Float[Tensor, "b 1 three_d"] | None
) -> Float[Tensor, "b l d"]:
    """(1 + gate) · branch((1 + scale) · x + shift); without modulation the branch alone."""
    if modulation is None:
        return branch(x)
    shift, scale, gate = modulation.chunk(3, dim=-1)
    return (1 + gate) * branch((1 + scale) * x + shift)


class Block(nn.Module):
    """Pre-norm: attention, then feed-forward, each added to the stream and each modulated by time, if there is one.

    Source: DiT's adaLN-Zero. Our deviation: its gates start at 1 and not at 0, since the branches' last matrices start
    at 0, and a product of two zeros would never learn.
    The stream trains in float32 under autocast too: in bfloat16 two seeds of `configs/quick.toml` lost 0.013 and 0.047
    bits a byte, and gained a few per cent of speed.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.d_model)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)
        if config.time_conditioning:
            self.modulation = nn.Linear(TIME_DIM, 6 * config.d_model, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b l d"],
        table: Float[Tensor, "2 l half"],
        mask: Mask = None,
        time: Float[Tensor, "b features"] | None = None,
        past: Past | None = None,
    ) -> Float[Tensor, "b l d"]:
        first, second = (None, None) if time is None else self._modulations(time, x)
        seen = modulated(lambda y: self.attention(y, table, mask, past), self.attention_norm(x), first)
        x = x + self.dropout(seen)
        return x + self.dropout(modulated(self.feed_forward, self.feed_forward_norm(x), second))  # type: ignore[no-any-return]

    def _modulations(self, time: Float[Tensor, "b features"], x: Tensor) -> tuple[Tensor, ...]:
        """In the stream's precision: 1 + scale in bfloat16 would lose scales below 0.004."""
        return self.modulation(time).to(x.dtype)[:, None].chunk(2, dim=-1)  # type: ignore[no-any-return]


class Denoiser(nn.Module):
    """The whole network. The embedding has one row more than the head writes: the mask's, the last.

    end_id: of the token that ends a story; a segment mask looks for it.
    is_autoregressive: the row goes in shifted right behind one end token, so that with causal attention a position
        sees only what stands before it. It predicts from there whatever stands in its own place.
    checkpointing: whether training recomputes what is inside blocks in the backward pass instead of keeping it.
    """

    rotary: Tensor

    def __init__(
        self, config: ModelConfig, *, vocab_size: int, seq_len: int, end_id: int = 0, is_autoregressive: bool = False
    ) -> None:
        super().__init__()
        assert not is_autoregressive or config.attention == "causal", "see require_causal"
        self.config, self.vocab_size, self.seq_len, self.end_id = config, vocab_size, seq_len, end_id
        self.is_autoregressive = is_autoregressive
        self.checkpointing = False
        self.embedding = nn.Embedding(vocab_size + 1, config.d_model)
        self.start = nn.Parameter(torch.empty(config.d_model))
        if config.time_conditioning:
            self.time = TimeFeatures()
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.d_model)
        if not config.tied_head:
            self.output = nn.Linear(config.d_model, vocab_size, bias=False)
        self.register_buffer("rotary", rotary_table(seq_len, config.head_dim, config.rope_theta), persistent=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """Projections that write into the stream, and the head, start at zero: at first every token is equally likely.

        So do modulations: a fresh network with time equals one without. A tied head can't be zero; its embedding is
        small enough that the first loss is near log(vocab_size).
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
            if self.config.time_conditioning:
                nn.init.zeros_(block.modulation.weight)
        if not self.config.tied_head:
            nn.init.zeros_(self.output.weight)

    def forward(self, ids: Int[Tensor, "b l"], segments: Int[Tensor, "b l"] | None = None) -> Float[Tensor, "b l v"]:
        """Logits in float32 over the vocabulary without the mask."""
        return self.logits(self.hidden(ids, segments))

    def at(self, ids: Int[Tensor, "b l"], wanted: Bool[Tensor, "b l"]) -> Float[Tensor, "n v"]:
        """The logits at the wanted positions alone, row by row: what a sampler asks for."""
        return self.logits(self.hidden(ids)[wanted])

    def hidden(self, ids: Int[Tensor, "b l"], segments: Int[Tensor, "b l"] | None = None) -> Float[Tensor, "b l d"]:
        """The stream before the head. Segments, numbered along the row, do not see each other.

        With a segment mask they are found in the ids. A masked end token hides its border too: told apart by the clean
        row, stories would give away their lengths.
        """
        return self._stream(self.inputs(ids), segments, self.config.visible_block)

    def causal_hidden(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """The stream as an autoregressive network of these weights has it, whatever this one is."""
        return self._stream(self.shifted(ids), None, 1)

    def _stream(
        self, ids: Int[Tensor, "b l"], segments: Int[Tensor, "b l"] | None, visible_block: int | None
    ) -> Float[Tensor, "b l d"]:
        if segments is None and self.config.segment_mask:
            segments = segments_of(ids, self.end_id)
        is_start = starts_of(torch.zeros_like(ids[:1]) if segments is None else segments)
        x = self.embed(ids, is_start)
        mask = make_mask(visible_block, ids, segments)
        time = self.time((ids == self.vocab_size).float().mean(1)) if self.config.time_conditioning else None
        inputs = (self.rotary[:, : ids.shape[1]], mask, time)
        for block in self.blocks:
            recompute = self.checkpointing and self.training
            x = checkpoint(block, x, *inputs, use_reentrant=False) if recompute else block(x, *inputs)
        return self.norm(x)  # type: ignore[no-any-return]

    def inputs(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """What enters at each position: its own token, or the one before."""
        return self.shifted(ids) if self.is_autoregressive else ids

    def shifted(self, ids: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        return F.pad(ids[:, :-1], (1, 0), value=self.end_id)

    def embed(self, ids: Int[Tensor, "b l"], is_start: Bool[Tensor, "one_or_b l"]) -> Float[Tensor, "b l d"]:
        """What enters the first block. `start` marks the first position of each segment.

        Rotary positions are relative: without it a canvas of masks looks the same everywhere, and the model could not
        know where a story begins or how far it has come.
        """
        return self.embedding(ids) + is_start[..., None] * self.start  # type: ignore[no-any-return]

    def logits(self, hidden: Float[Tensor, "*axes d"]) -> Float[Tensor, "*axes v"]:
        """The head alone: training calls it at masked positions only."""
        logits = F.linear(hidden, self.head_weight).float()
        cap = self.config.logit_soft_cap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @property
    def head_weight(self) -> Float[Tensor, "v d"]:
        return self.embedding.weight[: self.vocab_size] if self.config.tied_head else self.output.weight

    def compile_blocks(self) -> None:
        """Compile each block by itself, at its first use: they share their code, so it is compiled once."""
        for block in self.blocks:
            block.compile()

    def train_flops_per_token(self) -> float:
        """See the function of the same name. Of an autoregressive network the head runs at every position."""
        share = 1.0 if self.is_autoregressive else 0.5
        return train_flops_per_token(self.config, vocab_size=self.vocab_size, seq_len=self.seq_len, masked_share=share)

    def fresh(self) -> "Denoiser":
        """A network of the same shape, with weights of its own, on the CPU."""
        return Denoiser(
            self.config, vocab_size=self.vocab_size, seq_len=self.seq_len, end_id=self.end_id,
            is_autoregressive=self.is_autoregressive,
        )  # fmt: skip

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


def count_parameters(config: ModelConfig, *, vocab_size: int) -> int:
    """What `Denoiser.num_parameters` of that network would be, without building it. Its length has no parameters."""
    norms = config.num_layers * 2 * (config.d_model + config.head_dim)
    tables = ((1 if config.tied_head else 2) * vocab_size + 1) * config.d_model
    start_and_last_norm = 2 * config.d_model
    return config.num_layers * config.block_matrices + _time_matrices(config) + norms + tables + start_and_last_norm


def train_flops_per_token(config: ModelConfig, *, vocab_size: int, seq_len: int, masked_share: float = 0.5) -> float:
    """Floating point operations of one training step a token, forward and backward (3 times the forward).

    Multiply and add count as two; the head runs at masked positions only, on average at half of them; time features
    are computed once a row. Attention counts in full, also where a mask hides a part of it; recomputation in the
    backward pass does not count.
    """
    attention = config.num_layers * 2 * seq_len * config.d_model
    head = masked_share * config.d_model * vocab_size
    time = _time_matrices(config) / seq_len
    return 3 * 2 * (config.num_layers * config.block_matrices + attention + head + time)


def _time_matrices(config: ModelConfig) -> int:
    """Weights of the matrices that every row meets once."""
    return config.time_conditioning * (TIME_DIM**2 + config.num_layers * TIME_DIM * 6 * config.d_model)
