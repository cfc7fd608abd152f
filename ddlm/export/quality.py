"""What a variant of the graph loses against the float32 one: on real text, and in what it writes.

A variant is judged by the evaluation's own measures, with its graph as the denoiser: the bound on the likelihood under
the same masks, and texts drawn with the same seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddlm.data.packing import Rows
from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.view import Denoiser
from ddlm.evaluation.judge import Judge
from ddlm.evaluation.likelihood import Likelihood, bootstrap_interval, bound, exact
from ddlm.evaluation.sweep import Sweep
from ddlm.evaluation.text import distinct, unigram_entropy_nats
from ddlm.generation import drafts
from ddlm.generation.writing import Engine, Writing
from ddlm.tokenizer import Tokenizer

Network = Callable[[NDArray[np.int32]], NDArray[np.float32]]
"""int32 ids [seq_len] to logits [seq_len, vocab_size]."""


TEXT_STEPS = 16
"""Steps that a text takes at most: here the texts of variants are compared, not written for anybody."""


@dataclass(frozen=True)
class Ground:
    """What variants are measured on.

    rows: of real text. story: of each row the number of its story; each row is one when absent. batches: of masked rows
    on which logits are compared. samples: texts to write; none are judged when 0.
    """

    tokenizer: Tokenizer
    rows: Rows
    batches: Sequence[NDArray[np.int32]]
    sampling: SamplingConfig
    seed: int
    masks_per_row: int = 8
    samples: int = 8
    story: NDArray[np.int64] | None = None
    is_autoregressive: bool = False
    judge: Judge | None = None

    @property
    def seq_len(self) -> int:
        return int(self.rows.tokens.shape[1])


def measure(reference: Network, variants: Mapping[str, Network], ground: Ground) -> dict[str, dict[str, Any]]:
    """What is measured of each variant, beside the same of the reference, under its name; the reference is `float32`.

    top1_agreement, mean_kl_nats: of the logits at masked positions, the only ones that sampling reads; KL(float32 ‖
    variant). bits_per_byte_change: of the bound, under the same masks, with its 95 % bootstrap interval over stories.
    equal_tokens: of the texts with the same seeds, the share of places with the same token.
    """
    own, own_texts = _likelihood(reference, ground), _write(reference, ground)
    found = {"float32": {"bits_per_byte": own.bits_per_byte, **_of_texts(own_texts, ground)}}
    for name, network in variants.items():
        value, texts = _likelihood(network, ground), _write(network, ground)
        found[name] = {
            **_of_logits(reference, network, ground),
            **_of_likelihoods(own, value, ground),
            **_of_texts(texts, ground),
            **({"equal_tokens": equal_share(own_texts, texts)} if texts else {}),
        }
    return found


def loses_too_much(figures: Mapping[str, Any], max_bits_per_byte_loss: float) -> bool:
    """Whether a variant may lose more than the tolerance: by the upper end of the interval, since rows are few.

    One that gives no number at all does."""
    worst: float = figures["bits_per_byte_change_interval"][1]
    return not worst <= max_bits_per_byte_loss


def denoiser_of(network: Network) -> Denoiser:
    """For the evaluation and the sampler, which ask for logits of some positions of several rows."""

    def denoiser(ids: Tensor, wanted: Tensor) -> Tensor:
        logits = [network(row.astype(np.int32))[want] for row, want in zip(ids.numpy(), wanted.numpy(), strict=True)]
        return torch.from_numpy(np.concatenate(logits))

    return denoiser


# Each measure


def _likelihood(network: Network, ground: Ground) -> Likelihood:
    common: Any = {"seed": ground.seed, "story": ground.story, "sweep": Sweep(batch_size=1)}
    denoiser = denoiser_of(network)
    if ground.is_autoregressive:
        return exact(denoiser, ground.rows, **common)
    mask_id = ground.tokenizer.mask_id
    return bound(denoiser, ground.rows, mask_id=mask_id, masks_per_row=ground.masks_per_row, **common)


def _of_likelihoods(own: Likelihood, other: Likelihood, ground: Ground) -> dict[str, Any]:
    rows, story = ground.rows, np.arange(len(ground.rows)) if ground.story is None else ground.story
    bits = np.bincount(story, (other.row_nats - own.row_nats) / np.log(2))
    interval = bootstrap_interval(bits, np.bincount(story, rows.text_bytes), seed=ground.seed)
    return {
        "bits_per_byte": other.bits_per_byte,
        "bits_per_byte_change": other.bits_per_byte - own.bits_per_byte,
        "bits_per_byte_change_interval": list(interval),
    }


def _of_logits(reference: Network, network: Network, ground: Ground) -> dict[str, float]:
    agreements, divergences = [], []
    for ids in (row for batch in ground.batches for row in batch):
        is_masked = ids == ground.tokenizer.mask_id
        ours, theirs = (torch.from_numpy(run(ids)[is_masked]).double() for run in (network, reference))
        log_p, log_q = theirs.log_softmax(-1), ours.log_softmax(-1)
        agreements.append((ours.argmax(-1) == theirs.argmax(-1)).double())
        divergences.append((log_p.exp() * (log_p - log_q)).sum(-1))
    return {
        "top1_agreement": torch.cat(agreements).mean().item(),
        "mean_kl_nats": torch.cat(divergences).mean().item(),
    }


def _write(network: Network, ground: Ground) -> list[list[int]]:
    """The library's own sampler with the graph behind it: token ids of each text."""
    tokenizer = ground.tokenizer
    engine = Engine(denoiser_of(network), None, tokenizer, ground.seq_len, torch.device("cpu"))
    wanted = [
        drafts.prompted(tokenizer, "", number, seq_len=ground.seq_len, length=None) for number in range(ground.samples)
    ]
    steps = min(ground.sampling.num_sampling_steps, TEXT_STEPS)
    sampling = ground.sampling.model_copy(update={"num_sampling_steps": steps})
    writing = Writing(engine, wanted, sampling, ground.seed, rows=1)
    for _ in writing:
        pass
    return writing.texts


