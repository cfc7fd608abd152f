"""Files that ssh, editors and shells write, in their own spellings."""

import base64
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from invoke import Exit

ROOT = Path(__file__).parents[2]


@pytest.fixture
def spellings(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "infra"))
    import spellings

    return spellings


def key(number: int) -> str:
    """An ed25519 key, as ssh writes one."""
    parts = [b"ssh-ed25519", bytes([number]) * 32]
    return base64.b64encode(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).decode()


SETTINGS = {
    "A=1": "1",
    "export A=1": "1",
    "A=a=1&b=2": "a=1&b=2",
    "A=two words": "two words",
    "A=p$$w`x`": "p$$w`x`",
    "A='p$w # 1'": "p$w # 1",
    'A="two words" # and why': "two words",
    "A=value # and why": "value",
    "A=https://h/#part": "https://h/#part",
    "A=it's": "it's",
    "A=": "",
    "  A=1\r": "1",
}


@pytest.mark.parametrize(("line", "value"), SETTINGS.items())
def test_a_value_is_what_is_written_and_a_shell_reads_the_same(
    spellings: ModuleType, tmp_path: Path, line: str, value: str
) -> None:
    (tmp_path / "env").write_bytes(f"\ufeff# a comment\r\n\r\n{line}\n".encode())
    found = spellings.settings_of(tmp_path / "env")
    assert found == {"A": value}
    (tmp_path / ".env").write_text(spellings.for_a_shell(found))
    done = subprocess.run(
        ["sh", "-c", f". '{tmp_path}/.env'; printf %s \"$A\""], capture_output=True, text=True, check=True
    )
    assert done.stdout == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"A=1\nnot a setting\n", "line 2 is not NAME=value"),
        (b"A=1\n2B=1\n", "line 2 is not NAME=value"),
        (b"A='open\n", "line 1 begins with a quote that nothing closes"),
        (b"A=1\nB=caf\xe9\n", "line 2 is not UTF-8 text"),
    ],
)
def test_what_can_not_be_understood_is_refused_by_its_line(
    spellings: ModuleType, tmp_path: Path, text: bytes, said: str
) -> None:
    (tmp_path / "env").write_bytes(text)
    with pytest.raises(Exit, match=said):
        spellings.settings_of(tmp_path / "env")


def test_lines_that_paramiko_can_not_read_keep_it_from_no_other(spellings: ModuleType, tmp_path: Path) -> None:
    good, revoked, hashed = key(1), key(2), "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg="
    lines = [
        f"box ssh-ed25519 {good} caf\xe9".encode("latin-1"),
        f"@cert-authority *.example ssh-ed25519 {key(3)}".encode(),
        f"@revoked * ssh-ed25519 {revoked}".encode(),
        f"old ssh-ed25519 {revoked}".encode(),
        f"cut ssh-ed25519 {good[:20]}".encode(),
        b"cut ssh-ed25519",
        f"odd ssh-rsa {good}".encode(),
        b"# a comment",
        f"{hashed} ssh-ed25519 {good}\r".encode(),
    ]
    (tmp_path / "known_hosts").write_bytes(b"\n".join(lines))
    found = list(spellings.host_keys(tmp_path / "known_hosts"))
    assert found == [f"box ssh-ed25519 {good}", f"{hashed} ssh-ed25519 {good}"]
    (tmp_path / "readable").write_text("\n".join(found))
    from paramiko import HostKeys

    assert HostKeys(str(tmp_path / "readable")).lookup("box")
