"""The step graph on the GPU by TensorRT: ids stay there, and a step is one launch of a captured CUDA graph.

Two buffers hold ids, and two graphs were captured: one reads the first and writes the second, the other goes back.
A step uploads the inputs that changed (a few KB), launches the next graph and brings the ids (4 bytes each) home.

JetPack brings TensorRT's Python package; it has to be 10.x. The engine is built on the device by `build_engine.sh`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime.gpu import Cuda, CudaError
    from ddlm.export.runtime.options import InputError
    from ddlm.export.runtime.step import OUTPUT, inputs_of
    from ddlm.export.runtime.tokens import Array
else:
    from gpu import Cuda, CudaError  # type: ignore[import-not-found,no-redef]
    from options import InputError  # type: ignore[import-not-found,no-redef]
    from step import OUTPUT, inputs_of  # type: ignore[import-not-found,no-redef]
    from tokens import Array  # type: ignore[import-not-found,no-redef]

BUILDER = "build_engine.sh"
PROGRESS = (f"{BUILDER}: building ", f"{BUILDER}: built ")
IDS = "ids"


class TensorRT:
    """A `step.Run`: from the inputs that changed to the canvas after the step.

    is_captured: whether a step is a launched graph; where TensorRT can't be captured, each step is enqueued anew, with
    the same result and more work for the processor.
    """

    def __init__(self, plan: Path, length: int, cuda: Cuda | None = None) -> None:
        """plan: an engine of the step graph for canvases of this length.

        Raises: InputError where there is no GPU, no TensorRT, or the engine is none of this graph.
        """
        self._inputs = {name: (np.dtype(dtype), shape) for name, (dtype, shape) in inputs_of(length).items()}
        self._turn = 0
        self._engine = load_engine(plan)
        require_signature(self._engine, plan, self._inputs)
        try:
            self._cuda = cuda or Cuda()
            self._allocate()
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise InputError(f"--backend trt: no room on the GPU for {plan.name}; end what else runs there")
            self._prepare()
        except CudaError as error:
            raise InputError(f"--backend trt: {error}") from None

    def __call__(self, changed: Mapping[str, Array]) -> Array:
        """Raises: InputError when the GPU fails."""
        try:
            for name, values in changed.items():
                dtype, shape = self._inputs[name]
                self._cuda.upload(np.ascontiguousarray(values, dtype=dtype).reshape(shape), self._address(name))
            self._step()
            self._turn = 1 - self._turn
            written = np.empty(self._inputs[IDS][1], dtype=self._inputs[IDS][0])
            self._cuda.download(self._ids[self._turn], written)
        except CudaError as error:
            raise InputError(f"--backend trt: {error}") from None
        return written

    def close(self) -> None:
        self._cuda.release([*self._ids, *self._held.values()], self._graphs)
        self._context = self._engine = None

    @property
    def is_captured(self) -> bool:
        return bool(self._graphs)

    def _allocate(self) -> None:
        """Room for each input, and twice for the ids."""
        sizes = {name: dtype.itemsize * int(np.prod(shape)) for name, (dtype, shape) in self._inputs.items()}
        self._ids = [self._cuda.allocate(sizes[IDS]) for _ in range(2)]
        self._held = {name: self._cuda.allocate(size) for name, size in sizes.items() if name != IDS}

    def _address(self, name: str) -> int:
        return self._ids[self._turn] if name == IDS else self._held[name]

    def _prepare(self) -> None:
        """Run each direction once, as TensorRT wants it before a capture, then capture both."""
        for name, (dtype, shape) in self._inputs.items():
            self._cuda.upload(np.zeros(shape, dtype), self._address(name))
        self._graphs: list[int] = []
        try:
            self._graphs = [self._captured(turn) for turn in range(2)]
        except CudaError as error:
            self._cuda.wait()
            print(f"generate.py: no CUDA graph ({error}); steps are enqueued one by one", file=sys.stderr)

    def _captured(self, turn: int) -> int:
        self._bind(turn)
        self._enqueue()
        self._cuda.wait()
        return self._cuda.capture(self._enqueue)

    def _step(self) -> None:
        if self._graphs:
            self._cuda.launch(self._graphs[self._turn])
        else:
            self._bind(self._turn)
            self._enqueue()

    def _bind(self, turn: int) -> None:
        """Which buffers the next run reads and writes."""
        places = {**self._held, IDS: self._ids[turn], OUTPUT: self._ids[1 - turn]}
        for name, address in places.items():
            self._context.set_tensor_address(name, address)

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise CudaError("TensorRT did not run the step")


def load_engine(plan: Path) -> Any:
    """Raises: InputError when TensorRT is missing, another major version, or can't read the file."""
    try:
        import tensorrt  # type: ignore[import-not-found]
    except ImportError:
        raise InputError(
            "--backend trt: Python finds no tensorrt; JetPack brings it: make the environment with "
            "python3 -m venv --system-site-packages, or use --backend ort"
        ) from None
    if tensorrt.__version__.partition(".")[0] != "10":
        raise InputError(f"--backend trt: TensorRT {tensorrt.__version__}, wanted 10.x; use --backend ort")
    runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
    try:
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    except OSError as error:
        raise InputError(f"--backend trt: {plan} can't be read ({error.strerror}); run {BUILDER} again") from None
    if engine is None:
        raise InputError(f"--backend trt: {plan} is no engine for this TensorRT and GPU; remove it and run {BUILDER}")
    return engine


def require_signature(engine: Any, plan: Path, inputs: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
    """Raises: InputError when the engine takes or gives something else than the step graph of this bundle."""
    import tensorrt

    wanted = {**inputs, OUTPUT: inputs[IDS]}
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {
        name: (np.dtype(tensorrt.nptype(engine.get_tensor_dtype(name))), tuple(engine.get_tensor_shape(name)))
        for name in names
    }
    if found != wanted:
        raise InputError(f"--backend trt: {plan} is an engine of another graph; remove it and run {BUILDER} again")


def engine_of(graph: Path) -> Path:
    """The engine of a graph of the bundle for this machine; builds it where there is none, which takes minutes.

    Raises: InputError with the last line that the builder says when it fails.
    """
    builder = graph.with_name(BUILDER)
    why = f"{BUILDER} failed without a word"
    command = ["sh", str(builder), str(graph)]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            assert running.stdout
            assert running.stderr
            for line in running.stderr:
                if line.startswith(PROGRESS):
                    print(line, end="", file=sys.stderr, flush=True)
                else:
                    why = line.strip() or why
            engine = running.stdout.read().strip()
    except OSError as error:
        raise InputError(f"--backend trt: {builder} can't be run ({error.strerror})") from None
    if running.returncode:
        raise InputError(f"--backend trt: {why}")
    return Path(engine)
