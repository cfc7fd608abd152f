"""What a build keeps in its scratch folder, kept in the store too: another machine goes on from the last checkpoint."""

import logging
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddlm.artifacts.manifest import MANIFEST, DamageError
from ddlm.artifacts.remote import Remote, StoreUnavailable
from ddlm.config import UserError

logger = logging.getLogger(__name__)

FAULTS = (StoreUnavailable, UserError, DamageError, OSError)
"""OSError: the build removes an old checkpoint while it is being read."""


class Mirror:
    """Copies of the sealed folders in `scratch` and of the small JSON files beside them, at a place in the store.

    Folders are told apart and ordered by name: `step-00000100`. Only the holder of the lease may call it.
    """

    def __init__(self, remote: Remote, place: str, scratch: Path, *, every_s: float = 1.0) -> None:
        self._remote, self._place, self._scratch, self._every_s = remote, place, scratch, every_s
        self._sent: dict[str, bytes] = {}

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Fetch what is newer than all that is here; for the block, send what is new.

        Once more when the block fails: a training that is told to stop saves first.
        """
        self._fetch()
        ended = threading.Event()
        copies = threading.Thread(target=self._send_until, args=(ended,), name="ddlm-mirror", daemon=True)
        copies.start()
        try:
            yield
        except BaseException:
            ended.set()
            copies.join()
            self._send_if_possible()
            raise
        ended.set()
        copies.join()

    def clear(self) -> None:
        """The build is over and its artifact is in the store."""
        self._remote.remove_all(self._place)

    def _fetch(self) -> None:
        objects = self._remote.sizes(self._place)
        folders = {name.removesuffix(f"/{MANIFEST}") for name in objects if name.count("/") == 1}
        here = {path.parent.name for path in self._scratch.glob(f"*/{MANIFEST}")}
        self._sent = dict.fromkeys(folders, b"")  # so that what is not here is removed there
        if not folders or max(folders) <= max(here, default=""):
            return
        logger.info("%s: going on from %s of another machine", self._place, max(folders))
        for folder in folders - here:
            self._fetch_folder(folder)
        for name in (name for name in objects if "/" not in name):
            (self._scratch / name).write_bytes(self._remote.read(f"{self._place}/{name}") or b"")

    def _fetch_folder(self, name: str) -> None:
        temporary = self._scratch / ".fetching"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            self._remote.pull(f"{self._place}/{name}", temporary)
            temporary.rename(self._scratch / name)
            self._sent[name] = (self._scratch / name / MANIFEST).read_bytes()
        except DamageError as damage:
            logger.warning("checkpoint %s is damaged: %s; it is not used", name, damage)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _send_until(self, ended: threading.Event) -> None:
        while not ended.wait(self._every_s):
            self._send_if_possible()

    def _send_if_possible(self) -> None:
        try:
            self._send()
        except FAULTS as error:
            logger.debug("%s: not mirrored now: %s", self._place, error)

    def _send(self) -> None:
        """The newest folder first; what is gone here goes there last."""
        sealed = {path.parent.name: path.read_bytes() for path in self._scratch.glob(f"*/{MANIFEST}")}
        loose = {path.name: path.read_bytes() for path in self._scratch.glob("*.json")}
        for name in sorted(sealed, reverse=True):
            if self._sent.get(name) != sealed[name]:
                self._remote.push(self._scratch / name, f"{self._place}/{name}")
        for name, data in loose.items():
            if self._sent.get(name) != data:
                self._remote.write(f"{self._place}/{name}", data)
        for name in self._sent.keys() - sealed.keys() - loose.keys():
            self._remote.remove_all(f"{self._place}/{name}")
        self._sent = sealed | loose