def _of_texts(texts: Sequence[Sequence[int]], ground: Ground) -> dict[str, Any]:
    """Perplexity never without entropy: a judge likes best what repeats itself."""
    if not texts:
        return {}
    written = [ground.tokenizer.decode(list(ids)) for ids in texts]
    judged = {"judge_perplexity": ground.judge.score(written).perplexity} if ground.judge else {}
    return {**judged, "entropy_nats": unigram_entropy_nats(written), "distinct_2": distinct(written, 2)}


def equal_share(some: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    pairs = [pair for one, other in zip(some, others, strict=True) for pair in zip_longest(one, other)]
    same = sum(int(first == second) for first, second in pairs)
    return same / max(len(pairs), 1)


# As a table

COLUMNS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "bytes": ("MB", lambda value: f"{value / 1e6:.1f}"),
    "top1_agreement": ("same best token", "{:.2%}".format),
    "mean_kl_nats": ("KL, nats", "{:.1e}".format),
    "bits_per_byte": ("bits/byte ≤", "{:.4f}".format),
    "bits_per_byte_change": ("change", "{:+.4f}".format),
    "bits_per_byte_change_interval": ("95 % interval", lambda value: f"{value[0]:+.4f} … {value[1]:+.4f}"),
    "judge_perplexity": ("judge's perplexity", "{:.1f}".format),
    "entropy_nats": ("entropy, nats", "{:.2f}".format),
    "distinct_2": ("distinct pairs", "{:.2f}".format),
    "equal_tokens": ("same tokens", "{:.0%}".format),
}


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a variant, in Markdown; columns that nobody has are left out."""
    names = [name for name in COLUMNS if any(of.get(name) is not None for of in figures.values())]
    lines = [["variant", *(COLUMNS[name][0] for name in names)], ["---"] * (1 + len(names))]
    for variant, of in figures.items():
        shown = (COLUMNS[name][1](of[name]) if of.get(name) is not None else "" for name in names)
        lines.append([variant, *shown])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
