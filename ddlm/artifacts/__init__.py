"""The content-addressed store: one directory an artifact, complete or not there at all.

`root/<stage>/<key>/` holds the files, `manifest.json` (written last) and `run.json`: times, host, versions of libraries
and keys of the inputs, in no digest.
A build happens under a kernel lock in a temporary folder on the same filesystem, is synced and then renamed.
Machines that share no disk share a `Remote`: there the folder is the cache, and the lock has a lease beside it.
"""

from ddlm.artifacts.collecting import collect_shared
from ddlm.artifacts.lease import Leases
from ddlm.artifacts.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    RUN_RECORD,
    DamageError,
    check,
    digest_of,
    read_manifest,
    seal,
    sha256_file,
    size_bytes,
    sync,
    write_atomically,
)
from ddlm.artifacts.remote import Remote, StoreUnavailable
from ddlm.artifacts.store import ArtifactStore, open_store, parents_of
from ddlm.artifacts.workspace import Artifact, RunLog, Unlogged, Workspace

__all__ = [
    "FORMAT_VERSION", "MANIFEST", "RUN_RECORD", "Artifact", "ArtifactStore", "DamageError", "Leases", "Remote",
    "RunLog", "StoreUnavailable", "Unlogged", "Workspace", "check", "collect_shared", "digest_of", "open_store",
    "parents_of", "read_manifest", "seal", "sha256_file", "size_bytes", "sync", "write_atomically",
]  # fmt: skip
