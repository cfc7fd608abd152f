"""What data a run read, as its tracked run is told."""

from collections.abc import Mapping

from ddlm.artifacts import Artifact
from ddlm.experiment import Experiment
from ddlm.tracking.backends import Dataset

ROLES = {"train": "training", "validation": "validation"}


def datasets(experiment: Experiment, done: Mapping[str, Artifact]) -> list[Dataset]:
    """The corpus, once for each split, with its digest and what the shards count of it."""
    if "shards" not in done:
        return []
    from ddlm.data.shards import read_manifest  # numpy and pyarrow, which no cached run needs

    splits = read_manifest(done["shards"].path)["splits"]
    source, digest = experiment.corpus.source or "bundled", done["corpus"].digest
    return [
        Dataset(experiment.name, f"{digest[:16]}-{split}", role, str(source), counts_of(splits[split]))
        for split, role in ROLES.items()
        if split in splits
    ]


def counts_of(split: Mapping[str, object]) -> dict[str, float]:
    return {name: float(value) for name, value in split.items() if isinstance(value, int)}
