"""The calls of CUDA's runtime, on a GPU where there is one; else on a library in C that does on the host what CUDA's
manual says of each call, so that numbers, pointers and their order pass through ctypes as they would."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from ddlm.export.runtime import gpu

TO_DEVICE_FROM_DEVICE = 3
HOST = r"""
#include <stdlib.h>
#include <string.h>
typedef struct { void *to; const void *from; size_t size; } Copy;
typedef struct { Copy copies[64]; int count; } Graph;
static Graph *recording; static int streams, live;
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { *stream = &streams; streams++; return flags != 1; }
int cudaStreamDestroy(void *stream) { streams--; return stream != &streams; }
int cudaStreamSynchronize(void *stream) { return recording ? 900 : stream != &streams; }
int cudaMalloc(void **memory, size_t size) { if (size > 1u << 30) return 2; *memory = malloc(size); live++; return 0; }
int cudaFree(void *memory) { free(memory); live--; return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    if (kind < 1 || kind > 3 || stream != &streams) return 1;
    if (recording) recording->copies[recording->count++] = (Copy){to, from, size};
    else memcpy(to, from, size);
    return 0;
}
int cudaStreamBeginCapture(void *stream, int mode) {
    if (stream != &streams || mode != 1) return 1;
    recording = calloc(1, sizeof(Graph)); live++; return 0;
}
int cudaStreamEndCapture(void *stream, void **graph) {
    *graph = recording; recording = NULL; return stream != &streams;
}
int cudaGraphInstantiateWithFlags(void **ready, void *graph, unsigned long long flags) {
    if (flags) return 1;
    *ready = memcpy(malloc(sizeof(Graph)), graph, sizeof(Graph)); live++; return 0;
}
int cudaGraphLaunch(void *ready, void *stream) {
    Graph *graph = ready;
    for (int i = 0; i < graph->count; i++) memcpy(graph->copies[i].to, graph->copies[i].from, graph->copies[i].size);
    return stream != &streams;
}
int cudaGraphDestroy(void *graph) { free(graph); live--; return 0; }
int cudaGraphExecDestroy(void *ready) { free(ready); live--; return 0; }
const char *cudaGetErrorString(int code) { return code == 2 ? "out of memory" : code == 900 ? "capturing" : "invalid"; }
int left(void) { return live + streams; }
"""


@pytest.fixture(scope="module")
def host_library(tmp_path_factory):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("library")
    (folder / "cudart.c").write_text(HOST)
    command = ["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", folder / "libcudart.so", folder / "cudart.c"]
    subprocess.run(command, check=True)
    return str(folder / "libcudart.so")


@pytest.fixture(params=["host", pytest.param("gpu", marks=pytest.mark.gpu)])
def cuda(request, monkeypatch):
    if request.param == "host":
        monkeypatch.setattr(gpu, "LIBRARIES", (request.getfixturevalue("host_library"),))
        monkeypatch.setattr(gpu, "FOLDERS", ("",))
    try:
        return gpu.Cuda()
    except (gpu.CudaError, gpu.InputError) as error:
        pytest.skip(f"no GPU: {error}")


def copy(cuda, source, target, size):
    cuda._call("cudaMemcpyAsync", target, source, size, TO_DEVICE_FROM_DEVICE, cuda.stream)


def test_two_captured_graphs_go_back_and_forth(cuda):
    """Each moves a buffer on by one place into the other, so that the number of launches can be read off."""
    values, size = np.arange(8, dtype=np.int32), 32
    one, other = cuda.allocate(size + 4), cuda.allocate(size + 4)
    cuda.upload(np.zeros(9, dtype=np.int32), one)
    cuda.upload(np.zeros(9, dtype=np.int32), other)
    cuda.upload(values, one)
    there = cuda.capture(lambda: copy(cuda, one, other + 4, size))
    back = cuda.capture(lambda: copy(cuda, other, one + 4, size))
    found = np.full(9, -1, dtype=np.int32)
    cuda.download(other, found)
    assert not found.any()  # capturing runs nothing
    for graph in (there, back, there):
        cuda.launch(graph)
    cuda.download(other, found)
    assert found.tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5]
    cuda.release([one, other], [there, back])


def test_what_is_uploaded_may_change_at_once(cuda):
    values, place = np.arange(1000, dtype=np.float32), cuda.allocate(4000)
    cuda.upload(values, place)
    values[:] = -1
    found = np.empty(1000, dtype=np.float32)
    cuda.download(place, found)
    assert found.tolist() == list(range(1000))
    cuda.release([place], [])


def test_a_call_that_fails_says_which_and_why(cuda):
    with pytest.raises(gpu.CudaError, match=r"cudaMalloc: out of memory \(error 2\)"):
        cuda.allocate(1 << 45)


def test_a_capture_that_can_not_be_ends_as_an_error_and_the_stream_goes_on(cuda):
    with pytest.raises(gpu.CudaError):
        cuda.capture(cuda.wait)
    place, found = cuda.allocate(4), np.zeros(1, dtype=np.int32)
    cuda.upload(np.array([7], dtype=np.int32), place)
    cuda.download(place, found)
    assert found[0] == 7
    cuda.release([place], [])


def test_everything_is_given_back(host_library, monkeypatch):
    monkeypatch.setattr(gpu, "LIBRARIES", (host_library,))
    left = ctypes.CDLL(host_library).left
    before, cuda = left(), gpu.Cuda()
    place = cuda.allocate(4)
    graph = cuda.capture(lambda: copy(cuda, place, place, 4))
    assert left() == before + 3
    cuda.release([place], [graph])
    assert left() == before
