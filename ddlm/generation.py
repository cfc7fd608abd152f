"""DiffusionPipeline: a model folder that writes text."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import HfApi, snapshot_download
from safetensors.torch import save_file
from torch import Tensor

from ddlm.config import UserError, home
from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.sampler import Draw, Observer, Step, sample
from ddlm.model.folder import WEIGHTS, ModelFolder, load_model
from ddlm.model.transformer import Denoiser
from ddlm.tokenizer import Tokenizer

GAP = re.compile(r"___(?:\[(\d+)\])?")
GAP_TOKENS = 4
"""How many tokens a gap of unknown length gets."""
MASK_SIGN = "█"


@dataclass(frozen=True)
class Sample:
    """One text, prompt included, up to its first end token. `tokens` are its ids."""

    text: str
    tokens: tuple[int, ...]
    prompt: str
    seed: int


@dataclass(frozen=True)
class Generation:
    """Samples and what they cost. `calls` counts runs of the network over the whole batch."""

    samples: tuple[Sample, ...]
    num_sampling_steps: int
    calls: int
    seconds: float
    tokens_per_s: float
    unmasking: str


@dataclass(frozen=True)
class Span:
    """A stretch of a frame: `state` is prompt, shown, new or masked. A masked token is one █."""

    text: str
    state: str


@dataclass(frozen=True)
class Frame:
    """The canvas after a step; step 0 is before the first."""

    step: int
    num_sampling_steps: int
    spans: tuple[Span, ...]


class DiffusionPipeline:
    """A network, its tokenizer and its config."""

    def __init__(self, model: Denoiser, tokenizer: Tokenizer, config: ModelFolder) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str | torch.device = "cpu") -> "DiffusionPipeline":
        """Load a model folder, else the last run of the experiment of that name, else a hub id (with a slash).

        Raises: UserError naming what is missing or damaged.
        """
        folder = find_folder(name)
        model, config = load_model(folder)
        return cls(model.to(device), Tokenizer.load(folder), config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the four files of a model folder."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        weights = {name: value.cpu().contiguous() for name, value in self.model.state_dict().items()}
        save_file(weights, path / WEIGHTS, metadata={"format": "pt"})
        self.config.write(path)
        self.tokenizer.save(path)

    def push_to_hub(self, repo_id: str, folder: str | Path, *, private: bool = False) -> str:
        """Save to `folder` and upload it. Returns the commit's address. The token is the hub library's own."""
        self.save_pretrained(folder)
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        return str(api.upload_folder(repo_id=repo_id, folder_path=str(folder)))

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
    ) -> Generation:
        """`num_samples` texts that begin with the prompt.

        length: tokens to write after the prompt, at most; the whole canvas when None. Raises: UserError for a prompt
        that leaves no room.
        """
        prompts = [prompt] * num_samples
        return self.generate_batch(prompts, sampling=sampling, seed=seed, length=length, observer=observer)

    def generate_batch(
        self,
        prompts: Sequence[str],
        *,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        length: int | None = None,
        observer: Observer | None = None,
    ) -> Generation:
        """One text for each prompt; text i draws as sample number i, whatever else is in the batch."""
        canvases = [self._canvas(prompt, length) for prompt in prompts]
        return self._fill(canvases, prompts, sampling or SamplingConfig(), seed, observer, forbidden=())

    def infill(
        self, text: str, *, num_samples: int = 1, sampling: SamplingConfig | None = None, seed: int = 0
    ) -> Generation:
        """Fill the gaps of a text: `___`, or `___[5]` for a gap of five tokens.

        Raises: UserError when there is no gap or the text is longer than the model.
        """
        if not GAP.search(text):
            raise UserError(f"infill: no gap in {text!r}; mark gaps with ___, or ___[5] for five tokens")
        canvas = self._gapped(text)
        end = (self.tokenizer.end_id,)
        return self._fill([canvas] * num_samples, [text] * num_samples, sampling or SamplingConfig(), seed, None, end)

    def frames(
        self, prompt: str = "", *, sampling: SamplingConfig | None = None, seed: int = 0, length: int | None = None
    ) -> list[Frame]:
        """Every state of one denoising, from all masks to the finished text."""
        steps: list[Step] = []
        self.generate(prompt, sampling=sampling, seed=seed, length=length, observer=steps.append)
        fixed = len(self.tokenizer.encode(prompt))
        return [self.frame(step, fixed) for step in steps]

    def frame(self, step: Step, prompt_tokens: int, row: int = 0) -> Frame:
        """One row of a step as text. The last frame ends at the first end token; before, end tokens are not shown."""
        ids, opened = step.ids[row].tolist(), step.opened[row].tolist()
        if step.step == step.num_sampling_steps:
            ids = self._until_end(ids)
        spans: list[Span] = []
        run: list[int] = []
        state = ""
        for position, token in enumerate([*ids, None]):
            following = self._state(token, position < prompt_tokens, position < len(ids) and opened[position])
            if following != state and run:
                spans.append(Span(self._show(run, state), state))
                run = []
            state = following
            if token is not None:
                run.append(token)
        return Frame(step.step, step.num_sampling_steps, tuple(span for span in spans if span.text))

    def _state(self, token: int | None, is_prompt: bool, is_new: bool) -> str:
        if token is None:
            return "over"
        if token == self.tokenizer.mask_id:
            return "masked"
        return "prompt" if is_prompt else "new" if is_new else "shown"

    def _show(self, tokens: list[int], state: str) -> str:
        return MASK_SIGN * len(tokens) if state == "masked" else self.tokenizer.decode(tokens)

    def _canvas(self, prompt: str, length: int | None) -> list[int]:
        ids = self.tokenizer.encode(prompt)
        room = self.seq_len - len(ids)
        if room < 1:
            raise UserError(
                f"prompt: {len(ids)} tokens, but the model writes {self.seq_len} in all; shorten it to at most "
                f"{self.seq_len - 1} tokens"
            )
        if length is not None and not 1 <= length <= room:
            raise UserError(f"length {length}: wanted 1 to {room} tokens after this prompt; change one of them")
        return ids + [self.tokenizer.mask_id] * (length or room)

    def _gapped(self, text: str) -> list[int]:
        ids: list[int] = []
        position = 0
        for gap in GAP.finditer(text):
            ids += self.tokenizer.encode(self._before_gap(text[position : gap.start()]))
            ids += [self.tokenizer.mask_id] * int(gap.group(1) or GAP_TOKENS)
            position = gap.end()
        ids += [*self.tokenizer.encode(text[position:]), self.tokenizer.end_id]
        if len(ids) > self.seq_len:
            raise UserError(
                f"infill: {len(ids)} tokens with gaps, but the model takes {self.seq_len}; shorten the text"
            )
        return ids + [self.tokenizer.end_id] * (self.seq_len - len(ids))

    def _before_gap(self, text: str) -> str:
        """A byte-pair token carries the space before its word, so the gap's own tokens bring it."""
        return text.removesuffix(" ") if self.tokenizer.kind == "bpe" else text

    def _fill(
        self,
        canvases: Sequence[list[int]],
        prompts: Sequence[str],
        sampling: SamplingConfig,
        seed: int,
        observer: Observer | None,
        forbidden: tuple[int, ...],
    ) -> Generation:
        longest = max(map(len, canvases))
        padded = [canvas + [self.tokenizer.end_id] * (longest - len(canvas)) for canvas in canvases]
        ids = torch.tensor(padded, device=self.device)
        numbers = torch.arange(len(ids), device=self.device)
        draw = Draw(sampling, seed, numbers, self.tokenizer.end_id, forbidden)
        started = time.perf_counter()
        filled, calls = sample(self.model, ids, self.tokenizer.mask_id, draw, observer)
        seconds = time.perf_counter() - started
        samples = tuple(self._sample(row, prompt, seed) for row, prompt in zip(filled, prompts, strict=True))
        written = int((ids == self.tokenizer.mask_id).sum())
        return Generation(samples, calls, calls, seconds, written / seconds, sampling.unmasking)

    def _sample(self, row: Tensor, prompt: str, seed: int) -> Sample:
        tokens = self._until_end(row.tolist())
        return Sample(self.tokenizer.decode(tokens), tuple(tokens), prompt, seed)

    def _until_end(self, ids: list[int]) -> list[int]:
        return ids[: ids.index(self.tokenizer.end_id)] if self.tokenizer.end_id in ids else ids


def find_folder(name: str | Path) -> Path:
    """The folder that MODEL means. Raises: UserError when it means nothing."""
    path = Path(name)
    if path.is_dir():
        return path
    last = home() / str(name) / "model"
    if last.is_dir():
        return last
    if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name)
    known = ", ".join(sorted(folder.parent.name for folder in home().glob("[!.]*/model")))
    raise UserError(
        f"model {name}: no such folder or experiment; finished ones: {known or 'none, start with ddlm run'}"
    )


def _from_hub(repo_id: str) -> Path:
    try:
        return Path(snapshot_download(repo_id))
    except (OSError, ValueError) as error:  # the hub library's connection and repository errors are OSErrors
        reason = str(error).splitlines()[0]
        raise UserError(f"model {repo_id}: no folder, and the hub said {reason}; check name and network") from None
