"""Which device and which precision."""

import torch

from ddlm.config import UserError


def pick_device(wanted: str) -> torch.device:
    """Raises: UserError when CUDA is asked for and there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda: torch sees no CUDA device here; set training.device to cpu or auto")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def pick_inference_device(wanted: str) -> torch.device:
    """Where text is written and judged: `auto` takes an Apple GPU too, on which training is not tried.

    Raises: UserError as above.
    """
    device = pick_device(wanted)
    takes_mps = wanted == "auto" and device.type == "cpu" and torch.backends.mps.is_available()
    return torch.device("mps") if takes_mps else device


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """`auto` takes bfloat16 where the hardware multiplies it; elsewhere it is emulated and slower than float32."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
