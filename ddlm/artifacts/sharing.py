"""How a local folder and its remote are kept in step."""

import logging
from pathlib import Path

from ddlm.artifacts.lease import Leases
from ddlm.artifacts.manifest import digest_of
from ddlm.artifacts.remote import Remote, StoreUnavailable
from ddlm.artifacts.workspace import Artifact
from ddlm.config import UserError

logger = logging.getLogger(__name__)


class Sharing:
    """A remote, the leases in it, and which of the artifacts under `root` it is known to have."""

    def __init__(self, remote: Remote, root: Path, leases: Leases) -> None:
        self.remote, self.leases = remote, leases
        self._root, self._marks = root, root / ".shared" / digest_of(remote.url)[:12]
        self._offers = True

    def share(self, artifact: Artifact) -> bool:
        """Upload. Where that fails nothing is lost: it is said, and whoever finds the artifact here tries again."""
        place = f"{artifact.stage}/{artifact.key}"
        try:
            self.remote.push(artifact.path, place)
        except (StoreUnavailable, UserError) as error:
            logger.warning("artifact %s is kept here alone until a later run shares it: %s", place, error)
            return False
        self.mark(artifact)
        return True

    def offer(self, artifact: Artifact, *, ask: bool) -> None:
        """Share what was built without the remote, unless it has the key: what others may have used stays.

        ask: even where the remote is known to have had it. Not tried again once it failed: a run whose stages are all
        here needs no remote.
        """
        if not self._offers or (self._mark(artifact).exists() and not ask):
            return
        try:
            is_there = self.remote.has(f"{artifact.stage}/{artifact.key}")
        except (StoreUnavailable, UserError) as error:
            logger.warning("artifacts are taken from %s and not shared now: %s", self._root, error)
            self._offers = False
            return
        if is_there:
            self.mark(artifact)
        else:
            self._offers = self.share(artifact)

    def mark(self, artifact: Artifact) -> None:
        """Remember that the remote has it."""
        self._marks.mkdir(parents=True, exist_ok=True)
        self._mark(artifact).touch()

    def _mark(self, artifact: Artifact) -> Path:
        return self._marks / f"{artifact.stage}-{artifact.key}"
