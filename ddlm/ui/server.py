"""The page's server: its own port, the routes that the page needs and no others, nothing from elsewhere."""

import secrets
import socket
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, Response
from gradio.exceptions import ShareCertificateWriteError
from gradio.networking import setup_tunnel
from httpx import HTTPError

from ddlm.config import UserError
from ddlm.rendering.fonts import FOLDERS, SERIF
from ddlm.ui import Limits
from ddlm.ui.desk import Desks
from ddlm.ui.look import script, style, theme
from ddlm.ui.page import Page
from ddlm.ui.shelf import Shelf

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

ROUTES = {"/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt", "/typeface.otf", "/alive"}
FOLDERS_OF_ROUTES = (
    "/film/", "/assets/", "/static/", "/svelte/", "/gradio_api/queue/", "/gradio_api/run/", "/gradio_api/heartbeat/",
    "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/info", "/gradio_api/startup-events", "/gradio_api/app_id",
)  # fmt: skip
"""What the page asks for. Gradio serves more, among it uploads and files by their paths."""
LARGEST_BODY = 256 * 1024
HEADERS = {
    # Gradio's page begins with scripts of its own and compiles more.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
LEAVING_S = 2


def application(shelf: Shelf, limits: Limits, root_path: str = "") -> App:
    """All of it, as an ASGI application. root_path: what a proxy that hands requests on puts in front of every path."""
    desks, filming, process = Desks(limits.sessions), threading.Lock(), secrets.token_urlsafe(8)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/alive")
    async def alive() -> Response:
        return Response(process, media_type="text/plain", headers={"Cache-Control": "no-store"})

    @app.get("/typeface.otf")
    def typeface() -> FileResponse:
        return FileResponse(FOLDERS[0] / SERIF, headers={"Cache-Control": "max-age=86400"})

    @app.get("/film/{token}/{number}.gif")
    def film(token: str, number: int) -> Response:
        desk = desks.with_film(token)
        with filming:  # a film takes a core for seconds
            made = desk.film(number) if desk else None
        if made is None:
            return Response("This film is gone; write the text again.", 404, media_type="text/plain")
        return Response(made, media_type="image/gif", headers={"Content-Disposition": "attachment; filename=ddlm.gif"})

    blocks = Page(shelf, desks, limits).build()
    gr.mount_gradio_app(
        app, blocks, "/", theme=theme(), css=style(), head=script(), footer_links=[], run_history=False,
        enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, show_error=False, max_file_size=1,
        root_path=root_path,
    )  # fmt: skip
    return Gate(app)


class Gate:
    """In front of the application: other routes do not exist, large requests are refused, and headers keep the browser
    from asking anyone else."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"]
        if path not in ROUTES and not path.startswith(FOLDERS_OF_ROUTES):
            return await Response("not here", 404)(scope, receive, send)
        if scope["method"] == "POST" and not 0 <= length_of(scope) <= LARGEST_BODY:
            return await Response("too large", 413)(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        return await self.app(scope, receive, send_with_headers)


def length_of(scope: Message) -> int:
    """Of the body, as the request says; -1 when it does not."""
    given = dict(scope["headers"]).get(b"content-length", b"")
    return int(given) if given.isdigit() else -1


def serve(sock: socket.socket, app: App) -> None:
    """Until Ctrl-C."""
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=LEAVING_S)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again once it has ended
        uvicorn.Server(config).run(sockets=[sock])


def share(sock: socket.socket) -> str:
    """A public address, as long as this process lives. Raises: UserError when Gradio's servers give none."""
    host, port = sock.getsockname()[:2]
    try:
        return str(setup_tunnel(host, port, secrets.token_urlsafe(32), None, None))
    except (RuntimeError, OSError, ValueError, HTTPError, ShareCertificateWriteError) as error:
        raise UserError(f"--share: no public address ({error}); see to the network, or leave it out") from None
