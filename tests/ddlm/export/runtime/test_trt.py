"""The GPU backend on a GPU made of host memory: what TensorRT and CUDA do is faked at their boundary, and nothing else.

Device memory is real memory with addresses, a captured graph is the work that was put on the stream meanwhile, and
"TensorRT" runs the step graph in onnxruntime on what lies at the addresses that it was told. None of this shows that
the calls are right for a real GPU: `test_gpu.py` makes those of CUDA on one.
"""

import ctypes
import sys
import types
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from ddlm.export.runtime import backends, contents, gpu, integrity, step, trt, writing
from ddlm.export.runtime.options import InputError

GRAPH = "step_float32.onnx"


class HostCuda:
    """`gpu.Cuda` with memory of this process for a device. calls: what crossed the boundary."""

    stream = 77

    def __init__(self, can_capture=True):
        self.can_capture, self.calls, self.memory, self.recorded, self.graphs = can_capture, [], {}, None, {}

    def allocate(self, size_bytes):
        memory = np.full(size_bytes, 0xAB, dtype=np.uint8)  # nobody clears it
        self.memory[memory.ctypes.data] = memory
        return memory.ctypes.data

    def upload(self, values, address):
        assert values.flags.c_contiguous
        self.do(lambda held=values.copy(): ctypes.memmove(address, held.ctypes.data, held.nbytes))
        self.calls.append(("upload", values.nbytes))

    def download(self, address, values):
        ctypes.memmove(values.ctypes.data, address, values.nbytes)
        self.calls.append(("download", values.nbytes))

    def wait(self):
        assert self.recorded is None, "waiting ends a capture"

    def do(self, work):
        """What is put on the stream: done at once, or held while a capture goes on."""
        if self.recorded is None:
            work()
        else:
            self.recorded.append(work)

    def capture(self, work):
        if not self.can_capture:
            raise gpu.CudaError("cudaStreamEndCapture: operation not permitted (error 900)")
        self.recorded = []
        work()
        self.graphs[len(self.graphs) + 1], self.recorded = self.recorded, None
        return len(self.graphs)

    def launch(self, graph):
        self.calls.append(("launch", graph))
        for work in self.graphs[graph]:
            work()

    def release(self, addresses, graphs):
        for address in addresses:
            del self.memory[address]
        for graph in graphs:
            del self.graphs[graph]


class Context:
    def __init__(self, engine, cuda):
        self.engine, self.cuda, self.addresses, self.runs = engine, cuda, {}, 0

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert stream == self.cuda.stream
        places = dict(self.addresses)  # a graph keeps those of its capture
        self.cuda.do(lambda: self.run(places))
        self.runs += 1
        return True

    def run(self, places):
        feed = {name: at(places[name], *kind).copy() for name, kind in self.engine.inputs.items()}
        (written,) = self.engine.session.run(None, feed)
        at(places[step.OUTPUT], *self.engine.inputs["ids"])[:] = written


def at(address, dtype, shape):
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype).reshape(shape)


class Engine:
    """What TensorRT makes of a plan, which here is the graph itself."""

    def __init__(self, plan, cuda):
        self.session, self.cuda = onnxruntime.InferenceSession(plan), cuda
        kinds = {"tensor(int32)": "int32", "tensor(float)": "float32"}
        self.inputs = {value.name: (kinds[value.type], tuple(value.shape)) for value in self.session.get_inputs()}
        self.tensors = {**self.inputs, step.OUTPUT: self.inputs["ids"]}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name):
        return self.tensors[name][0]

    def get_tensor_shape(self, name):
        return self.tensors[name][1]

    def create_execution_context(self):
        return Context(self, self.cuda)


@pytest.fixture
def cuda():
    return HostCuda()


@pytest.fixture
def tensorrt(monkeypatch, cuda):
    """The module, as far as it is used."""
    module = types.ModuleType("tensorrt")
    module.__version__ = "10.3.0"
    module.nptype = np.dtype
    module.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, severity: None})

    class Runtime:
        def __init__(self, logger):
            assert isinstance(logger, module.Logger)

        def deserialize_cuda_engine(self, plan):
            return None if plan == b"of another TensorRT" else Engine(plan, cuda)

    module.Runtime = Runtime
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(trt, "Cuda", lambda: cuda)
    monkeypatch.setattr(trt, "engine_of", lambda graph: graph)
    return module


def texts(loaded, backend, **order):
    return writing.generate(loaded, backend, writing.Order(**order), loaded.sampling)["samples"]


@pytest.fixture
def loaded(bundle):
    return contents.load_bundle(bundle, threads=1)


@pytest.mark.parametrize("order", [
    {"prompt": "One day", "samples": 3, "seed": 4}, {"prompt": "She", "length": 50},
    {"prompt": "One ___[2] and ___[4].", "infill": True},
], ids=["prompt", "windows", "gaps"])  # fmt: skip
def test_it_writes_what_the_same_graph_writes_in_onnxruntime(loaded, tensorrt, order):
    on_gpu = backends.backend_of(loaded, "trt", precision="float32")
    assert on_gpu.is_captured
    assert texts(loaded, on_gpu, **order) == texts(loaded, backends.backend_of(loaded, kind="step"), **order)


