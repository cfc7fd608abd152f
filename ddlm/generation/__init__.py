"""DiffusionPipeline: a model folder that writes text."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import HfApi

from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.bound import any_order_nats, guess
from ddlm.generation import drafts
from ddlm.generation.drafts import Draft
from ddlm.generation.frames import MASK_SIGN, Frame, Span, Tile, with_number_of_steps
from ddlm.generation.results import Generation, Sample, Score, with_ellipsis
from ddlm.generation.runner import Compile, Runner
from ddlm.generation.writing import Engine, Writing
from ddlm.model.device import pick_inference_device, pick_precision
from ddlm.model.folder import ModelFolder, load_model, save_weights
from ddlm.model.reuse import BlockReuse, reuse_of
from ddlm.model.source import find_folder
from ddlm.model.transformer import Denoiser
from ddlm.tokenizer import Tokenizer

__all__ = [
    "MASK_SIGN",
    "DiffusionPipeline",
    "Frame",
    "Generation",
    "Sample",
    "Score",
    "Span",
    "Tile",
    "find_folder",
    "with_ellipsis",
]

ROWS_AT_ONCE = 32
"""Texts that are written side by side, unless asked otherwise: at length 256 and a vocabulary of 8192 their logits take
up to 256 MB."""
GAP_MASKS = 8
"""Masks under which the candidates of an infill are compared."""
SCORE_MASKS = 64
DRAWING = (
    "temperature", "final_temperature", "temperature_schedule", "top_k", "top_p", "repetition_penalty",
)  # fmt: skip
"""The keys of `[sampling]` that say how one token is drawn."""

Observer = Callable[[Frame], None]


class DiffusionPipeline:
    """A network, its tokenizer and its config.

    precision: what texts are written in: float32, where a seed gives the same text whatever the batch around it;
    bfloat16, where the distribution is promised and not the bits; or auto, which is the faster of them on this device.
    Likelihoods are always taken in float32. writer: the network that writes, `model` itself in float32.
    compile: see Runner.
    """

    def __init__(
        self,
        model: Denoiser,
        tokenizer: Tokenizer,
        config: ModelFolder,
        precision: Literal["auto", "float32", "bfloat16"] = "float32",
        compile: Compile = "auto",
    ) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.precision = pick_precision(precision, self.device)
        self.writer = copy.deepcopy(model).to(torch.bfloat16) if self.precision == "bfloat16" else model
        self.runner = Runner(self.writer, compile)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: str | torch.device = "cpu",
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        compile: Compile = "auto",
    ) -> "DiffusionPipeline":
        """Load a MODEL: a folder, an experiment, a registered model or a hub id, as find_folder says.

        device: as torch names it, or "auto". Raises: UserError naming what is missing or damaged.
        """
        folder = find_folder(name)
        model, config = load_model(folder)
        place = pick_inference_device("auto") if device == "auto" else device
        return cls(model.to(place), Tokenizer.load(folder), config, precision, compile)

    def suited(self, sampling: SamplingConfig) -> SamplingConfig:
        """What these settings come to here.

        Rows that are full of stories have no tail, so their ends are free. The twin writes a token at a time from left
        to right, whatever the policy: of the settings only those of a single draw mean anything to it.
        """
        if self.is_autoregressive:
            kept = {name: getattr(sampling, name) for name in DRAWING}
            return SamplingConfig(unmasking="left_to_right", block_size=1, ends="free", **kept)
        is_packed = self.config.layout == "packed" and sampling.ends == "drawn"
        return sampling.model_copy(update={"ends": "free"}) if is_packed else sampling

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the four files of a model folder."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        save_weights(self.model.state_dict(), path)
        self.config.write(path)
        self.tokenizer.save(path)

    def push_to_hub(self, repo_id: str, folder: str | Path, *, private: bool = False) -> str:
        """Save to `folder` and upload it. Returns the commit's address. The token is the hub library's own."""
        self.save_pretrained(folder)
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder)))

    @property
    def is_autoregressive(self) -> bool:
        """Whether this is the twin, which writes from left to right."""
        return self.model.is_autoregressive

    @property
    def seq_len(self) -> int:
        return self.config.seq_len

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    def generate(
        self,
        prompt: str = "",
        *,
        num_samples: int = 1,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        length: int | None = None,
        observer: Observer | None = None,
        rows_at_once: int = ROWS_AT_ONCE,
    ) -> Generation:
        """`num_samples` texts that begin with the prompt.

        length: tokens to write after the prompt, exactly; more than the canvas holds are written in windows that slide.
        When None the model decides where the text ends, within the canvas. observer: is shown the frames of the first
        text of each batch. Raises: UserError for a prompt that leaves no room.
        """
        prompts = [prompt] * num_samples
        return self.generate_batch(
            prompts, sampling=sampling, seed=seed, length=length, observer=observer, rows_at_once=rows_at_once
        )

    def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        length: int | None = None,
        observer: Observer | None = None,
        rows_at_once: int = ROWS_AT_ONCE,
    ) -> Generation:
        """One text for each prompt; text i draws as sample number i, whatever else is in the batch."""
        return self._write(self._prompted(prompts, length), sampling, seed, observer, rows_at_once)

    def stream(
        self, prompt: str = "", *, sampling: SamplingConfig | None = None, seed: int = 0, length: int | None = None
    ) -> Iterator[Frame]:
        """The text after every step, while it is written. Raises: as `generate`, before the first frame."""
        writing = self.writing(self._prompted([prompt], length), sampling, seed, 1)
        return (snapshot.frame() for snapshot in writing)

    def frames(
        self, prompt: str = "", *, sampling: SamplingConfig | None = None, seed: int = 0, length: int | None = None
    ) -> list[Frame]:
        """Every state of one denoising, from all masks to the finished text."""
        return with_number_of_steps(list(self.stream(prompt, sampling=sampling, seed=seed, length=length)))

    def infill(
        self,
        text: str,
        *,
        num_samples: int = 1,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        observer: Observer | None = None,
    ) -> Generation:
        """Fill the gaps of a text: `___`, or `___[5]` for a gap of five tokens.

        Of a gap without a length several lengths are tried, and the filling is kept whose tokens have the lowest bound
        on their negative log-likelihood a token. Raises: UserError when there is no gap or the text is too long.
        """
        candidates = [
            drafts.gapped(self.tokenizer, text, number, seq_len=self.seq_len) for number in range(num_samples)
        ]
        tried = [draft for of_sample in candidates for draft in of_sample]
        made = self._write(tried, sampling, seed, observer, ROWS_AT_ONCE)
        kept = self.likeliest(tried, made.samples, len(candidates[0]))
        return replace(made, samples=tuple(made.samples[place] for place in kept))

    def likeliest(self, tried: Sequence[Draft], fillings: Sequence[Sample], each: int) -> list[int]:
        """The places of the fillings to keep: of every `each` that belong together the one with the lowest bound."""
        if each == 1:
            return list(range(len(tried)))
        nats = [self._gap_nats(*pair) for pair in zip(tried, fillings, strict=True)]
        groups = (range(start, start + each) for start in range(0, len(tried), each))
        return [min(group, key=nats.__getitem__) for group in groups]

    def infill_batch(
        self, texts: Sequence[str], *, sampling: SamplingConfig | None = None, seed: int = 0
    ) -> Generation:
        """One filling of each text, all of whose gaps have a length; text i draws as sample number i.

        Raises: UserError as `infill` does.
        """
        drafted = [drafts.gapped(self.tokenizer, text, i, seq_len=self.seq_len) for i, text in enumerate(texts)]
        return self._write([draft for (draft,) in drafted], sampling, seed, None, ROWS_AT_ONCE)

    def reply(
        self,
        turns: Sequence[tuple[str, str]],
        *,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        observer: Observer | None = None,
    ) -> Generation:
        """The assistant's next turn in a conversation of (role, text), roles being system, user and assistant.

        Raises: UserError when the model knows no chat, or the last message leaves no room.
        """
        draft = drafts.in_conversation(self.tokenizer, turns, len(turns), seq_len=self.seq_len)
        return self._write([draft], sampling, seed, observer, 1)

    def score(self, text: str, *, masks: int = SCORE_MASKS, seed: int = 0) -> Score:
        """How likely the model finds a text that is a whole story. Longer ones go on in further rows, as in training.

        Raises: UserError for text that can't be encoded, or none.
        """
        if not text:
            raise UserError("score: got an empty text; give one of at least a character")
        tokens = self.tokenizer.encode_story(text)
        padded = tokens + [self.tokenizer.end_id] * (-len(tokens) % self.seq_len)
        count = min(len(tokens) + 1, len(padded))  # a story that fills its last row has no end token there
        rows = torch.tensor(padded).view(-1, self.seq_len)
        is_scored = torch.ones_like(rows, dtype=torch.bool)
        estimates = self._bound(rows, is_scored, masks, seed).sum(0)
        spread = 0.0 if self.is_autoregressive else float(estimates.std()) / math.sqrt(masks)
        nats = float(estimates.mean())
        return Score(
            nll_nats=nats / count, nll_nats_stderr=spread / count,
            bits_per_byte=nats / math.log(2) / len(text.encode()), tokens=count,
            bound="exact" if self.is_autoregressive else "upper",
        )  # fmt: skip

    def _prompted(self, prompts: Sequence[str], length: int | None) -> list[Draft]:
        return [
            drafts.prompted(self.tokenizer, prompt, number, seq_len=self.seq_len, length=length)
            for number, prompt in enumerate(prompts)
        ]

    def _write(
        self, wanted: list[Draft], sampling: SamplingConfig | None, seed: int, observer: Observer | None, rows: int
    ) -> Generation:
        started = time.perf_counter()
        writing = self.writing(wanted, sampling, seed, rows)
        for snapshot in writing:
            if observer:
                observer(snapshot.frame())
        seconds = time.perf_counter() - started
        given = sum(token != self.tokenizer.mask_id for draft in wanted for token in draft.tokens)
        return Generation(
            self.samples_of(writing), writing.steps, writing.calls, seconds,
            (sum(map(len, writing.texts)) - given) / seconds, writing.sampling.unmasking, self.precision,
        )  # fmt: skip

    def writing(
        self, wanted: Sequence[Draft], sampling: SamplingConfig | None, seed: int, rows: int = ROWS_AT_ONCE
    ) -> Writing:
        """Drafts about to be written, for whoever looks at every text after every step, or stops before the end."""
        chosen = self.suited(sampling or SamplingConfig())
        kind = reuse_of(self.writer.config, chosen.block_size) if chosen.block_size else None
        reuses = kind is not None and chosen.cache in ("approximate", kind) and not self.runner.on_mps
        runs = 2 if self.is_autoregressive else chosen.num_sampling_steps  # of each position
        self.runner.prepare(len(wanted) * runs * self.seq_len)
        engine = Engine(
            self.runner.at, (lambda: BlockReuse(self.writer)) if reuses else None, self.tokenizer, self.seq_len,
            self.runner.device,
        )  # fmt: skip
        return Writing(engine, wanted, chosen, seed, rows)

    def samples_of(self, writing: Writing) -> tuple[Sample, ...]:
        """What became of the drafts; of those that are not finished, what they began as."""
        drafted = zip(writing.drafts, writing.texts, strict=True)
        return tuple(self._sample(draft, text, writing.seed) for draft, text in drafted)

    def _sample(self, draft: Draft, tokens: Sequence[int], seed: int) -> Sample:
        shown = tuple(tokens[draft.hidden : len(tokens) - draft.hidden_behind])
        text = self.tokenizer.decode(shown)
        is_turn = self.tokenizer.chat and not draft.is_closed  # the line break before a turn's end is no part of it
        ended = draft.is_closed or draft.to_write is not None or len(tokens) < self.seq_len
        return Sample(text.removesuffix("\n") if is_turn else text, shown, draft.prompt, seed, draft.number, ended)

    def _gap_nats(self, draft: Draft, sample: Sample) -> float:
        """The bound on a filling's nats a token."""
        behind = draft.tokens[len(draft.tokens) - draft.hidden_behind :]
        tokens = [*draft.tokens[: draft.hidden], *sample.tokens, *behind]
        row = torch.tensor([tokens + [self.tokenizer.end_id] * (self.seq_len - len(tokens))])
        is_scored = torch.zeros_like(row, dtype=torch.bool)
        is_scored[0, : len(tokens)] = torch.tensor(draft.tokens) == self.tokenizer.mask_id
        return float(self._bound(row, is_scored, GAP_MASKS, 0).mean()) / int(is_scored.sum())

    def _bound(self, rows: torch.Tensor, is_scored: torch.Tensor, masks: int, seed: int) -> torch.Tensor:
        """Estimates (rows, masks); of the twin one, which is exact given what stands before each scored token."""
        rows, is_scored = rows.to(self.device), is_scored.to(self.device)
        if self.is_autoregressive:
            with torch.inference_mode():
                return guess(self.model.at, rows, rows, is_scored).nats.sum(1, keepdim=True)
        return any_order_nats(self.model.at, rows, is_scored, mask_id=self.tokenizer.mask_id, masks=masks, seed=seed)
