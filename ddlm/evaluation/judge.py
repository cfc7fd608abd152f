"""Generative perplexity: how likely texts are to another language model, one that reads from left to right.

A judge likes best what repeats itself, and it is at home in some kinds of text only. So its number is never shown
without the entropy of the same texts and without what real stories get from it: `compare` returns all of them.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import constants
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from ddlm.config import UserError, installing
from ddlm.evaluation.text import entropy_nats

BATCH_SIZE = 8
"""At a context of 256 and a vocabulary of 32,000 the logits of 8 texts take 262 MB."""


@dataclass(frozen=True)
class Judged:
    """What a judge says about some texts, as far as its context goes. None where there was nothing to score.

    perplexity: exp of the mean nats of a judge's token, over the tokens of all texts. nll_nats: that mean.
    bits_per_byte: over the UTF-8 bytes of the text that was scored. entropy_nats: mean over the texts of the entropy of
    a text's own judge tokens. tokens: scored ones. cut_texts: texts longer than the judge's context. empty_texts: those
    with nothing to score, in no mean. text_nats: of each text; 0 for an empty one.
    """

    perplexity: float | None
    nll_nats: float | None
    bits_per_byte: float | None
    entropy_nats: float | None
    tokens: int
    cut_texts: int
    empty_texts: int
    text_nats: tuple[float, ...]


@dataclass(frozen=True)
class _Reading:
    """A text as the judge reads it: `tokens` from the begin token on; of them `scored`, which are `size_bytes` long."""

    tokens: list[int]
    scored: list[int]
    size_bytes: int
    is_cut: bool


class Judge:
    """A causal language model of transformers and its tokenizer.

    The begin token stands before each text where the tokenizer has one; else a text's first token is given, not scored.
    """

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        config = model.config.get_text_config()
        self.context_tokens: int = getattr(config, "max_position_embeddings", tokenizer.model_max_length)

    @classmethod
    def load(cls, name: str | Path, device: str | torch.device = "cpu") -> "Judge":
        """Load a local folder, never asking the network, or else a hub id.

        Raises: UserError when transformers is not installed, or when the name means no causal language model.
        """
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ModuleNotFoundError:
            raise UserError(f"judge: transformers is not installed; run {installing('judge')}") from None
        constants.HF_HUB_DISABLE_TELEMETRY = True
        source: dict[str, Any] = {"local_files_only": Path(name).is_dir(), "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **source)
            model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, use_safetensors=True, **source)
        except (OSError, ValueError, SafetensorError) as error:  # the hub library's errors are OSErrors
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"judge {name}: no causal language model ({reason}); give a folder or hub id that transformers can load"
            ) from None
        return cls(Path(name).name if source["local_files_only"] else str(name), model.to(device).eval(), tokenizer)

    def score(self, texts: Sequence[str], batch_size: int = BATCH_SIZE) -> Judged:
        """The same numbers for every batch size, up to the last digits."""
        readings = self._read(texts)
        text_nats = [0.0] * len(texts)
        for batch in _batches(readings, batch_size):
            for index, nats in zip(batch, self._nats([readings[index] for index in batch]), strict=True):
                text_nats[index] = nats
        return _summarise(readings, text_nats)

    def features(self, texts: Sequence[str], batch_size: int = BATCH_SIZE) -> np.ndarray:
        """float32[texts, width]: the mean of the last hidden states over the scored tokens; zeros for an empty text."""
        readings = self._read(texts)
        rows = np.zeros((len(texts), self.model.config.get_text_config().hidden_size), dtype=np.float32)
        for batch in _batches(readings, batch_size):
            rows[batch] = self._mean_states([readings[index] for index in batch])
        return rows

    def _read(self, texts: Sequence[str]) -> list[_Reading]:
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [self._cut(*parts) for parts in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True)]

    def _cut(self, text: str, ids: list[int], offsets: list[tuple[int, int]]) -> _Reading:
        kept = ids[: self.context_tokens - len(self.begin)] if text.strip() else []
        tokens = [*self.begin, *kept]
        scored = tokens[1:]
        first = len(kept) - len(scored)
        span = text[offsets[first][0] : offsets[len(kept) - 1][1]] if scored else ""
        return _Reading(tokens, scored, len(span.encode()), is_cut=bool(scored) and len(kept) < len(ids))

    @torch.inference_mode()
    def _nats(self, readings: Sequence[_Reading]) -> list[float]:
        ids, is_token = self._padded(readings)
        logits = self.model(input_ids=ids, attention_mask=is_token).logits
        rows = zip(logits, ids, (len(reading.scored) for reading in readings), strict=True)
        each = [functional.cross_entropy(row[:size], own[1 : size + 1], reduction="none") for row, own, size in rows]
        return [float(nats.cpu().double().sum()) for nats in each]

    @torch.inference_mode()
    def _mean_states(self, readings: Sequence[_Reading]) -> np.ndarray:
        ids, is_token = self._padded(readings)
        states = self.model.base_model(input_ids=ids, attention_mask=is_token).last_hidden_state[:, 1:]
        weights = is_token[:, 1:, None] / is_token[:, 1:, None].sum(1, keepdim=True)
        return np.asarray((states * weights).sum(1).cpu())

    def _padded(self, readings: Sequence[_Reading]) -> tuple[Tensor, Tensor]:
        """Token ids, padded behind each text, and 1 where a token stands."""
        width = max(len(reading.tokens) for reading in readings)
        ids = torch.zeros(len(readings), width, dtype=torch.int64)
        is_token = torch.zeros_like(ids)
        for row, reading in enumerate(readings):
            ids[row, : len(reading.tokens)] = torch.tensor(reading.tokens)
            is_token[row, : len(reading.tokens)] = 1
        return ids.to(self.model.device), is_token.to(self.model.device)


def compare(judge: Judge, samples: Sequence[str], stories: Sequence[str]) -> dict[str, Any]:
    """The samples and real stories under the same judge, without the figures of single texts.

    stories: cut to the samples' row length, else the judge compares long texts with short ones.
    """
    return {
        "judge": judge.name,
        "samples": _without_texts(judge.score(samples)),
        "stories": _without_texts(judge.score(stories)),
    }


def _without_texts(judged: Judged) -> dict[str, Any]:
    return {name: value for name, value in asdict(judged).items() if name != "text_nats"}


def _summarise(readings: Sequence[_Reading], text_nats: Sequence[float]) -> Judged:
    scored = [reading for reading in readings if reading.scored]
    tokens = sum(len(reading.scored) for reading in scored)
    nats = math.fsum(text_nats)
    entropies = [entropy_nats(Counter(reading.scored).values()) for reading in scored]
    return Judged(
        perplexity=math.exp(nats / tokens) if scored else None,
        nll_nats=nats / tokens if scored else None,
        bits_per_byte=nats / math.log(2) / sum(reading.size_bytes for reading in scored) if scored else None,
        entropy_nats=sum(entropies) / len(scored) if scored else None,
        tokens=tokens,
        cut_texts=sum(reading.is_cut for reading in readings),
        empty_texts=len(readings) - len(scored),
        text_nats=tuple(text_nats),
    )


def _batches(readings: Sequence[_Reading], batch_size: int) -> Iterator[list[int]]:
    """Numbers of the texts that have something to score, texts of like length together."""
    scored = [index for index, reading in enumerate(readings) if reading.scored]
    ordered = sorted(scored, key=lambda index: len(readings[index].tokens))
    return (ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size))
