"""Write stories on request: `python serve.py`, then

    curl -d '{"prompt": "One day", "seed": 3}' -H 'Content-Type: application/json' http://127.0.0.1:8080/generate
    curl -N -d '{"prompt": "One day", "stream": true}' -H 'Content-Type: application/json' …/generate

A stream is newline-separated JSON, a line for each state of the text and last the document that `generate.py --json`
prints. GET /health says whether texts are taken. One text is written at a time; some wait, and more are turned away.

There is no authentication and no encryption: it listens on this machine alone unless `--host` says otherwise.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

if __package__:  # inside the library, which ships this file
    from ddlm.export.runtime import connection, desk, options, writing
    from ddlm.export.runtime.backends import Backend, backend_of
    from ddlm.export.runtime.contents import Bundle, load_bundle
else:
    try:
        import connection  # type: ignore[import-not-found,no-redef]
        import desk  # type: ignore[import-not-found,no-redef]
        import options  # type: ignore[import-not-found,no-redef]
        import writing  # type: ignore[import-not-found,no-redef]
        from backends import Backend, backend_of  # type: ignore[import-not-found,no-redef]
        from contents import Bundle, load_bundle  # type: ignore[import-not-found,no-redef]
    except Exception as error:  # noqa: BLE001, a damaged file that still parses can raise anything
        print(f"serve.py: {error}; copy the bundle again or install its requirements", file=sys.stderr)
        raise SystemExit(2) from None

CHUNK_BYTES, HEARD_OUT_BYTES = 1 << 14, 1 << 20
ENDING = (signal.SIGTERM, signal.SIGINT)


class Gone(Exception):
    """Whoever asked has hung up."""


# HTTP


class Server(ThreadingHTTPServer):
    """Loads nothing itself: it is given a bundle and what runs it."""

    daemon_threads = True  # an idle connection does not hold the end up; texts are waited for by `finish`
    block_on_close = False

    def __init__(self, address: tuple[str, int], bundle: Bundle, backend: Backend, limits: desk.Limits) -> None:
        self.bundle, self.backend, self.limits = bundle, backend, limits
        self.turns, self.rates = desk.Turns(limits.waiting), desk.Rates(limits.rate)
        self._places, self._door = connection.Places(), threading.Lock()
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._door:
            may_enter = self._places.take(client_address[0])
        if may_enter:
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._door:
                self._places.leave(client_address[0])

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002, the base class's signature
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):  # a connection that breaks is nobody's fault here
            print(f"serve.py: {type(error).__name__}: {error}", file=sys.stderr, flush=True)

    def finish(self, grace_s: float) -> bool:
        """Take nothing more and wait for the text in hand. Whether it was finished in time."""
        self.turns.close()
        until = time.monotonic() + grace_s
        while self.turns.is_busy and time.monotonic() < until:
            time.sleep(0.02)
        return not self.turns.is_busy


class Handler(BaseHTTPRequestHandler):
    """GET /health and POST /generate."""

    server: Server
    rfile: connection.Request
    protocol_version = "HTTP/1.1"
    timeout = connection.IDLE_S

    def setup(self) -> None:
        super().setup()
        self.rfile = connection.Request(connection.Incoming(self.connection))

    def handle_one_request(self) -> None:
        self.rfile.raw.begin()
        super().handle_one_request()

    def parse_request(self) -> bool:
        """Raises nothing: what is wrong with a request is answered."""
        if not super().parse_request():
            return False
        wrong = connection.objection(self.rfile.raw.head[1:], self.headers)
        if wrong:
            self.send_error(HTTPStatus.BAD_REQUEST, wrong)
        return wrong is None

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = do_GET

    def _routed(self) -> Callable[[], None]:
        """Raises: Refusal for a path or a method that is not there."""
        routes: dict[str, dict[str, Callable[[], None]]] = {
            "/health": {"GET": self._health, "HEAD": self._health},
            "/generate": {"POST": self._generate},
        }
        path = self.path.partition("?")[0]
        if path not in routes:
            wanted = ", ".join(f"{next(iter(methods))} {known}" for known, methods in routes.items())
            raise desk.Refusal(HTTPStatus.NOT_FOUND, f"nothing at {path[:60]}; wanted one of {wanted}")
        if self.command not in routes[path]:
            allow = ", ".join(routes[path])
            line = f"{self.command} {path}: wanted {allow}"
            raise desk.Refusal(HTTPStatus.METHOD_NOT_ALLOWED, line, allow=allow)
        return routes[path][self.command]

    def _answer(self) -> None:
        self.has_begun = False
        try:
            self._require_local_name()
            self._routed()()
        except desk.Refusal as refusal:
            self._refuse(refusal)
        except options.InputError as error:
            self._refuse(desk.Refusal(HTTPStatus.BAD_REQUEST, str(error)))
        except (Gone, OSError):
            self.close_connection = True

    def _require_local_name(self) -> None:
        """A web page whose name was made to point here does not get to ask: its Host is no loopback name.

        Raises: Refusal.
        """
        bound, name = self.server.server_address[0], connection.host_name(self.headers["Host"])
        if bound in connection.LOOPBACK and name not in connection.LOOPBACK:
            raise desk.Refusal(HTTPStatus.FORBIDDEN, f"host {str(name)[:60]!r}: this serves 127.0.0.1 alone")

    def _health(self) -> None:
        turns, backend = self.server.turns, self.server.backend
        status = "shutting down" if turns.is_closed else "ok"
        self._send_json(
            HTTPStatus.SERVICE_UNAVAILABLE if turns.is_closed else HTTPStatus.OK,
            {"status": status, "is_busy": turns.is_busy, "waiting": turns.waiting, "graph": backend.graph},
        )

    def _generate(self) -> None:
        self.server.rates.take(self.client_address[0])
        body = self._body()
        request = desk.parsed(body, self.server.limits)
        sampling = writing.sampling_from(request.options, self.server.bundle)
        observer = self._show if request.stream else self._look_for_client
        with self.server.turns.turn():
            made = writing.generate(self.server.bundle, self.server.backend, request.order, sampling, observer)
        if request.stream:
            self._send_line({"done": True, **made})
            self._send_chunk(b"")
        else:
            self._send_json(HTTPStatus.OK, made)

    def _body(self) -> bytes:
        """Raises: Refusal for one that is too large, of unknown length or not declared as JSON."""
        if self.headers.get_content_type() != "application/json":  # what a page of another site can't send unasked
            raise desk.Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "wanted Content-Type: application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise desk.Refusal(HTTPStatus.LENGTH_REQUIRED, "wanted a Content-Length")
        most = self.server.limits.body_bytes
        if len(length) > 12 or int(length) > most:
            raise desk.Refusal(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has {length[:12]} bytes, wanted at most {most}"
            )
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise Gone
        return body

    def _show(self, state: writing.State) -> None:
        self._send_line({"sample": state.sample, "step": state.step, "masked": state.masked, "text": state.text})

    def _look_for_client(self, _: writing.State) -> None:
        """Stop writing for someone who has gone."""
        self.connection.setblocking(False)
        try:
            if self.connection.recv(1, socket.MSG_PEEK) == b"":
                raise Gone
        except BlockingIOError:
            return
        finally:
            self.connection.settimeout(connection.IDLE_S)

    def _send_line(self, value: dict[str, Any]) -> None:
        if not self.has_begun:
            self._begin(HTTPStatus.OK, "application/x-ndjson", {"Transfer-Encoding": "chunked"})
        self._send_chunk(json.dumps(value).encode() + b"\n")

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _send_json(self, status: HTTPStatus, value: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(value).encode() + b"\n"
        self._begin(status, "application/json", {"Content-Length": str(len(data)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(data)

    def _begin(self, status: HTTPStatus, kind: str, headers: dict[str, str]) -> None:
        self.has_begun = True
        self.connection.settimeout(connection.IDLE_S)  # the request's deadline is not the answer's
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Cache-Control": "no-store", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def _refuse(self, refusal: desk.Refusal) -> None:
        """A stream that has begun ends with a line that says why; otherwise the status does."""
        value = {"error": refusal.line}
        if self.has_begun:
            self._send_line(value)
            self._send_chunk(b"")
            return
        self.close_connection = True  # the body may not have been read
        self._send_json(refusal.status, value, {"Connection": "close", **refusal.headers()})
        self._hear_out()

    def _hear_out(self) -> None:
        """Take what is still being sent, within bounds: a connection that is closed on it loses the answer too."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1)
        for _ in range(HEARD_OUT_BYTES // CHUNK_BYTES):
            if not self.connection.recv(CHUNK_BYTES):
                break

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What the base class finds wrong, as JSON too."""
        self.has_begun = False
        status = HTTPStatus(code)
        self._refuse(desk.Refusal(status, (message or status.phrase)[:200]))

    def version_string(self) -> str:
        return "ddlm"

    def log_message(self, format: str, *arguments: Any) -> None:
        """The request line and the status; prompts are in neither."""
        line = (format % arguments).encode("unicode_escape").decode()
        print(f"{self.client_address[0]} {line}", file=sys.stderr, flush=True)


# The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 after SIGTERM or Ctrl-C, 2 for what the user can mend, in one line on stderr."""
    try:
        asked = options.server_command_line().parse_args(arguments)
        server = opened(asked)
    except options.InputError as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(
            f"serve.py: {error.name} is not installed; run pip install numpy onnxruntime tokenizers, "
            "on a Jetson pip install -r requirements-jp62.txt",
            file=sys.stderr,
        )
        return 2
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # in every thread that is started from here on
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"serve.py: http://{asked.host}:{server.server_address[1]}/generate", file=sys.stderr, flush=True)
    signal.sigwait(ENDING)
    is_whole = server.finish(asked.grace)
    server.shutdown()
    server.server_close()
    print(f"serve.py: ended{'' if is_whole else ' in the middle of a text'}", file=sys.stderr, flush=True)
    if not is_whole:
        os._exit(0)  # the interpreter would fall over the thread that still writes
    return 0


def opened(asked: Namespace) -> Server:
    """Raises: InputError for a bundle that can't be loaded or an address that can't be had."""
    bundle = load_bundle(Path(__file__).resolve().parent, asked.threads)
    backend = backend_of(bundle, asked.backend, asked.graph, asked.precision)
    backend.settled(bundle.sampling)
    sampling = writing.sampling_from({"num_sampling_steps": 1}, bundle)
    writing.generate(bundle, backend, writing.Order(), sampling)  # the first is slow
    limits = desk.Limits(
        asked.max_samples, asked.max_steps, asked.max_length, asked.max_body, asked.max_waiting, asked.max_rate
    )
    try:
        return Server((asked.host, asked.port), bundle, backend, limits)
    except (OSError, OverflowError) as error:
        raise options.InputError(f"--host {asked.host} --port {asked.port}: {error}; choose others") from None


if __name__ == "__main__":
    raise SystemExit(main())
