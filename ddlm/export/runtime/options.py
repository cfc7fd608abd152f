"""What `generate.py` and `serve.py` may be told. Imports nothing that takes time, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn


class InputError(Exception):
    """What has to be mended, in one line."""


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def command_line() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog="generate.py",
        description="Write text with the model in this folder.",
        epilog='examples: python generate.py "One day" --samples 3 --seed 7 --temperature 0.9 · '
        'python generate.py --infill "Once there was a ___ who ___[5]."',
    )
    add = parser.add_argument
    add(
        "prompt", nargs="?", default="", metavar="PROMPT", help="how the text begins, or with --infill a text with gaps"
    )
    add("--infill", action="store_true", help="fill the gaps of PROMPT: ___, or ___[5] for one of five tokens")
    add("--steps", type=at_least(1), dest="num_sampling_steps", metavar="N", help="steps for a text, at most")
    add("--unmasking", metavar="NAME", help="which masks are opened first; a NAME that is none lists them")
    add("--temperature", type=temperature, metavar="F", help="0 takes the most likely token")
    add("--top-p", type=share, metavar="F", help="draw from the most likely tokens of this mass, in (0, 1]")
    add("--top-k", type=at_least(1), metavar="N", help="draw from the N most likely tokens")
    add("--length", type=at_least(1), metavar="N", help="write exactly N tokens after the prompt")
    add("--seed", type=int, default=0, metavar="N", help="the same seed writes the same text (default 0)")
    add("--samples", type=at_least(1), default=1, metavar="N", help="how many texts (default 1)")
    add_backend(parser)
    add("--json", action="store_true", help="one JSON document on stdout")
    add("--stream", action="store_true", help="show the text while it is written, on stderr")
    return parser


def add_backend(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--backend", choices=("ort", "trt"), default="ort", help="ort: onnxruntime on the CPU (default) · trt: TensorRT"
    )
    add(
        "--graph", choices=("logits", "step"), help="logits: all policies (default of ort) · step: one run a step (trt)"
    )
    add("--precision", metavar="NAME", help="which of the folder's graphs: float32 (ort), float16 (trt), …")
    add("--threads", type=at_least(1), metavar="N", help="processor threads (default: every core)")


def at_least(minimum: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        value = int(text)
        if value < minimum:
            raise argparse.ArgumentTypeError(f"got {value}, wanted at least {minimum}")
        return value

    return integer


def temperature(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text}, wanted 0 or more")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"got {text}, wanted more than 0 and at most 1")
    return value


OPTIONS = ("num_sampling_steps", "unmasking", "temperature", "top_p", "top_k")
"""The settings that a command or a request may give."""


NUMBERS = {
    "port": (0, 8080, "port to listen at; 0 takes a free one"),
    "max-samples": (1, 4, "texts a request"),
    "max-steps": (1, 256, "steps a text"),
    "max-length": (1, 1024, "tokens a text"),
    "max-body": (1, 65536, "bytes a request"),
    "max-waiting": (0, 4, "requests that wait"),
    "max-rate": (1, 60, "requests a minute from an address"),
    "grace": (0, 30, "seconds for the last text at the end"),
}
"""Options of the server: the least, the default, what it is."""


def server_command_line() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="serve.py", description="Write texts with the model of this folder, over HTTP.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    add_backend(parser)
    for name, (least, default, help_) in NUMBERS.items():
        add(
            f"--{name}",
            type=at_least(least),
            default=default,
            metavar="N",
            help=f"{help_} (default {default})",
        )
    return parser
