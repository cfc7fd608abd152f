"""From a trained model to a bundle that runs on a Jetson."""

import os
from typing import Annotated, Literal

from pydantic import Field

from ddlm.config import Section, UserError
from ddlm.diffusion import SamplingConfig

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""onnxruntime 1.31 and later report to their maker, unless this is set before they are imported anywhere below here."""

MAX_OPSET = 20
"""TensorRT 10.3 (JetPack 6.2) takes graphs up to this opset."""


class ExportConfig(Section):
    """`[export]`."""

    opset: int = Field(default=18, ge=18, le=MAX_OPSET)
    precisions: tuple[Literal["float32", "float16"], ...] = ("float32", "float16")
    """Of the step graphs, which hold a whole step of denoising and are for the GPU; without any, none is made. The
    network for the processor is always there, in float32."""
    lengths: tuple[Annotated[int, Field(ge=2)], ...] = ()
    """Canvases, shorter than the model's own, that get step graphs too: faster, for shorter texts."""
    candidates: int = Field(default=256, ge=2, le=256)
    """The likeliest tokens that a step graph draws from: the bundle's `top_k` is no larger. Fewer are sorted faster."""
    most_opened: int = Field(default=64, ge=1, le=3840)
    """Positions that a step of a step graph opens at most; TensorRT sorts no more than 3840."""
    check_batches: int = Field(default=4, ge=1, le=2**20)
    """Masked validation batches on which onnxruntime is compared with torch."""
    max_logit_difference: float = Field(default=1e-3, gt=0)
    """The export fails when onnxruntime's float32 logits differ by more than this."""
    min_top1_agreement: float = Field(default=0.99, gt=0, le=1)
    """Or when fewer of float16's best tokens are float32's,"""
    max_kl_nats: float = Field(default=1e-3, gt=0)
    """or its distributions differ by more than this."""
    quantised: tuple[Literal["int8_dynamic", "int8_static", "int4"], ...] = ("int8_dynamic", "int8_static")
    """Networks with integer weights: dynamic for the processor, static for TensorRT; int4 is measured and not shipped.
    They are made where there is real text to measure them on."""
    max_bits_per_byte_loss: float = Field(default=0.01, gt=0)
    """A quantised network that may lose more against float32 is left out of the bundle: by the upper end of the 95 %
    interval."""
    quality_rows: int = Field(default=32, ge=2, le=2**20)
    """Validation rows on which all of that is measured,"""
    quality_masks: int = Field(default=4, ge=2, le=2**16, multiple_of=2)
    """each under so many masks;"""
    quality_texts: int = Field(default=4, ge=0, le=2**20)
    """and so many texts that each network writes."""


def require(sampling: SamplingConfig, export: ExportConfig) -> None:
    """Raises: UserError for settings under which the library does not look at the whole canvas at each step."""
    del export
    if sampling.cache == "approximate":
        raise UserError(
            'export: sampling.cache is "approximate", but a bundle runs the whole network at each step and would write '
            'other texts; wanted "exact" or "off"; change sampling.cache'
        )
