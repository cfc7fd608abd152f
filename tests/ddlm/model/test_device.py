"""Which device is taken."""

import pytest
import torch

from ddlm.config import UserError
from ddlm.model.device import pick_device, pick_inference_device


@pytest.mark.parametrize(
    ("has_cuda", "has_mps", "training", "inference"),
    [
        (True, True, "cuda", "cuda"),
        (True, False, "cuda", "cuda"),
        (False, True, "cpu", "mps"),
        (False, False, "cpu", "cpu"),
    ],
)
def test_an_apple_gpu_is_taken_where_there_is_no_cuda_and_never_for_training(
    has_cuda: bool, has_mps: bool, training: str, inference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has_mps)
    assert pick_device("auto").type == training
    assert pick_inference_device("auto").type == inference
    assert pick_inference_device("cpu").type == "cpu"


@pytest.mark.parametrize("pick", [pick_device, pick_inference_device])
def test_cuda_that_is_asked_for_and_not_there_is_refused(pick: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match="torch sees no CUDA device here"):
        pick("cuda")  # type: ignore[operator]
