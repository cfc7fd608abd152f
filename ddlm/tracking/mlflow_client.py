"""A client for an MLflow store: no telemetry, quick to give up, and a fresh database made by one process alone."""

import fcntl
import logging
import os
import sqlite3
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ddlm.config import UserError, home
from ddlm.tracking.backends import Refused, Unavailable
from ddlm.tracking.provenance import without_login, without_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

ALWAYS = {"DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
UNLESS_SET = {
    # MLflow's own defaults keep a caller waiting for minutes when its server is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
PROBE_TIMEOUT_S = 3.0
QUIET = {
    "mlflow": logging.WARNING,
    "alembic": logging.WARNING,
    "mlflow.store.db.utils": logging.CRITICAL,  # tracebacks of what we say in one line
    "urllib3.connectionpool": logging.ERROR,
}
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql")
FINAL = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_STATE"}
"""MLflow's answers that another try does not change."""


def resolve_uri(uri: str | None) -> str:
    """The store's address: what is given, else MLflow's own MLFLOW_TRACKING_URI, else `mlflow.db` in the home folder.

    Raises: UserError for a folder of files, and for what is no address of a store.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
    if "://" not in uri or uri.startswith("file:"):
        raise UserError(
            f"tracking.uri {uri!r}: MLflow keeps no runs in folders; "
            "write sqlite:///path/mlflow.db or http://host:port, or leave it out"
        )
    if uri.partition("://")[0].partition("+")[0] not in SCHEMES:
        raise UserError(
            f"tracking.uri {without_password(uri)!r}: not an address that MLflow knows; "
            f"wanted one that begins with {', '.join(SCHEMES)}"
        )
    return uri


def connect(uri: str) -> "MlflowClient":
    """A client whose store has just answered. Raises: Unavailable, within seconds."""
    os.environ.update(ALWAYS)
    for name, value in UNLESS_SET.items():
        os.environ.setdefault(name, value)
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)
    if is_http(uri):
        _probe(uri)
        return _client(uri)
    if uri.startswith("sqlite:///"):
        return _open_database(uri)
    return _client(uri)


def is_http(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turns what MLflow and its stores raise into Unavailable or Refused, in one line."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        kind = Refused if error.error_code in FINAL else Unavailable
        raise kind(_message(uri, error)) from error
    except (SQLAlchemyError, OSError) as error:
        raise Unavailable(_message(uri, error)) from error


def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    with reaching(uri):
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
        return client


def _probe(uri: str) -> None:
    """A server that is down is found here, before MLflow waits for it."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    health = Request(f"{without_login(uri).rstrip('/')}/health", headers=_login(uri))
    try:
        urlopen(health, timeout=PROBE_TIMEOUT_S).close()
    except HTTPError as error:
        error.close()
        if error.code >= 500:  # a gateway without its server; any other code is an answer
            raise Unavailable(_message(uri, error)) from error
    except (OSError, ValueError) as error:
        raise Unavailable(_message(uri, error)) from error


def _login(uri: str) -> dict[str, str]:
    """The header for an address with a login in it, which urllib would take for a part of the host's name."""
    login, at, _ = urlsplit(uri).netloc.rpartition("@")
    return {"Authorization": f"Basic {b64encode(unquote(login).encode()).decode()}"} if at else {}


def _open_database(uri: str) -> "MlflowClient":
    """Two processes that open a fresh database at once would break it: the kernel's lock lets in one at a time."""
    path = Path(uri.removeprefix("sqlite:///"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{path}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _create_database(path)
            _require_writable(path)
            if path.parent == home():
                follow_home(path)
            return _client(uri)
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(_message(uri, error)) from error


def _create_database(path: Path) -> None:
    """Migrated under another name first: a killed creation leaves no half database behind."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    fresh = path.with_name(f".{path.name}.new")
    for leftover in path.parent.glob(f"{fresh.name}*"):
        leftover.unlink()
    store = SqlAlchemyStore(f"sqlite:///{fresh}", artifact_root())
    store.engine.dispose()
    fresh.rename(path)


def artifact_root() -> str:
    """Where the files of runs go when no server decides that."""
    return (home() / "mlartifacts").as_uri()


def _require_writable(path: Path) -> None:
    """MLflow would try for minutes to open a database that is locked or broken; this raises in five seconds."""
    with closing(sqlite3.connect(path, timeout=5, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")


LOCATIONS = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip


def follow_home(path: Path) -> None:
    """MLflow keeps whole paths of files; where the home folder was moved or copied they become those of today.

    What lies elsewhere and not here was put there by a run with another home, and stays.
    """
    root = artifact_root()
    with closing(sqlite3.connect(path, timeout=5)) as database, database:
        for table, column in LOCATIONS:
            others = f"SELECT DISTINCT {column} FROM {table} WHERE {column} LIKE 'file:%/mlartifacts/%'"
            for (location,) in database.execute(others).fetchall():
                here = f"{root}/{location.partition('/mlartifacts/')[2]}"
                if here != location and (_exists(here) or not _exists(location)):
                    database.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (here, location))


def _exists(location: str) -> bool:
    return Path(unquote(urlsplit(location).path)).exists()


def _message(uri: str, error: Exception) -> str:
    first, *_ = str(error).strip().splitlines() or [type(error).__name__]
    return without_password(f"MLflow at {uri}: {first[:200]}")
