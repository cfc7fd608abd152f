"""The network's runs as CUDA graphs: a small network is over sooner than a host can launch its kernels one by one."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddlm.model import ModelConfig
from ddlm.model.transformer import Denoiser

MOST_GRAPHS = 16
"""Shapes of canvas that are captured; others run as usual. Each graph keeps its activations."""
WARM_UP = 3
"""Runs before a capture: kernels are chosen and compiled in them."""


def is_capturable(config: ModelConfig) -> bool:
    """Whether a run is the same kernels whatever the ids: masks of blocks and of segments are made anew in each."""
    return config.attention == "bidirectional" and not config.segment_mask


class Captured:
    """A denoiser that replays the stream before the head; the head runs at the wanted positions, as many as there are.

    A canvas of a new shape is captured at its second run. What a run returns is overwritten by the next one.
    """

    def __init__(self, network: Denoiser) -> None:
        assert is_capturable(network.config), "see is_capturable"
        self.network = network
        self._seen: set[tuple[int, ...]] = set()
        self._graphs: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    def at(self, ids: Int[Tensor, "b l"], wanted: Bool[Tensor, "b l"]) -> Float[Tensor, "n v"]:
        return self.network.logits(self.hidden(ids)[wanted])

    def hidden(self, ids: Int[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        shape = tuple(ids.shape)
        if shape not in self._graphs:
            if shape not in self._seen or len(self._graphs) == MOST_GRAPHS:
                self._seen.add(shape)
                return self.network.hidden(ids)
            self._graphs[shape] = self._capture(ids)
        graph, entry, stream = self._graphs[shape]
        entry.copy_(ids)
        graph.replay()
        return stream

    def _capture(self, ids: Int[Tensor, "b l"]) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """The graph, where its ids are read from and where it leaves the stream."""
        entry, graph, aside = ids.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                self.network.hidden(entry)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            stream = self.network.hidden(entry)
        return graph, entry, stream
