"""Write a story on this machine: `python generate.py "Once upon a time" --seed 3`.

The model does not write from left to right. The canvas starts as the prompt followed by masks; each step runs the
network once over all of it, chooses some masked positions and draws a token for each. After the last step none is left.

Needs numpy, onnxruntime and tokenizers (requirements-jp62.txt, -jp72.txt) and Python 3.10 or later. On onnxruntime in
float32 a seed gives the text of the library that exported this folder; a step graph (--backend trt) that of the
library with top_k=256.
"""

from __future__ import annotations

import json
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime.integrity import check_program
    from ddlm.export.runtime.options import InputError, command_line
else:
    try:
        from integrity import check_program  # type: ignore[import-not-found,no-redef]
        from options import InputError, command_line  # type: ignore[import-not-found,no-redef]

        command_line()
        check_program(Path(__file__).resolve().parent)
    except Exception as error:  # noqa: BLE001, until they have checked themselves a wrong byte in them can raise anything
        said, folder = str(error).partition("; copy")[0] or type(error).__name__, str(Path(__file__).resolve().parent)
        where = said if folder in said else f"{folder}: {said}"
        print(f"generate.py: {where}; copy the bundle again", file=sys.stderr)
        raise SystemExit(2) from None

if TYPE_CHECKING:
    from ddlm.export.runtime.terminal import Screen
    from ddlm.export.runtime.writing import Order, State


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 2 for what the user can mend, in one line on stderr."""
    try:
        asked = command_line().parse_args(arguments)
        made = made_of(asked)
    except InputError as error:
        print(f"generate.py: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"generate.py: {error.name} is not installed; run pip install numpy onnxruntime tokenizers, "
            "on a Jetson pip install -r requirements-jp62.txt",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        return 130
    print(json.dumps(made) if asked.json else "\n\n".join(sample["text"] for sample in made["samples"]))
    return 0


def made_of(asked: Namespace) -> dict[str, Any]:
    """The document of what is asked for. Raises: InputError, ModuleNotFoundError for a package that is not there."""
    folder = Path(__file__).resolve().parent
    check_program(folder)
    if __package__:  # late, all of it: it is checked now, and --help has no use for it
        from ddlm.export.runtime import backends, contents, terminal, writing
    else:
        import backends  # type: ignore[import-not-found,no-redef]
        import contents  # type: ignore[import-not-found,no-redef]
        import terminal  # type: ignore[import-not-found,no-redef]
        import writing  # type: ignore[import-not-found,no-redef]

    bundle = contents.load_bundle(folder, asked.threads)
    sampling = writing.sampling_from(vars(asked), bundle)
    backend = backends.backend_of(bundle, asked.backend, asked.graph, asked.precision)
    order = writing.Order(asked.prompt, asked.samples, asked.seed, asked.length, asked.infill)
    with terminal.Screen(sys.stderr) if asked.stream else nullcontext() as screen:
        observer = partial(show, screen, order) if screen else None
        made: dict[str, Any] = writing.generate(bundle, backend, order, sampling, observer)
    return made


def show(screen: Screen, order: Order, state: State) -> None:
    which = f"text {state.sample + 1} of {order.samples} · " if order.samples > 1 else ""
    screen.show(state.text, f"{which}step {state.step} · {state.masked} masks left")


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # whoever read the text has enough of it: end without a word
    raise SystemExit(main())
