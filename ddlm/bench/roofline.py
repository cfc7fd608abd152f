"""What a Jetson Orin Nano could do, worked out on paper: an ESTIMATE, and nothing here was measured on one.

A step runs the network once over a canvas and chooses tokens on the device. It can be no faster than its arithmetic
at the rate of the tensor cores, and no faster than its bytes at the rate of the memory; kernels have to be launched on
top. Rates are those of data sheets times shares that real programs reach, which are guesses with a range.
"""

from dataclasses import asdict, dataclass
from typing import Any

from ddlm.model import PRESETS, ModelConfig
from ddlm.model.transformer import count_parameters, train_flops_per_token

ESTIMATE = "ESTIMATE, not measured: no Jetson was at hand"
FLOPS_PER_CLOCK = 16384
"""Of the Orin Nano in float16, dense: 32 tensor cores, each 256 multiply-adds a clock. In int8 twice as many."""
VOCAB_SIZE = 8192
SEED_S3_SECONDS = {"tiny": 0.2, "small": 0.4, "medium": 0.6, "large": 0.8, "xlarge": 1.2, "xxlarge": 2.0}
"""What seed S3 claims for its sizes in float16 with 15 steps. Its sizes are not quite ours."""


@dataclass(frozen=True)
class Mode:
    """A power mode. Clock and memory rate are the most that it allows."""

    gpu_mhz: float
    memory_gb_per_s: float

    @property
    def flops_per_s(self) -> float:
        return FLOPS_PER_CLOCK * self.gpu_mhz * 1e6


MODES = {
    "15 W": Mode(gpu_mhz=625, memory_gb_per_s=68),
    "25 W": Mode(gpu_mhz=820, memory_gb_per_s=102),
    "Super": Mode(gpu_mhz=1020, memory_gb_per_s=102),
}
"""15 W and Super (MAXN_SUPER) from the data sheets; the clock of 25 W is what third parties report."""


@dataclass(frozen=True)
class Assumptions:
    """The guesses. Pairs are (kind, harsh).

    tensor_share: of the dense float16 rate that matrix products reach. int8_share: of the dense int8 rate.
    memory_share: of the data sheet's memory rate. kernels_per_layer, launch_us: in a captured graph. host_ms: what the
    processor spends on a step while the device waits.
    """

    tensor_share: tuple[float, float] = (0.45, 0.25)
    int8_share: tuple[float, float] = (0.35, 0.20)
    memory_share: float = 0.65
    kernels_per_layer: int = 12
    kernels_outside_layers: int = 20
    launch_us: float = 2.5
    host_ms: float = 0.1


@dataclass(frozen=True)
class Work:
    """What one step of one canvas takes. linear: products by the blocks' weights; other: head and attention, which are
    float16 in every variant."""

    linear_flops: float
    other_flops: float
    weight_bytes: float
    activation_bytes: float


def work_of(config: ModelConfig, *, vocab_size: int, seq_len: int, precision: str) -> Work:
    """One forward pass with the head at every position, which is a third of a training step's arithmetic.

    Weights are read once; of the embedding only the rows that are looked up. Attention never writes its scores.
    precision: float16, or int8, in which the linear layers inside the blocks are int8 and embedding and head float16.
    """
    whole, headless = (
        seq_len * train_flops_per_token(config, vocab_size=vocab_size, seq_len=seq_len, masked_share=share) / 3
        for share in (1.0, 0.0)
    )
    attention = 2.0 * config.num_layers * 2 * seq_len**2 * config.d_model
    tables = (1 if config.tied_head else 2) * vocab_size * config.d_model
    in_blocks = count_parameters(config, vocab_size=vocab_size) - tables
    head, rows = vocab_size * config.d_model, seq_len * config.d_model
    width = {"float16": 2, "int8": 1}[precision]
    return Work(
        headless - attention, whole - headless + attention, width * in_blocks + 2 * (head + rows),
        2 * seq_len * _activations_per_token(config) + 4 * seq_len * vocab_size,
    )  # fmt: skip


def _activations_per_token(config: ModelConfig) -> int:
    """Values of a token that kernels read or write: norms, products, attention and sums, each fused with its neighbours
    as far as TensorRT does."""
    feed_forward = 6 if config.activation == "swiglu" else 4
    return config.num_layers * (18 * config.d_model + feed_forward * config.hidden_dim)


