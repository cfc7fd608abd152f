"""What does seed S3's recipe reach in the same wall time, or with the same number of tokens?

Question. S3 published a masked diffusion model of TinyStories after 15 hours of training. How far does its recipe come
in minutes, on this machine, on our rows, by our measure?

Method. Its trainer built again from its description: float32, eager; a pre-norm transformer of nn.MultiheadAttention
and GELU layers of four times the width, learned positions, the time's sinusoids through two layers added at every
position, an untied head with bias, weights from a normal of 0.02, dropout 0.1; its "small" size, 17,341,184 parameters.
A mask rate of 1 - cos(pi t / 2), t uniform for each row, every position drawn by itself; logits of all positions; the
plain mean cross-entropy over the masked ones; AdamW(0.9, 0.98), weight decay 0.1, linear warm-up, cosine to a tenth,
clipping at 1.

Kinder than its own set-up: attention without its weights (the fast path), neither checkpoints nor validation on the
clock, warm-up and decay fitted to the budget (so one run is one point: an earlier moment of a longer run would be
judged at a high learning rate). Not its own: our rows, one story each with a tail of end tokens that is predicted too,
since a bound must not be told the story's length. Its network is given t where the bound knows only ids, so t is what
the share of masks says.

    python benchmarks/seed_recipe.py --minutes 2 --seed 1 --set corpus.source=FOLDER
    python benchmarks/seed_recipe.py --tokens 409600 --seed 1 --set corpus.source=FOLDER
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from scoring import argument_parser, choose_stories, overrides_of, provenance, score, state_folder
from torch import Tensor, nn

from ddlm.bench.tokenize import build_inputs
from ddlm.data.loader import TokenLoader
from ddlm.diffusion.view import everywhere
from ddlm.experiment import load_experiment
from ddlm.tokenizer import Tokenizer

VOCAB_SIZE, SEQ_LEN, D_MODEL, NUM_LAYERS, NUM_HEADS = 8192, 256, 384, 6, 6
PARAMETERS = 17_341_184
WARM_UP_SHARE, FINAL_RATIO = 0.05, 0.1
ROWS = {"tokenizer.vocab_size": VOCAB_SIZE - 1, "shards.seq_len": SEQ_LEN, "shards.layout": "story"}
"""S3 counts the mask among its 8192 tokens. The bundled stories support fewer: `--set tokenizer.vocab_size=3000`."""


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(D_MODEL, NUM_HEADS, dropout=dropout, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.Linear(D_MODEL, 4 * D_MODEL), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * D_MODEL, D_MODEL)
        )
        self.norms = nn.ModuleList([nn.LayerNorm(D_MODEL), nn.LayerNorm(D_MODEL)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.norms[0](x)
        x = x + self.dropout(self.attention(seen, seen, seen, need_weights=False)[0])
        change: Tensor = self.dropout(self.feed_forward(self.norms[1](x)))
        return x + change


class SeedModel(nn.Module):
    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCAB_SIZE, D_MODEL)
        self.positions = nn.Embedding(SEQ_LEN, D_MODEL)
        self.time = nn.Sequential(nn.Linear(D_MODEL, D_MODEL), nn.GELU(), nn.Linear(D_MODEL, D_MODEL))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(dropout) for _ in range(NUM_LAYERS)))
        self.norm = nn.LayerNorm(D_MODEL)
        self.head = nn.Linear(D_MODEL, VOCAB_SIZE)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        assert sum(parameter.numel() for parameter in self.parameters()) == PARAMETERS

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        x = self.tokens(x_t) + self.positions.weight[: x_t.shape[1]] + self.time(sinusoids(t))[:, None]
        logits: Tensor = self.head(self.norm(self.blocks(self.dropout(x))))
        return logits


def sinusoids(t: Tensor) -> Tensor:
    """[b, d]: sine and cosine of 1000 t at frequencies from 1 down to 1/10000."""
    frequencies = torch.exp(-math.log(10000) * torch.arange(D_MODEL // 2) / (D_MODEL // 2))
    angles = 1000 * t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def mask_rate(t: Tensor) -> Tensor:
    return 1 - torch.cos(math.pi / 2 * t)


def time_of(rate: Tensor) -> Tensor:
    """The inverse of `mask_rate`."""
    return torch.acos(1 - rate) * 2 / math.pi


def learning_rate_ratio(progress: float) -> float:
    """Linear warm-up, then cosine; progress from 0 to 1."""
    decayed = max(0.0, progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)
    cosine = FINAL_RATIO + (1 - FINAL_RATIO) * (1 + math.cos(math.pi * decayed)) / 2
    return min(cosine, progress / WARM_UP_SHARE)


def train(
    model: SeedModel,
    batches: Iterator[Tensor],
    *,
    mask_id: int,
    minutes: float | None,
    steps: int | None,
    learning_rate: float,
) -> list[float]:
    """`steps`, or as many as fit into `minutes`. Returns the seconds of each."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.1)
    started = now = time.perf_counter()
    seconds: list[float] = []
    while (progress := len(seconds) / steps if steps else (now - started) / (60 * (minutes or 0))) < 1:
        optimizer.param_groups[0]["lr"] = learning_rate * learning_rate_ratio(progress)
        train_step(model, optimizer, next(batches), mask_id)
        before, now = now, time.perf_counter()
        seconds.append(now - before)
    return seconds


def train_step(model: SeedModel, optimizer: torch.optim.Optimizer, x_0: Tensor, mask_id: int) -> None:
    t = torch.rand(len(x_0))
    is_masked = torch.rand(x_0.shape) < mask_rate(t)[:, None]
    logits = model(x_0.masked_fill(is_masked, mask_id), t)
    loss = F.cross_entropy(logits[is_masked], x_0[is_masked])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def main() -> None:
    parser = argument_parser(__doc__)
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--minutes", type=float, help="of training")
    budget.add_argument("--tokens", type=int, help="of training, padding counted")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    with state_folder(args.home) as home:
        experiment = load_experiment(args.config, ROWS | overrides_of(args.set))
        inputs = build_inputs(experiment, home, until="shards")
        tokenizer = Tokenizer.load(inputs["tokenizer"])
        stories = choose_stories(inputs["corpus"], args.stories, args.story_bytes)
        loader = TokenLoader(inputs["shards"], "train", args.batch_size, args.seed, Path(home))
        model = SeedModel().train()
        seconds = train(
            model,
            loader.batches(0, "cpu"),
            mask_id=tokenizer.mask_id,
            minutes=args.minutes,
            steps=-(-args.tokens // (args.batch_size * SEQ_LEN)) if args.tokens else None,
            learning_rate=args.learning_rate,
        )

        def denoiser(x_t: Tensor) -> Tensor:
            return model(x_t, time_of((x_t == tokenizer.mask_id).float().mean(1)))  # type: ignore[no-any-return]

        model.eval()
        scores = score(everywhere(denoiser), stories, tokenizer, experiment.shards, masks_per_row=args.masks)
    settings = {name: value for name, value in vars(args).items() if name != "home"}
    speed = {
        "steps": len(seconds),
        "tokens": len(seconds) * args.batch_size * SEQ_LEN,
        "tokens_per_s": args.batch_size * SEQ_LEN / median(seconds),
        "ms_per_step": 1000 * median(seconds),
        "train_s": sum(seconds),
    }
    print(json.dumps({**scores, **speed, "parameters": PARAMETERS, "settings": settings, **provenance()}))


if __name__ == "__main__":
    main()
