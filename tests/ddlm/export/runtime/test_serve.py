"""The server as a client meets it: a process of its own, on loopback, with the tiny bundle."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from ddlm.export.runtime import connection, desk

LIMITS = ("--max-samples=2", "--max-steps=40", "--max-length=5000", "--max-body=3000", "--max-waiting=1")
ENVIRONMENT = {**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
LONG = {"length": 4000, "steps": 40, "unmasking": "first_hitting"}
"""A text that takes seconds."""


class Serving:
    def __init__(self, folder, *options):
        command = [sys.executable, str(folder / "serve.py"), "--port=0", "--threads=1", *LIMITS, *options]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd="/")
        self.port = int(re.search(r":(\d+)/generate", self.process.stderr.readline()).group(1))

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, body, path="/generate", method="POST", **headers):
        """Status and document."""
        connection = self.connection()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **{name.replace("_", "-"): headers[name] for name in headers}}
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        made = json.loads(answer.read())
        connection.close()
        return answer.status, made

    def health(self):
        return self.ask(b"", "/health", "GET")

    def until(self, **wanted):
        deadline = time.monotonic() + 30
        while not wanted.items() <= self.health()[1].items():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stream(self, body):
        connection = self.connection()
        connection.request(
            "POST", "/generate", json.dumps({**body, "stream": True}), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        assert answer.getheader("Content-Type") == "application/x-ndjson"
        return connection, answer

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def serving(bundle):
    server = Serving(bundle, "--max-rate=10000")
    yield server
    if server.process.poll() is None:
        server.process.kill()
    server.process.communicate()


@pytest.fixture
def own(bundle):
    """Starts servers for one test."""
    servers = []

    def start(*options):
        servers.append(Serving(bundle, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.communicate()


def test_it_writes_what_the_command_writes(serving, bundle, tmp_path):
    status, made = serving.ask({"prompt": "One day", "seed": 3, "samples": 2, "steps": 5})
    assert status == 200
    command = [sys.executable, str(bundle / "generate.py"), "One day", "--seed=3", "--samples=2", "--steps=5", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT)
    assert made["samples"] == json.loads(done.stdout)["samples"]
    assert list(made) == list(json.loads(done.stdout))


def test_gaps_are_filled(serving):
    status, made = serving.ask({"prompt": "One ___[2] and ___[3].", "infill": True})
    assert status == 200
    assert made["samples"][0]["text"].startswith("One")


def test_a_stream_is_a_line_for_each_state_and_the_document_last(serving):
    whole = serving.ask({"prompt": "One day", "steps": 6})[1]
    connection, answer = serving.stream({"prompt": "One day", "steps": 6})
    *states, last = [json.loads(line) for line in answer.read().splitlines()]
    connection.close()
    assert [state["step"] for state in states] == [1, 2, 3, 4, 5, 6]
    assert [state["masked"] for state in states] == sorted({state["masked"] for state in states}, reverse=True)
    assert all("█" in state["text"] for state in states[:-1])
    assert last["done"] is True
    assert last["samples"] == whole["samples"]


def test_a_stream_comes_while_the_text_is_written(serving):
    connection, answer = serving.stream(LONG)
    first = json.loads(answer.readline())
    assert first["masked"] > 0
    assert serving.health()[1]["is_busy"]
    connection.close()
    serving.until(is_busy=False)  # who hangs up is not written for


@pytest.mark.parametrize(("body", "line"), [
    (b"{", "the body is not JSON; send an object"),
    (b"\xff\xfe", "the body is not JSON"),
    (b"[" * 2900, "the body is not JSON"),
    (b"[]", "the body is no object"),
    ({"prompts": "x"}, "unknown key 'prompts'; wanted some of prompt, infill, stream, samples"),
    ({"prompt": 3}, "prompt: got 3, wanted a text"),
    ({"samples": 3}, "samples: got 3, wanted 1 to 2"),
    ({"samples": True}, "samples: got true, wanted 1 to 2"),
    ({"samples": 1.0}, "samples: got 1.0, wanted 1 to 2"),
    ({"steps": 41}, "steps: got 41, wanted 1 to 40"),
    ({"length": 5001}, "length: got 5001, wanted 1 to 5000"),
    ({"seed": 2**63}, "seed: got 9223372036854775808, wanted an integer of 64 bits"),
    ({"temperature": -1}, "temperature: got -1, wanted 0 to 100"),
    (b'{"temperature": NaN}', "temperature: got NaN, wanted 0 to 100"),
    (b'{"temperature": 1e999}', "temperature: got Infinity, wanted 0 to 100"),
    ({"top_p": 0}, "top_p: got 0, wanted more than 0 and at most 1"),
    ({"top_k": 0}, "top_k: got 0, wanted 1 or more"),
    ({"stream": "yes"}, 'stream: got "yes", wanted true or false'),
    ({"unmasking": "luck"}, "unknown unmasking 'luck'; wanted one of random"),
    ({"prompt": "a " * 40}, "but the model writes 32 in all; shorten it"),
    ({"prompt": "One day", "infill": True}, "infill: no gap in 'One day'"),
    ({"prompt": "\ud800"}, "is not valid UTF-8"),
])  # fmt: skip
def test_what_can_be_mended_is_400_and_one_line(serving, body, line):
    status, made = serving.ask(body)
    assert status == 400
    assert list(made) == ["error"]
    assert line in made["error"]
    assert "\n" not in made["error"]


def test_bodies_are_bounded_and_declared(serving):
    assert serving.ask(b"x" * 3001)[0] == 413
    assert serving.ask(b"{}", Content_Length="9" * 5000)[0] == 413
    assert serving.ask(b"{}", Content_Type="text/plain")[0] == 415
    client = serving.connection()
    client.request("POST", "/generate", iter([b"{}"]), {"Content-Type": "application/json"}, encode_chunked=True)
    assert client.getresponse().status == 411
    client.close()


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/", 404), ("POST", "/other", 404), ("GET", "/generate", 405), ("PUT", "/generate", 405),
    ("POST", "/health", 405), ("DELETE", "/health", 405), ("BREW", "/health", 501),
])  # fmt: skip
def test_nothing_else_is_there(serving, method, path, status):
    found, made = serving.ask({}, path, method)
    assert found == status
    assert list(made) == ["error"]


def test_a_wrong_method_is_told_the_right_ones_and_head_has_no_body(serving):
    client = serving.connection()
    client.request("GET", "/generate")
    answer = client.getresponse()
    assert (answer.status, answer.getheader("Allow")) == (405, "POST")
    client.close()
    client.request("HEAD", "/health")
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    assert int(answer.getheader("Content-Length")) > 10
    client.close()


@pytest.mark.parametrize(("headers", "said"), [
    ("Host: localhost\r\nContent-Length: 2\r\nContent-Length: 3", "2 Content-Length headers"),
    ("Host: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked", "both Content-Length and Transfer-Encoding"),
    ("Host: [::1", "a Host that is no host"),
    ("Host: evil.example:80@127.0.0.1", "a Host that is no host"),
    ("Host: localhost/x", "a Host that is no host"),
    ("Host: localhost:port", "a Host that is no host"),
    ("Host: localhost\r\nHost: localhost", "2 Host headers"),
    ("Accept: */*", "0 Host headers"),
    ("Host: localhost\r\nContent-Length : 2", "a header line that is not NAME: VALUE"),
    ("Host: localhost\r\nX-Long: a\r\n b", "a header line that is not NAME: VALUE"),
    ("Host: localhost\r\nX: a\rContent-Length: 9", "a header line that is not NAME: VALUE"),
    ("Host: localhost\r\nno colon", "a header line that is not NAME: VALUE"),
    ("Host: localhost\r\nX: \0", "a header line that is not NAME: VALUE"),
])  # fmt: skip
def test_requests_that_two_readers_could_read_in_two_ways_are_refused(serving, headers, said):
    request = f"POST /generate HTTP/1.1\r\nContent-Type: application/json\r\n{headers}\r\n\r\n{{}}".encode()
    with socket.create_connection(("127.0.0.1", serving.port), timeout=10) as client:
        client.sendall(request)
        answer = client.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 400 ")
    assert said in json.loads(answer.rpartition("\r\n\r\n")[2])["error"]


def test_a_request_that_drips_is_given_up_however_alive_it_looks(monkeypatch):
    """The deadline is of the whole request, not of each byte."""
    monkeypatch.setattr(connection, "REQUEST_S", 0.3)
    here, there = socket.socketpair()
    request = connection.Request(connection.Incoming(here))

    def drip():
        with contextlib.suppress(OSError):
            for _ in range(100):
                there.send(b"a")
                time.sleep(0.05)

    threading.Thread(target=drip, daemon=True).start()
    with pytest.raises(TimeoutError):
        request.readline()
    here.close()
    there.close()


def test_between_two_requests_a_connection_may_be_silent_for_longer(monkeypatch):
    monkeypatch.setattr(connection, "REQUEST_S", 0.1)
    here, there = socket.socketpair()
    request = connection.Request(connection.Incoming(here))
    for _ in range(2):
        request.raw.begin()
        threading.Timer(0.3, there.send, [b"a\r\n"]).start()
        assert request.readline() == b"a\r\n"
    assert request.raw.head == [b"a\r\n"]
    here.close()
    there.close()


def test_one_address_can_not_take_every_place(serving):
    """Of another machine; 127.0.0.2 stands for one."""
    address = ("127.0.0.1", serving.port)
    held = [
        socket.create_connection(address, source_address=("127.0.0.2", 0)) for _ in range(connection.CONNECTIONS + 4)
    ]
    assert serving.health()[0] == 200
    for each in held:
        each.close()


def test_a_page_of_another_name_that_points_here_is_refused(serving):
    status, made = serving.ask({}, Host="stories.example:8080")
    assert status == 403
    assert "this serves 127.0.0.1 alone" in made["error"]
    assert serving.ask({"steps": 1}, Host=f"localhost:{serving.port}")[0] == 200


def test_rubbish_does_not_end_it(serving):
    for rubbish in (
        b"\0" * 100,
        b"GET\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nContent-Length: 50\r\n\r\n{",
        b"G" * 70000,
    ):
        with socket.create_connection(("127.0.0.1", serving.port), timeout=10) as client:
            client.sendall(rubbish)
    assert serving.health()[0] == 200


def test_one_text_at_a_time_some_wait_and_more_are_turned_away(serving):
    first, answer = serving.stream(LONG)
    answer.readline()
    second = threading.Thread(target=lambda: results.append(serving.ask({"steps": 2})))
    results = []
    second.start()
    serving.until(waiting=1)
    status, made = serving.ask({"steps": 2})
    assert status == 503
    assert made["error"] == "1 texts wait already; try again"
    first.close()
    second.join()
    assert results[0][0] == 200


def test_who_asks_too_often_waits(own):
    server = own("--max-rate=2")
    assert [server.ask({"steps": 1})[0] for _ in range(3)] == [200, 200, 429]
    made = server.ask({"steps": 1})[1]
    assert "more than 2 requests a minute; try again in " in made["error"]
    assert server.health()[0] == 200


def test_a_bucket_fills_with_time_and_few_addresses_are_remembered():
    now = [0.0]
    rates = desk.Rates(60, lambda: now[0])
    for _ in range(60):
        rates.take("a")
    with pytest.raises(desk.Refusal, match="try again in 1 s"):
        rates.take("a")
    now[0] += 1
    rates.take("a")
    with pytest.raises(desk.Refusal):
        rates.take("a")
    for number in range(desk.CLIENTS):
        rates.take(str(number))
    assert len(rates._buckets) == desk.CLIENTS
    rates.take("a")  # forgotten, so it begins anew


def test_at_sigterm_the_text_in_hand_is_finished_and_who_waits_is_told(own):
    server = own("--max-rate=1000")
    connection, answer = server.stream({**LONG, "length": 600})
    answer.readline()
    waiting = threading.Thread(target=lambda: results.append(server.ask({"steps": 2})))
    results = []
    waiting.start()
    server.until(waiting=1)
    server.process.send_signal(signal.SIGTERM)
    waiting.join()
    assert results == [(503, {"error": "shutting down; try again later"})]
    assert json.loads(answer.read().splitlines()[-1])["done"]
    connection.close()
    assert server.process.wait(30) == 0
    assert server.process.stderr.read().endswith("serve.py: ended\n")


def test_a_text_that_takes_longer_than_the_grace_is_given_up(own):
    server = own("--grace=0")
    connection, answer = server.stream(LONG)
    answer.readline()
    assert server.end() == 0
    assert server.process.stderr.read().endswith("serve.py: ended in the middle of a text\n")
    connection.close()


def test_an_idle_connection_does_not_hold_the_end_up(own):
    server = own()
    with socket.create_connection(("127.0.0.1", server.port)):
        started = time.monotonic()
        assert server.end(signal.SIGINT) == 0
        assert time.monotonic() - started < 5


def test_the_log_names_no_prompt_and_no_line_breaks_into_it(own):
    server = own()
    server.ask({"prompt": "a secret", "steps": 1})
    server.ask(b"", "/%0Afalse", "GET")
    server.end()
    lines = server.process.stderr.read().splitlines()
    assert not any("secret" in line for line in lines)
    assert len([line for line in lines if line.startswith("127.0.0.1 ")]) == 2


@pytest.mark.parametrize(("options", "line"), [
    (["--max-steps=0"], "argument --max-steps: got 0, wanted at least 1"),
    (["--host=192.0.2.1"], "--host 192.0.2.1 --port 0: "),
    (["--port=70000"], "--port 70000: "),
    (["--precision=int4"], "this bundle has no logits graph in int4"),
])  # fmt: skip
def test_what_the_operator_can_mend_is_one_line_and_exit_2(bundle, options, line):
    command = [sys.executable, str(bundle / "serve.py"), "--port=0", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("serve.py: ")
    assert done.stderr.count("\n") == 1
    assert line in done.stderr
