"""A commit of this repository on a box, what it needs to run, and what it leaves behind."""

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from boxes import name
from fabric import Connection
from invoke import Exit
from remote import ask, do, feed, unpack

PROJECT = Path(__file__).resolve().parents[1]
PYTHONS = ("python3", "python3.13", "python3.12", "python3.11")

HAS = '[ -d "$HOME/ddlm/trees/$1" ]'
PLACE = """mkdir -p "$HOME/ddlm/trees" "$HOME/ddlm/outputs" && cd "$HOME/ddlm/trees" || exit
{ mkdir ".$1.$$" && tar -xzf - -C ".$1.$$" && mv -T ".$1.$$" "$1"; } || { rm -rf ".$1.$$"; exit 1; }"""
SWAP = 'cd "$HOME/ddlm" && ln -sfn "trees/$1" ".current.$$" && mv -fT ".current.$$" current && readlink current'
PACK = """cd "$HOME/ddlm" || exit
[ -e "$1" ] || { echo "$1: no such file in ~/ddlm" >&2; exit 2; }
tar -chzf - -C "$(dirname -- "$1")" -- "$(basename -- "$1")\""""


def push(box: Connection, commit: str) -> None:
    """Make a commit the box's current tree. A tree that is there already is not sent again."""
    full = git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if ask(box, HAS, full) is None:
        with tempfile.TemporaryFile() as archive:
            subprocess.run(["git", "-C", PROJECT, "archive", "--format=tar.gz", full], stdout=archive, check=True)
            archive.seek(0)
            feed(box, archive, PLACE, full)
    do(box, SWAP, full)
    print(f"{name(box)}: {git('log', '-1', '--format=%h %s', full)}")


def git(*words: str) -> str:
    """Raises: Exit when the commit is unknown or this is no repository."""
    done = subprocess.run(["git", "-C", PROJECT, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Exit(f"--commit {words[-1].partition('^')[0]}: {done.stderr.strip() or 'no such commit here'}", 2)
    return done.stdout.strip()


def install(box: Connection, python: str) -> None:
    """Give the current tree its virtual environment; nothing happens where it has one."""
    script = Path(__file__).with_name("install.sh").read_text(encoding="utf-8")
    do(box, script, *([python] if python else PYTHONS), shown=True)


def fetch(box: Connection, path: str, outputs: Path) -> None:
    """Bring a file or folder below ~/ddlm into `outputs`/fetched/HOST/TIME/: a host may be called as an experiment."""
    target = outputs / "fetched" / box.original_host / time.strftime("%Y-%m-%d_%H-%M-%S")
    partial = target.with_name(f".{target.name}")
    partial.mkdir(parents=True)
    try:
        unpack(box, partial, PACK, path.rstrip("/"))
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # what a failure left; nothing after the rename
    print(f"{name(box)}: {path} is in {target}")
