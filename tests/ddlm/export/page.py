"""What the tests of the page share: its modules in Node, a model's graph in onnxruntime, and a server of files."""

import copy
import functools
import gzip
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from ddlm.diffusion import SamplingConfig
from ddlm.export.runtime import sampler, tokens
from ddlm.export.web.site import GRAPH, PAGE
from ddlm.generation import DiffusionPipeline

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def in_node(*calls: tuple[str, Any], site: Path | None = None) -> list[Any]:
    """What the page's modules answer. site: an exported page, for calls that need its data."""
    asked = {"page": str(PAGE), "site": site and str(site), "calls": calls}
    program = Path(__file__).with_name("page_in_node.mjs")
    done = subprocess.run(["node", program], input=json.dumps(asked), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def network_of(site: Path) -> Callable[[np.ndarray], np.ndarray]:
    """The page's own graph in Python's onnxruntime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(gzip.decompress((site / GRAPH).read_bytes()), options)
    return lambda ids: session.run(["logits"], {"ids": ids.astype("int32")[None]})[0][0]


def library_on(site: Path, pipeline: DiffusionPipeline) -> DiffusionPipeline:
    """The library, asking the page's graph instead of its own network."""
    network, model = network_of(site), copy.copy(pipeline.model)
    model.at = lambda ids, wanted: torch.from_numpy(np.stack([network(row.numpy()) for row in ids]))[wanted]
    return DiffusionPipeline(model, pipeline.tokenizer, pipeline.config)


def written_by(site: Path, pipeline: DiffusionPipeline, prompt: str, seed: int) -> str:
    """A text as the bundle's numpy sampler writes it, a twin's too."""
    tokenizer, settings = pipeline.tokenizer, pipeline.suited(SamplingConfig()).model_dump()
    given = [*tokenizer.story_prefix, *tokenizer.encode(prompt)]
    canvas = given + [tokenizer.mask_id] * (pipeline.seq_len - len(given))
    end_id, mask_id = tokenizer.end_id, tokenizer.mask_id
    draw = tokens.Draw(tokens.Sampling(**settings), seed, 0, end_id, mask_id, tokenizer.unwritable_ids)
    *_, last = sampler.denoise(network_of(site), canvas, draw)
    stops = [place for place, token in enumerate(last) if place >= len(given) and token in tokenizer.stop_ids]
    return tokenizer.decode(last[len(tokenizer.story_prefix) : stops[0] if stops else None])


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def served(folder: Path, port: int = 0) -> Iterator[tuple[str, int]]:
    """A folder behind a server that packs nothing and sets no headers, as the simplest do: its address and port."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/", server.server_port
        finally:
            server.shutdown()
            thread.join()
