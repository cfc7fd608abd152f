"""Hub datasets: which commit, and its rows as a stream."""

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from ddlm.config import Unreachable, UserError
from ddlm.data import CorpusConfig
from ddlm.data.files import split_of

logger = logging.getLogger(__name__)

OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
COMMIT = re.compile(r"[0-9a-f]{40}")
BUSY = {429, 500, 502, 503, 504}
"""Statuses after which the same question may be answered."""
PAUSES_S = (0.5, 1.0, 2.0, 4.0)
Answer = TypeVar("Answer")


class SwitchedOff(ConnectionError):
    """The user has told the hub's client to stay offline."""


def looks_like_an_id(source: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", source) is not None


def find_commit(corpus: CorpusConfig) -> str | None:
    """The commit that `corpus.revision` (else the main branch) is at. A full commit id is taken at its word.

    None when the hub can't be reached and the bundled sample stands in. Waits `corpus.hub_timeout_s` at most.
    Raises: UserError when there is no such dataset or the hub is switched off. Unreachable when there is no hub. Either
    only with offline="error".
    """
    if corpus.offline == "error" and COMMIT.fullmatch(corpus.revision or ""):
        return corpus.revision
    try:
        commit = ask_hub(corpus)
    except ConnectionError as error:
        if corpus.offline == "error":
            raise _unreachable(corpus, error) from None
        logger.info("corpus: the hub can't be reached (%s); the bundled stories stand in", error)
        return None
    logger.info("corpus: %s at commit %s", corpus.source, commit)
    return commit


def ask_hub(corpus: CorpusConfig) -> str:
    """The dataset's commit. Raises: ConnectionError when the hub does not answer in time, UserError when it says no.

    A hub that is busy for a moment is asked again.
    """
    switch = next(
        (name for name in OFFLINE_SWITCHES if os.environ.get(name, "0").upper() in ("1", "ON", "YES", "TRUE")), None
    )
    if switch:
        raise SwitchedOff(f"{switch} is set")
    answer: Future[str] = Future()

    def ask() -> None:
        try:
            answer.set_result(_ask(corpus))
        except Exception as error:  # noqa: BLE001  raised again by `result`
            answer.set_exception(error)

    # Neither DNS nor a trickle of bytes obeys the client's own timeout; a daemon thread can be left behind.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answer.result(corpus.hub_timeout_s)
    except TimeoutError:
        raise ConnectionError(f"no answer in {corpus.hub_timeout_s:g} s") from None


def open_splits(corpus: CorpusConfig, commit: str, *, train: str, validation: str) -> dict[str, Iterator[object]]:
    """Streams of the text column, by `train` and, where the dataset has it, `validation`.

    Raises: UserError when a split or the column does not exist, Unreachable when the hub breaks off.
    """
    from datasets import load_dataset
    from huggingface_hub.errors import HTTPError

    try:
        ask_hub(corpus)
    except ConnectionError as error:
        raise _unreachable(corpus, error) from None
    try:
        splits = load_dataset(corpus.source, corpus.name, revision=commit, streaming=True)
    except (FileNotFoundError, ValueError) as error:  # no data files; several configurations
        raise UserError(f"corpus.source {corpus.source}: {_first_line(error)}") from None
    except HTTPError as error:
        raise Unreachable(f"corpus.source {corpus.source}: the hub broke off ({_first_line(error)})") from error
    if train not in splits:
        raise UserError(f"corpus.train_split {train!r}: {corpus.source} has {', '.join(splits)}; take one of them")
    held_out = held_out_of([name for name in splits if name != train], validation)
    logger.info("corpus: train: %s; validation: %s", train, held_out or "a part of it")
    names = {"train": train, "validation": held_out}
    return {ours: _texts(corpus, splits[name]) for ours, name in names.items() if name}


def held_out_of(splits: Sequence[str], validation: str) -> str | None:
    """The split to validate with: the configured one, else one whose name says so, as a folder's file would."""
    if validation in splits:
        return validation
    of = {split_of(Path(name), "train", validation): name for name in reversed(splits)}
    return of.get("validation") or of.get("test")


def _texts(corpus: CorpusConfig, rows: Iterable[dict[str, Any]]) -> Iterator[object]:
    from huggingface_hub.errors import HTTPError

    try:
        for row in rows:
            if corpus.text_field not in row:
                raise UserError(
                    f"corpus.source {corpus.source}: no column {corpus.text_field!r}; it has {', '.join(row)}; "
                    "set corpus.text_field"
                )
            yield row[corpus.text_field]
    except HTTPError as error:  # the client's errors are no OSError, so nobody would know that it is worth a retry
        raise Unreachable(f"corpus.source {corpus.source}: the hub broke off ({_first_line(error)})") from error


def _ask(corpus: CorpusConfig) -> str:
    from huggingface_hub import HfApi, errors

    refusals = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        info = _patiently(
            lambda: api.dataset_info(corpus.source, revision=corpus.revision, timeout=corpus.hub_timeout_s)
        )
    except refusals as error:
        raise UserError(
            f"corpus.source {corpus.source}: the hub does not give it ({type(error).__name__}); "
            "check the id and corpus.revision, or set HF_TOKEN where it is private or gated"
        ) from None
    except (errors.HTTPError, OSError, ValueError) as error:  # ValueError: some network's login page, not JSON
        raise ConnectionError(_first_line(error)) from error
    return str(info.sha)


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask again, after a pause, a hub that answers that it is busy. Raises: what the last answer was."""
    from huggingface_hub.errors import HfHubHTTPError

    for pause_s in PAUSES_S:
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code not in BUSY:
                raise
            logger.info("corpus: the hub is busy (%s); asking again in %g s", _first_line(error), pause_s)
        time.sleep(pause_s)
    return ask()


def _unreachable(corpus: CorpusConfig, error: ConnectionError) -> UserError | Unreachable:
    """Worth a retry, unless the user has switched the hub off."""
    line = (
        f"corpus.source {corpus.source}: the hub can't be reached ({error}); take a local file or folder, "
        'corpus.source="sample", or corpus.offline="sample"'
    )
    return UserError(line) if isinstance(error, SwitchedOff) else Unreachable(line)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
