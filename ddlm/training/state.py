"""A run between two steps: all that a resume needs, in one place."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer

from ddlm.model.transformer import Denoiser
from ddlm.training import TrainingConfig, checkpoint
from ddlm.training.distributed import Ranks, like, sharded, whole
from ddlm.training.ema import MovingAverage
from ddlm.training.meter import Meter, Metrics
from ddlm.training.optimizer import make_optimizers

BEST_METRIC = "val/bits_per_byte"


@dataclass
class TrainState:
    """`step` counts finished steps, `skipped` those without effect, on the device; `best` is (value, step)."""

    model: Denoiser
    optimizers: list[torch.optim.Optimizer]
    ema: MovingAverage | None
    identity: dict[str, object]
    precision: str
    """Settled: `float32` or `bfloat16`."""
    meter: Meter
    skipped: Tensor
    step: int = 0
    elapsed_s: float = 0.0
    is_past_start: bool = False
    """Whether a causal start is over; once it is, it stays so, also where the run is made longer."""
    validations_without_best: int = 0
    best: tuple[float, int] | None = None
    curve: list[Metrics] = field(default_factory=list)

    def save(self, writer: checkpoint.Writer, ranks: Ranks) -> None:
        """All ranks gather, the first writes."""
        tensors = {"model": whole_values(dict(self.model.named_parameters()))}
        if self.ema:
            tensors["ema"] = whole_values(self.ema.shadow)
        for number, optimizer in enumerate(self.optimizers):
            tensors[f"optimizer{number}"] = optimizer_tensors(optimizer)
        tensors["meter"] = {"sums": ranks.sum(self.meter.sums), "skipped": self.skipped}
        state = {
            "elapsed_s": self.elapsed_s,
            "is_past_start": self.is_past_start,
            "validations_without_best": self.validations_without_best,
            "best": self.best,
            "curve": self.curve,
            "identity": self.identity,
            "precision": self.precision,
        }
        if ranks.is_first:
            writer.save(self.step, tensors, state, self.best[1] if self.best else None)

    def restore(self, path: Path, ranks: Ranks) -> None:
        """On every rank; what the meter had summed goes to the first."""
        tensors, state = checkpoint.load(path)
        for name, parameter in self.model.named_parameters():
            parameter.data.copy_(like(parameter, tensors["model"][name]))
        for number, optimizer in enumerate(self.optimizers):
            restore_optimizer(optimizer, tensors[f"optimizer{number}"])
        if self.ema:
            for name, shadow in self.ema.shadow.items():
                shadow.copy_(like(shadow, tensors["ema"][name]))
        self.meter.sums.copy_(tensors["meter"]["sums"] * ranks.is_first)
        self.skipped.copy_(tensors["meter"]["skipped"])
        self.step, self.elapsed_s, self.curve = state["step"], state["elapsed_s"], state["curve"]
        self.is_past_start = state.get("is_past_start", True)
        self.validations_without_best = state["validations_without_best"]
        self.best = (state["best"][0], state["best"][1]) if state["best"] else None

    def weights(self) -> dict[str, Tensor]:
        """What is validated and shipped: the moving average where there is one. All ranks call this together."""
        return whole_values(self.ema.shadow if self.ema else dict(self.model.named_parameters()))

    def note_validation(self, metrics: Metrics) -> bool:
        """Remember a validation. Returns whether it is the best so far."""
        is_best = self.best is None or metrics[BEST_METRIC] < self.best[0]
        self.validations_without_best = 0 if is_best else self.validations_without_best + 1
        if is_best:
            self.best = (metrics[BEST_METRIC], self.step)
        return is_best


def new_state(model: Denoiser, config: TrainingConfig, identity: dict[str, object], ranks: Ranks) -> TrainState:
    """The model is where it trains: on its device and, with FSDP2, sharded."""
    optimizers = [sharded(optimizer, ranks, config.sharding) for optimizer in make_optimizers(model, config)]
    ema = MovingAverage(model, config.ema_decay) if config.ema_decay else None
    device = next(model.parameters()).device
    skipped = torch.zeros((), device=device)
    return TrainState(model, optimizers, ema, identity, config.precision, Meter.empty(device), skipped)


def whole_values(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole(value) for name, value in values.items()}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as one process would hold it, `<parameter number>.<name>`. All ranks call this together."""
    if isinstance(optimizer, ZeroRedundancyOptimizer):
        optimizer.consolidate_state_dict(to=0)
        if torch.distributed.get_rank() != 0:
            return {}
    state = optimizer.state_dict()["state"]
    named = {f"{number}.{name}": values[name] for number, values in state.items() for name in values}
    return {name: whole(torch.as_tensor(value)) for name, value in named.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The other direction, at whatever world size and sharding."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition(".")
        parameter = parameters[int(number)]
        placed = like(parameter, value) if value.shape == parameter.shape else value
        state.setdefault(int(number), {})[name] = placed
    groups = optimizer.state_dict()["param_groups"] if not isinstance(optimizer, ZeroRedundancyOptimizer) else None
    optimizer.load_state_dict({"state": state, "param_groups": groups})
