"""The command that serves the page."""

import os
import re
import socket
from importlib.util import find_spec
from typing import Annotated

import typer

from ddlm.cli.loading import find_model, require_precision, saying
from ddlm.cli.writing import ModelArgument, PrecisionOption
from ddlm.config import UserError, installing
from ddlm.ui import Limits
from ddlm.ui.port import address, bind

SWITCHES = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "100",  # Gradio keeps statistics of events, which nobody looks at here
}
"""What Gradio reads when it is imported."""
KEPT = ("GRADIO_TEMP_DIR", "GRADIO_SHARE_SERVER_ADDRESS")
"""What else of Gradio's environment means something here. Options have their own; the rest is of servers that Gradio
starts."""


def add_to(app: typer.Typer) -> None:
    app.command()(ui)


def ui(
    model: ModelArgument,
    port: Annotated[
        int, typer.Option(help="Where the page is; 0 takes any that is free.", envvar="GRADIO_SERVER_PORT")
    ] = 7860,
    server_name: Annotated[
        str,
        typer.Option(
            help="Who may reach it: this machine alone, or, with 0.0.0.0, whoever can.", envvar="GRADIO_SERVER_NAME"
        ),
    ] = "127.0.0.1",
    root_path: Annotated[
        str,
        typer.Option(help="Where a proxy shows the page: /ddlm, or a whole address.", envvar="GRADIO_ROOT_PATH"),
    ] = "",
    share: Annotated[bool, typer.Option("--share", help="A public address too, through Gradio's own servers.")] = False,
    precision: PrecisionOption = "auto",
    max_length: Annotated[int, typer.Option(min=1, help="Tokens of a text of given length.")] = Limits.tokens,
    max_samples: Annotated[int, typer.Option(min=1, help="Texts of one visitor at once.")] = Limits.samples,
    max_steps: Annotated[int, typer.Option(min=1, help="Steps of a text.")] = Limits.steps,
    at_once: Annotated[int, typer.Option(min=1, help="Visitors who are written for in turns.")] = Limits.at_once,
    waiting: Annotated[int, typer.Option(min=1, help="Visitors who may queue behind them.")] = Limits.waiting,
) -> None:
    """Serve a page that writes, fills gaps and shows how. MODEL may be a registered one: NAME@ALIAS or NAME/NUMBER.

    Examples:

      ddlm ui quick

      ddlm ui ddlm-quick@champion --port 8080 --server-name 0.0.0.0
    """
    if find_spec("gradio") is None:
        raise UserError(f"ui: gradio is not installed; run {installing('ui')}")
    require_precision(precision)
    require_root_path(root_path)
    limits = Limits(max_length, max_samples, max_steps, at_once=at_once, waiting=waiting)
    with bind(server_name, port) as sock:
        serve(sock, model, precision, limits, root_path.rstrip("/"), share=share)


def require_root_path(path: str) -> None:
    """Raises: UserError for what is neither empty, nor a path, nor an address."""
    if path and not re.fullmatch(r"(https?://[^/\s]+)?(/[^\s?#]*)?", path):
        raise UserError(f"--root-path {path!r}: wanted a path such as /ddlm, or an address such as https://host/ddlm")


def serve(sock: socket.socket, model: str, precision: str, limits: Limits, root_path: str, *, share: bool) -> None:
    """Load the model before the page, so that a wrong name is refused soon. Raises: UserError for one."""
    settle_environment()
    find_model(model)
    with saying(f"loading {model} and the page"):
        from ddlm.ui.shelf import Shelf

        shelf = Shelf(model, precision)  # type: ignore[arg-type]
        shelf.open(shelf.first)
        from ddlm.ui import server

        app = server.application(shelf, limits, root_path)
    typer.echo("\n".join([address(sock), *([server.share(sock)] if share else [])]))
    server.serve(sock, app)


def settle_environment() -> None:
    """Leave Gradio nothing to read but what the page means: a value that it can't read stops its import."""
    for name in [name for name in os.environ if name.startswith("GRADIO_") and name not in KEPT]:
        del os.environ[name]
    os.environ |= SWITCHES
