import gc
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ddlm.experiment import fingerprint as subject
from ddlm.experiment.stages import STAGES

MODULES = [STAGES[name].build.partition(":")[0] for name in ("evaluate", "render", "export")]


@pytest.fixture
def threads_change_often() -> Iterator[None]:
    """Python code runs inside the parser, as a finalizer does, and gives way to other threads there."""

    def give_way(phase: str, info: dict[str, int]) -> None:
        for _ in range(20):
            pass

    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(400)
    gc.callbacks.append(give_way)
    yield
    gc.callbacks.remove(give_way)
    gc.set_threshold(*threshold)
    sys.setswitchinterval(interval)


def forget() -> None:
    for function in (subject.fingerprint, subject._tree, subject._parse):
        function.cache_clear()


@pytest.mark.usefixtures("threads_change_often")
def test_stages_side_by_side_find_the_fingerprints_that_one_alone_finds() -> None:
    forget()
    alone = list(map(subject.fingerprint, MODULES))
    forget()
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(subject.fingerprint, MODULES)) == alone
