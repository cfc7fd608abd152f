"""Values that a device takes from the host while nobody waits for it."""

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """A CPU tensor, on the device.

    A GPU takes it from pinned memory when its queue has come so far; for a plain copy the host would wait until the
    queue is empty.
    """
    if torch.device(device).type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
