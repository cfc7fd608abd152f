"""A small random model with strong opinions, and its bundle."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet

import ddlm.data
from ddlm.data.packing import Rows
from ddlm.diffusion import SamplingConfig
from ddlm.export import ExportConfig
from ddlm.export.stage import export_bundle
from ddlm.export.text import Text
from ddlm.generation import DiffusionPipeline
from ddlm.model import ModelConfig
from ddlm.model.folder import ModelFolder
from ddlm.model.transformer import Denoiser
from ddlm.tokenizer import MASK, Tokenizer, TokenizerConfig, train_bpe

SEQ_LEN = 32
STORIES = Path(ddlm.data.__file__).with_name("sample.parquet")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Matrices this small gain nothing from a second one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def stories() -> list[str]:
    return parquet.read_table(STORIES, columns=["text"])["text"].to_pylist()[:40]


@pytest.fixture(scope="session")
def tokenizer(stories: list[str]) -> Tokenizer:
    return trained(stories, TokenizerConfig(vocab_size=300))


@pytest.fixture(scope="session")
def pipeline(tokenizer: Tokenizer) -> DiffusionPipeline:
    return opinionated(tokenizer)


@pytest.fixture(scope="session")
def chat_pipeline(stories: list[str]) -> DiffusionPipeline:
    """With room behind the tags that stand before a story."""
    return opinionated(trained(stories, TokenizerConfig(vocab_size=300, chat=True)), 48, end_weight=3.0)


def trained(stories: list[str], config: TokenizerConfig) -> Tokenizer:
    backend = train_bpe([stories], config)
    backend.add_special_tokens([MASK])
    return Tokenizer(backend)


@pytest.fixture(scope="session")
def twin_pipeline(tokenizer: Tokenizer) -> DiffusionPipeline:
    return opinionated(tokenizer, kind="autoregressive")


def opinionated(
    tokenizer: Tokenizer, seq_len: int = SEQ_LEN, end_weight: float = 1.5, kind: str = "masked"
) -> DiffusionPipeline:
    """Every layer acts, and a token that ends a text is now and then the best one."""
    torch.manual_seed(0)
    is_twin = kind == "autoregressive"
    config = ModelConfig(d_model=32, num_layers=2, num_heads=2, attention="causal" if is_twin else "bidirectional")
    sizes = {"vocab_size": tokenizer.vocab_size, "seq_len": seq_len, "end_id": tokenizer.end_id}
    model = Denoiser(config, **sizes, is_autoregressive=is_twin).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(std=1.5 * weight.shape[1] ** -0.5)
        model.output.weight[list(tokenizer.stop_ids)] *= end_weight
    return DiffusionPipeline(model, tokenizer, ModelFolder.of(model, end_id=tokenizer.end_id, objective={"kind": kind}))


@pytest.fixture(scope="session")
def rows(tokenizer: Tokenizer, stories: list[str]):
    return np.array([tokenizer.encode(story)[:SEQ_LEN] for story in stories[:2]], dtype=np.int32)


@pytest.fixture(scope="session")
def text(rows) -> Text:
    sizes = np.full(len(rows), SEQ_LEN)
    return Text(Rows(rows, sizes, sizes), rows)


@pytest.fixture(scope="session")
def bundle(pipeline: DiffusionPipeline, text: Text, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a place") / "bundle"
    export = ExportConfig(quantised=())
    export_bundle(pipeline, folder, sampling=SamplingConfig(), export=export, text=text, seed=0)
    return folder


@pytest.fixture(scope="session")
def chat_bundle(chat_pipeline: DiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "bundle"
    export = ExportConfig(precisions=("float32",))
    export_bundle(chat_pipeline, folder, sampling=SamplingConfig(), export=export, text=None, seed=0)
    return folder


@pytest.fixture(scope="session")
def twin_bundle(twin_pipeline: DiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twin") / "bundle"
    export = ExportConfig(precisions=("float32",))
    export_bundle(twin_pipeline, folder, sampling=SamplingConfig(), export=export, text=None, seed=0)
    return folder
