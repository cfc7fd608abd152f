"""Which device is taken."""

import time

import pytest
import torch

from ddlm.config import UserError
from ddlm.model import device as devices
from ddlm.model.device import pick_device, pick_inference_device, pick_precision, product_seconds


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


@pytest.mark.parametrize(
    ("has_products", "seconds", "wanted"), [(True, 0.3, "bfloat16"), (True, 1.7, "float32"), (False, 0.3, "float32")]
)
def test_auto_takes_bfloat16_on_a_cpu_that_multiplies_it_and_faster(
    has_products: bool, seconds: float, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_products)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(devices, "product_seconds", {torch.bfloat16: seconds, torch.float32: 1.0}.__getitem__)
    assert pick_precision("auto", torch.device("cpu")) == wanted
    for given in ("bfloat16", "float32"):
        assert pick_precision(given, torch.device("cpu")) == given


def test_timing_a_product_draws_no_random_number() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert product_seconds.__wrapped__(torch.bfloat16) > 0
    assert torch.equal(torch.rand(3), expected)


def test_time_that_others_take_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "mm", lambda *_: time.sleep(0.02))
    assert product_seconds.__wrapped__(torch.float32) < 0.01


@pytest.mark.usefixtures("can_compile")
def test_torch_in_a_folder_with_a_space_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not devices.lacks_compiler()
    monkeypatch.setattr(torch, "__file__", "/home/me/my projects/torch/__init__.py")
    assert "has a space" in devices.lacks_compiler()