def step_ms(work: Work, mode: Mode, layers: int, precision: str, harsh: bool, guess: Assumptions) -> dict[str, Any]:
    """Both limits and the whole of one step, in milliseconds."""
    tensor, int8 = guess.tensor_share[harsh], guess.int8_share[harsh]
    linear_rate = mode.flops_per_s * (2 * int8 if precision == "int8" else tensor)
    compute = 1000 * (work.linear_flops / linear_rate + work.other_flops / (mode.flops_per_s * tensor))
    memory = (work.weight_bytes + work.activation_bytes) / (mode.memory_gb_per_s * guess.memory_share * 1e6)
    kernels = layers * guess.kernels_per_layer + guess.kernels_outside_layers
    overhead = kernels * guess.launch_us / 1000 + guess.host_ms
    return {
        "compute_ms": compute, "memory_ms": memory, "overhead_ms": overhead,
        "limit": "compute" if compute >= memory else "memory", "step_ms": max(compute, memory) + overhead,
    }  # fmt: skip


def estimate(
    configs: dict[str, ModelConfig],
    *,
    vocab_size: int = VOCAB_SIZE,
    seq_len: int = 256,
    steps: tuple[int, ...] = (15, 64),
    guess: Assumptions = Assumptions(),
) -> dict[str, Any]:
    """For each model, mode and precision: both limits, and seconds a text from the kind guess to the harsh one."""
    rows = []
    for name, config in configs.items():
        for precision in ("float16", "int8"):
            work = work_of(config, vocab_size=vocab_size, seq_len=seq_len, precision=precision)
            for label, mode in MODES.items():
                kind, harsh = (
                    step_ms(work, mode, config.num_layers, precision, harsh, guess) for harsh in (False, True)
                )
                rows.append(
                    {
                        "model": name,
                        "parameters": count_parameters(config, vocab_size=vocab_size),
                        "mode": label,
                        "precision": precision,
                        "gflop_per_step": (work.linear_flops + work.other_flops) / 1e9,
                        "mb_per_step": (work.weight_bytes + work.activation_bytes) / 1e6,
                        **{key: [kind[key], harsh[key]] for key in ("compute_ms", "memory_ms", "step_ms")},
                        "limit": kind["limit"] if kind["limit"] == harsh["limit"] else "either",
                        "overhead_ms": kind["overhead_ms"],
                        "seconds_per_text": {
                            str(n): [n * side["step_ms"] / 1000 for side in (kind, harsh)] for n in steps
                        },
                        "seed_s3_claims_s": SEED_S3_SECONDS.get(name),
                    }
                )
    return {
        "kind": ESTIMATE, "vocab_size": vocab_size, "seq_len": seq_len, "assumptions": asdict(guess),
        "modes": {label: asdict(mode) for label, mode in MODES.items()}, "rows": rows,
    }  # fmt: skip


def of_presets(seq_len: int = 256) -> dict[str, Any]:
    return estimate({name: ModelConfig.model_validate({"preset": name}) for name in PRESETS}, seq_len=seq_len)


def table(found: dict[str, Any]) -> str:
    """In Markdown, with everything that it assumes."""
    counts = list(found["rows"][0]["seconds_per_text"])
    head = ["model", "weights", "GFLOP", "MB", "mode", "precision", "compute ms", "memory ms", "step ms", "limit"]
    head += [f"{count} steps, s" for count in counts] + ["seed S3 claims, s (15 steps)"]
    lines = [head, ["---"] * len(head), *(_line(row, counts) for row in found["rows"])]
    shown = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    said = "\n".join(f"- {name}: {value}" for name, value in found["assumptions"].items())
    modes = "\n".join(
        f"- {name}: GPU {of['gpu_mhz']:g} MHz, {of['memory_gb_per_s']:g} GB/s" for name, of in found["modes"].items()
    )
    canvas = f"One canvas of {found['seq_len']} tokens, vocabulary {found['vocab_size']}"
    said = "\n".join([said, modes])
    heading = f"{found['kind']}\n\n{canvas}; ranges from the kind guess to the harsh."
    return f"{heading}\n\n{shown}\n\nAssumed of every step (pairs: kind, harsh):\n\n{said}"


def _line(row: dict[str, Any], counts: list[str]) -> list[str]:
    def between(pair: list[float]) -> str:
        return " … ".join(dict.fromkeys(f"{value:.2g}" for value in pair))

    claim = row["seed_s3_claims_s"]
    return [
        row["model"], f"{row['parameters'] / 1e6:.1f} M", f"{row['gflop_per_step']:.1f}", f"{row['mb_per_step']:.0f}",
        row["mode"], row["precision"], between(row["compute_ms"]), between(row["memory_ms"]),
        between(row["step_ms"]), row["limit"], *(between(row["seconds_per_text"][count]) for count in counts),
        "" if claim is None else f"{claim:g}",
    ]  # fmt: skip
