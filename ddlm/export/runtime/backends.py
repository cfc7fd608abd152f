"""Which graph of the bundle runs, and where: onnxruntime on the processor, or TensorRT on the GPU.

Graphs are of two kinds: `logits`, the network, around which `sampler` knows every policy; and `step`, which holds a
whole step and knows those of `step.POLICIES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime import sampler, step
    from ddlm.export.runtime.contents import Bundle, network_of, open_session
    from ddlm.export.runtime.integrity import MODEL, checked
    from ddlm.export.runtime.options import InputError
    from ddlm.export.runtime.tokens import Array, Draw, Sampling
else:
    import sampler  # type: ignore[import-not-found,no-redef]
    import step  # type: ignore[import-not-found,no-redef]
    from contents import Bundle, network_of, open_session  # type: ignore[import-not-found,no-redef]
    from integrity import MODEL, checked  # type: ignore[import-not-found,no-redef]
    from options import InputError  # type: ignore[import-not-found,no-redef]
    from tokens import Array, Draw, Sampling  # type: ignore[import-not-found,no-redef]


class Counted:
    """A function, and how often it was called."""

    def __init__(self, function: Callable[..., Array]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, given: object) -> Array:
        self.calls += 1
        return self.function(given)


@dataclass(frozen=True)
class Backend:
    """What runs a graph. run: one run of it. is_captured: whether a step on the GPU is one launch."""

    graph: str
    kind: str
    precision: str
    limits: step.Limits | None
    run: Counted
    is_captured: bool = False

    def denoise(self, canvas: Sequence[int], draw: Draw) -> Iterator[Array]:
        """The canvas after each step."""
        if self.limits is None:
            return sampler.denoise(self.run, canvas, draw)
        return step.denoise(self.run, canvas, draw, self.limits)

    def settled(self, sampling: Sampling) -> Sampling:
        """The settings with which this graph draws: a step graph has limits where they have none.

        Raises: InputError for settings that it can't draw with.
        """
        if self.limits is None:
            return sampling
        chosen = step.suited(sampling, self.limits)
        objection = step.objection(chosen, self.limits)
        if objection:
            raise InputError(f"{objection}; change it, or take the logits: --backend ort")
        return chosen


def backend_of(bundle: Bundle, name: str = "ort", kind: str | None = None, precision: str | None = None) -> Backend:
    """The backend with its graph. ort takes the logits in float32, trt the step in float16, unless told otherwise.

    Raises: InputError when the bundle has no such graph, or this machine can't run it.
    """
    on_gpu = name == "trt"
    chosen = kind or ("step" if on_gpu else "logits")
    graph = graph_of(bundle, chosen, precision or ("float16" if on_gpu else "float32"))
    entry = bundle.graphs[graph]
    limits = step.limits_of(entry) if chosen == "step" else None
    make = partial(Backend, graph, chosen, entry["precision"], limits)
    if on_gpu:
        return on_tensorrt(bundle, graph, make)
    if chosen == "step":
        return make(Counted(step.on_onnxruntime(open_session(bundle.folder, graph, bundle.threads))))
    network = bundle.network if graph == MODEL else network_of(bundle.folder, graph, bundle.threads)
    return make(Counted(network))


def on_tensorrt(bundle: Bundle, graph: str, make: Callable[..., Backend]) -> Backend:
    if __package__:
        from ddlm.export.runtime import trt  # late: --help has no use for it
    else:
        import trt  # type: ignore[import-not-found,no-redef]
    if bundle.graphs[graph]["kind"] != "step":
        raise InputError("--backend trt runs the step graph alone; leave --graph out")
    engine = trt.TensorRT(trt.engine_of(checked(bundle.folder, graph)), bundle.seq_len)
    return make(Counted(engine), is_captured=engine.is_captured)


def graph_of(bundle: Bundle, kind: str, precision: str) -> str:
    """The file of a graph. Raises: InputError naming what there is."""
    there = {
        entry["precision"]: name
        for name, entry in bundle.graphs.items()
        if entry["kind"] == kind and entry["length"] == bundle.seq_len
    }
    if precision not in there:
        offered = ", ".join(sorted(there)) or "none"
        raise InputError(f"this bundle has no {kind} graph in {precision}; of that kind it has {offered}")
    return there[precision]
