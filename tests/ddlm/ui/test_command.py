"""`ddlm ui` with what can't be: one line, exit code 2, before anything slow."""

import importlib.util
import os
import socket
import subprocess
import sys
from contextlib import closing

import pytest

from ddlm.cli import main
from ddlm.cli.page import SWITCHES, settle_environment
from ddlm.config import installing
from ddlm.ui.port import address, bind


@pytest.fixture
def ddlm(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ddlm", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        return exited.value.code, capsys.readouterr().err

    return run


@pytest.fixture
def taken():
    with closing(socket.create_server(("127.0.0.1", 0))) as sock:
        yield str(sock.getsockname()[1])


def test_without_the_extra_the_line_says_what_to_install(ddlm, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr("ddlm.cli.page.find_spec", lambda name: None if name == "gradio" else find(name))
    assert ddlm("ui", "owl") == (2, f"ddlm: ui: gradio is not installed; run {installing('ui')}\n")


def test_a_busy_port(ddlm, taken):
    code, err = ddlm("ui", "owl", "--port", taken)
    assert code == 2
    assert err.startswith(f"ddlm: port {taken} at 127.0.0.1: Address already in use; choose another with --port")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--port", "70000"), "port 70000: wanted 0 to 65535"),
        (("--port", "0", "--server-name", "192.0.2.1"), "port 0 at 192.0.2.1: Cannot assign requested address"),
        (("--port", "0", "--server-name", "no such host"), "port 0 at no such host: "),
        (("--port", "0", "--precision", "half"), "--precision: got 'half'"),
        (("--port", "0", "--root-path", "ddlm"), "--root-path 'ddlm': wanted a path such as /ddlm"),
        (("--port", "0"), "model owl: no such folder or experiment"),
    ],
)
def test_what_cannot_be_is_one_line(ddlm, options, said):
    code, err = ddlm("ui", "owl", *options)
    assert code == 2
    assert err.startswith(f"ddlm: {said}")
    assert err.count("\n") == 1


def test_what_gradio_reads_of_the_environment_is_the_options_or_nothing(ddlm, monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_PORT", "x")
    code, err = ddlm("ui", "owl")
    assert (code, err.count("\n")) == (2, 1)
    assert "GRADIO_SERVER_PORT" in err or "--port" in err
    assert ddlm("ui", "owl", "--port", "0")[1].startswith("ddlm: model owl: no such folder")
    monkeypatch.setenv("GRADIO_NUM_PORTS", "many")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "/tmp/kept")
    settle_environment()
    assert {name for name in os.environ if name.startswith("GRADIO_")} == {*SWITCHES, "GRADIO_TEMP_DIR"}


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://127.0.0.1:"), ("::1", "http://[::1]:")]
)
def test_the_address_is_one_that_a_browser_takes(host, shown):
    with closing(bind(host, 0)) as sock:
        assert address(sock) == f"{shown}{sock.getsockname()[1]}"


@pytest.mark.services
def test_a_public_address_that_nobody_gives_is_one_line(home_of_two, monkeypatch):
    monkeypatch.setenv("DDLM_HOME", str(home_of_two))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    command = [sys.executable, "-m", "ddlm", "ui", "owl", "--port", "0", "--share"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("ddlm: --share: no public address")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