def test_a_step_is_one_launch_back_and_forth_and_brings_ids_alone(loaded, tensorrt, cuda):
    on_gpu = backends.backend_of(loaded, "trt", precision="float32")
    cuda.calls.clear()
    made = writing.generate(loaded, on_gpu, writing.Order("One day"), loaded.sampling)
    assert [graph for what, graph in cuda.calls if what == "launch"] == ([1, 2] * made["calls"])[: made["calls"]]
    assert {size for what, size in cuda.calls if what == "download"} == {4 * loaded.seq_len}
    ids = [place for place, call in enumerate(cuda.calls) if call == ("upload", 4 * loaded.seq_len)]
    assert len(ids) >= 1
    assert max(size for what, size in cuda.calls if what == "upload") <= 4 * 3 * loaded.seq_len


def test_where_nothing_can_be_captured_steps_are_enqueued_and_the_text_stays(loaded, tensorrt, cuda, capsys):
    captured = texts(loaded, backends.backend_of(loaded, "trt", precision="float32"), prompt="One day", samples=2)
    cuda.can_capture = False
    plain = backends.backend_of(loaded, "trt", precision="float32")
    assert "no CUDA graph (cudaStreamEndCapture: operation not permitted" in capsys.readouterr().err
    assert not plain.is_captured
    assert texts(loaded, plain, prompt="One day", samples=2) == captured


def test_everything_is_given_back(loaded, tensorrt, cuda):
    engine = trt.TensorRT(loaded.folder / GRAPH, loaded.seq_len)
    assert len(cuda.memory) == len(step.inputs_of(loaded.seq_len)) + 1
    engine.close()
    assert (cuda.memory, cuda.graphs) == ({}, {})


def test_a_gpu_that_fails_is_one_line(loaded, tensorrt, cuda, monkeypatch):
    on_gpu = backends.backend_of(loaded, "trt", precision="float32")

    def fails(graph):
        raise gpu.CudaError("cudaGraphLaunch: an illegal memory access was encountered (error 700)")

    monkeypatch.setattr(cuda, "launch", fails)
    with pytest.raises(InputError, match=r"--backend trt: cudaGraphLaunch: an illegal .* \(error 700\)"):
        texts(loaded, on_gpu, prompt="One day")


@pytest.mark.parametrize(("plan", "line"), [
    (b"of another TensorRT", "is no engine for this TensorRT and GPU; remove it and run build_engine.sh"),
    (None, "can't be read (No such file or directory)"),
], ids=["foreign", "missing"])  # fmt: skip
def test_an_engine_that_can_not_be_used_is_one_line(tmp_path, tensorrt, plan, line):
    if plan:
        (tmp_path / "engine.plan").write_bytes(plan)
    with pytest.raises(InputError) as error:
        trt.TensorRT(tmp_path / "engine.plan", 32)
    assert line in str(error.value)


def test_an_engine_of_another_graph_is_refused(loaded, tensorrt):
    with pytest.raises(InputError, match="is an engine of another graph; remove it"):
        trt.TensorRT(loaded.folder / GRAPH, loaded.seq_len - 1)
    with pytest.raises(InputError, match="is an engine of another graph; remove it"):
        trt.TensorRT(loaded.folder / integrity.MODEL, loaded.seq_len)


@pytest.mark.parametrize(("version", "line"), [("8.6.2", "TensorRT 8.6.2, wanted 10.x"), ("11.4.1", "wanted 10.x")])
def test_another_tensorrt_is_refused(loaded, tensorrt, version, line):
    tensorrt.__version__ = version
    with pytest.raises(InputError, match=line):
        trt.TensorRT(loaded.folder / GRAPH, loaded.seq_len)


def test_without_tensorrt_it_says_where_it_comes_from(loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(InputError, match=r"Python finds no tensorrt; JetPack brings it: .*--system-site-packages"):
        trt.TensorRT(loaded.folder / GRAPH, loaded.seq_len)


def test_without_cuda_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(gpu, "LIBRARIES", ("libcudart-that-is-not-there.so",))
    with pytest.raises(InputError, match="CUDA's runtime library is not here; on a Jetson run sudo apt install"):
        gpu.Cuda()


def test_the_graph_goes_to_the_builder_and_its_failure_is_one_line(tmp_path, capfd):
    builder = tmp_path / trt.BUILDER
    builder.write_text('echo "$1.plan"\n')
    assert trt.engine_of(tmp_path / "step.onnx") == tmp_path / "step.onnx.plan"
    builder.write_text("echo build_engine.sh: no trtexec >&2\nexit 2\n")
    with pytest.raises(InputError, match=r"^--backend trt: build_engine\.sh: no trtexec$"):
        trt.engine_of(tmp_path / "step.onnx")
    assert capfd.readouterr().err == ""
    builder.write_text("echo build_engine.sh: building it takes minutes >&2\nexit 2\n")
    with pytest.raises(InputError, match="failed without a word"):
        trt.engine_of(tmp_path / "step.onnx")
    assert capfd.readouterr().err == "build_engine.sh: building it takes minutes\n"


def test_the_names_that_are_used_are_tensorrts():
    """Of TensorRT-RTX, whose Python interface is TensorRT 10's, where the extra `tensorrt-check` is installed."""
    rtx = pytest.importorskip("tensorrt_rtx")
    source = Path(trt.__file__).read_text()
    for owner, names in {
        rtx.Runtime: ["deserialize_cuda_engine"],
        rtx.ICudaEngine: [
            "create_execution_context", "num_io_tensors", "get_tensor_name", "get_tensor_dtype", "get_tensor_shape",
        ],
        rtx.IExecutionContext: ["set_tensor_address", "execute_async_v3"],
        rtx: ["Logger", "Runtime", "nptype"],
    }.items():  # fmt: skip
        for name in names:
            assert f".{name}" in source
            assert hasattr(owner, name)
