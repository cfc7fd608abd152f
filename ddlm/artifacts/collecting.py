"""What a store can do without: what nobody here uses and is too old, or too much."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ddlm.artifacts.remote import Remote


class Entry(NamedTuple):
    """An artifact in a store."""

    stage: str
    key: str
    size_bytes: int
    age_days: float
    is_used: bool


def surplus(
    entries: Iterable[Entry], *, keep_days: float | None = None, max_bytes: int | None = None
) -> Iterator[Entry]:
    """Unused entries older than `keep_days` and, oldest first, those beyond `max_bytes`; all of them with neither."""
    ordered = sorted(entries, key=lambda entry: entry.age_days, reverse=True)
    total = sum(entry.size_bytes for entry in ordered)
    for entry in ordered:
        is_old = keep_days is not None and entry.age_days > keep_days
        is_too_much = max_bytes is not None and total > max_bytes
        if not entry.is_used and (is_old or is_too_much or keep_days is max_bytes is None):
            total -= entry.size_bytes
            yield entry


def collect_shared(
    remote: Remote, used: set[tuple[str, str]], *, keep_days: float | None, max_bytes: int | None
) -> list[str]:
    """Remove surplus artifacts from a store that machines share, and abandoned checkpoints. Returns their places.

    used: by stage and key. Which ones other machines use nobody can know: such a machine has a copy, or builds anew.
    """
    entries = [
        Entry(stage, key, size, remote.age_days(f"{stage}/{key}"), (stage, key) in used)
        for (stage, key), size in remote.artifacts().items()
    ]
    places = [f"{entry.stage}/{entry.key}" for entry in surplus(entries, keep_days=keep_days, max_bytes=max_bytes)]
    if keep_days is not None:
        places += [place for place in remote.abandoned() if remote.age_days(place) > keep_days]
    for place in places:
        remote.remove_all(place)
    return places
