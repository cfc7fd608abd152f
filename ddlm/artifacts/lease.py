"""One builder of a key among machines: a lease in the store, kept alive by a heartbeat.

The lease is the newest object of `.leases/<key>/<number>.json`; its holder rewrites it again and again. Who waits takes
over when it has not changed for a while by the waiter's own clock, so clocks need not agree, and does so by creating
the next number, which only one of several can. A lease saves work and is not what keeps artifacts whole: a
holder that was only slow, and lost it, builds on, and its artifact is as good.
"""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple
from uuid import uuid4

from ddlm.artifacts.remote import Remote, StoreUnavailable
from ddlm.config import UserError

logger = logging.getLogger(__name__)

SETTLE_S = 1.0
"""Where a store overwrites what it should not: how long after its write a claim must still stand to count."""


class Seen(NamedTuple):
    """The newest lease of a key, as it is now."""

    number: int
    owner: str
    host: str
    beat: int


class Leases:
    """Leases in a store. beat_s: how often a holder shows that it lives; expiry_s: how long it may be silent."""

    def __init__(self, remote: Remote, *, beat_s: float = 10.0, expiry_s: float = 60.0, poll_s: float = 2.0) -> None:
        self._remote = remote
        self._beat_s, self._expiry_s, self._poll_s = beat_s, expiry_s, poll_s

    @contextmanager
    def held(self, key: str) -> Iterator[None]:
        """Wait until no other machine holds the key, and hold it for the block."""
        mine, ended = self._acquire(key), threading.Event()
        beats = threading.Thread(target=self._keep_alive, args=(key, mine, ended), name="ddlm-lease", daemon=True)
        beats.start()
        try:
            yield
        finally:
            ended.set()
            beats.join()
            self._release(key, mine)

    def _acquire(self, key: str) -> Seen:
        me = Seen(0, uuid4().hex, socket.gethostname(), 0)
        watched, since = None, time.monotonic()
        while True:
            seen = self._newest(key)
            if seen and seen != watched:
                if watched is None:
                    logger.info("waiting for %s: %s is building it", key, seen.host)
                watched, since = seen, time.monotonic()
            silent_s = time.monotonic() - since
            if seen is None or silent_s > self._expiry_s:
                if seen:
                    logger.warning("%s has been silent for %.0f s; taking %s over", seen.host, silent_s, key)
                claim = me._replace(number=seen.number + 1 if seen else 1)
                if self._claim(key, claim):
                    return claim
            time.sleep(self._poll_s)

    def _claim(self, key: str, claim: Seen) -> bool:
        """A second try that fails shows that the store heeds the condition; else only time tells who wrote last."""
        name, data = _name(key, claim.number), _encoded(claim)
        if self._remote.create(name, data) and self._remote.create(name, data):
            time.sleep(SETTLE_S)
        return self._newest(key) == claim

    def _newest(self, key: str) -> Seen | None:
        for name in sorted(self._remote.sizes(f".leases/{key}"), reverse=True):
            data = self._remote.read(f".leases/{key}/{name}")
            if data is not None:
                return Seen(int(name.removesuffix(".json")), **json.loads(data))
        return None

    def _keep_alive(self, key: str, mine: Seen, ended: threading.Event) -> None:
        while not ended.wait(self._beat_s):
            try:
                seen = self._newest(key)
                if seen is None or seen.owner != mine.owner:
                    logger.warning("lost the lease of %s to %s; both build it", key, seen.host if seen else "nobody")
                    return
                mine = mine._replace(beat=mine.beat + 1)
                self._remote.write(_name(key, mine.number), _encoded(mine))
            except (StoreUnavailable, UserError) as error:
                logger.debug("%s: no heartbeat: %s", key, error)

    def _release(self, key: str, mine: Seen) -> None:
        """Oldest first: what a killed holder left behind must not come to be the newest."""
        try:
            for name in sorted(self._remote.sizes(f".leases/{key}")):
                if name <= _name(key, mine.number).rpartition("/")[2]:
                    self._remote.remove(f".leases/{key}/{name}")
        except (StoreUnavailable, UserError) as error:
            logger.warning("the lease of %s stays until it expires: %s", key, error)


def _name(key: str, number: int) -> str:
    return f".leases/{key}/{number:08d}.json"


def _encoded(lease: Seen) -> bytes:
    return json.dumps({"owner": lease.owner, "host": lease.host, "beat": lease.beat}).encode()
