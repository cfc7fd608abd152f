"""The few calls of CUDA's runtime that a step on the GPU needs, by ctypes: JetPack brings the library itself.

Source: the CUDA Runtime API's manual; names and arguments are the same in CUDA 12 (JetPack 6.2) and 13 (JetPack 7.2).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime.options import InputError
    from ddlm.export.runtime.tokens import Array
else:
    from options import InputError  # type: ignore[import-not-found,no-redef]
    from tokens import Array  # type: ignore[import-not-found,no-redef]

LIBRARIES = ("libcudart.so.12", "libcudart.so.13", "libcudart.so")
FOLDERS = ("", "/usr/local/cuda/lib64/")
"""Where the loader looks by itself, and where JetPack puts CUDA."""
TO_DEVICE, TO_HOST = 1, 2
NON_BLOCKING = 1
THREAD_LOCAL = 1
"""Capture mode: other threads of this process may use CUDA meanwhile."""
POINTER, COUNT, INTEGER = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cudaMalloc": (ctypes.POINTER(POINTER), COUNT),
    "cudaFree": (POINTER,),
    "cudaMemcpyAsync": (POINTER, POINTER, COUNT, INTEGER, POINTER),
    "cudaStreamCreateWithFlags": (ctypes.POINTER(POINTER), ctypes.c_uint),
    "cudaStreamSynchronize": (POINTER,),
    "cudaStreamDestroy": (POINTER,),
    "cudaStreamBeginCapture": (POINTER, INTEGER),
    "cudaStreamEndCapture": (POINTER, ctypes.POINTER(POINTER)),
    "cudaGraphInstantiateWithFlags": (ctypes.POINTER(POINTER), POINTER, ctypes.c_ulonglong),
    "cudaGraphLaunch": (POINTER, POINTER),
    "cudaGraphDestroy": (POINTER,),
    "cudaGraphExecDestroy": (POINTER,),
}


class CudaError(Exception):
    """A call failed; its name and what CUDA says."""


class Cuda:
    """One stream, and what is done on it. Raises: CudaError where a call fails."""

    def __init__(self) -> None:
        self._library = open_library()
        for name, arguments in SIGNATURES.items():
            getattr(self._library, name).argtypes = arguments
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        self.stream = self._made("cudaStreamCreateWithFlags", NON_BLOCKING)

    def allocate(self, size_bytes: int) -> int:
        return self._made("cudaMalloc", size_bytes)

    def upload(self, values: Array, address: int) -> None:
        """Copies C-contiguous values; they may change as soon as this returns, since they are not pinned."""
        self._call("cudaMemcpyAsync", address, values.ctypes.data, values.nbytes, TO_DEVICE, self.stream)

    def download(self, address: int, values: Array) -> None:
        """Fills `values` once everything before it on the stream is done."""
        self._call("cudaMemcpyAsync", values.ctypes.data, address, values.nbytes, TO_HOST, self.stream)
        self.wait()

    def wait(self) -> None:
        self._call("cudaStreamSynchronize", self.stream)

    def capture(self, work: Callable[[], None]) -> int:
        """A graph, ready to be launched, of what `work` puts on the stream. Nothing is run."""
        self._call("cudaStreamBeginCapture", self.stream, THREAD_LOCAL)
        try:
            work()
        finally:
            graph = self._made("cudaStreamEndCapture", first=self.stream)
        ready = self._made("cudaGraphInstantiateWithFlags", graph, 0)
        self._call("cudaGraphDestroy", graph)
        return ready

    def launch(self, graph: int) -> None:
        self._call("cudaGraphLaunch", graph, self.stream)

    def release(self, addresses: list[int], graphs: list[int]) -> None:
        """Give memory, graphs and the stream back."""
        self.wait()
        for graph in graphs:
            self._call("cudaGraphExecDestroy", graph)
        for address in addresses:
            self._call("cudaFree", address)
        self._call("cudaStreamDestroy", self.stream)

    def _made(self, name: str, *arguments: int, first: int | None = None) -> int:
        """What a call writes through its pointer, which is its first argument, or its last behind `first`."""
        result = POINTER()
        by_reference = ctypes.byref(result)
        self._call(name, *((by_reference, *arguments) if first is None else (first, by_reference)))
        return int(result.value or 0)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            said = self._library.cudaGetErrorString(code).decode()
            raise CudaError(f"{name}: {said} (error {code})")


def open_library() -> ctypes.CDLL:
    """Raises: InputError where there is no CUDA."""
    for name in (folder + library for folder in FOLDERS for library in LIBRARIES):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise InputError(
        "--backend trt: CUDA's runtime library is not here; on a Jetson run sudo apt install nvidia-jetpack"
    )
