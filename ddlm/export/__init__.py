"""From a trained model to a bundle that runs on a Jetson."""

from pydantic import Field

from ddlm.config import Section

MAX_OPSET = 20
"""TensorRT 10.3 (JetPack 6.2) takes graphs up to this opset."""


class ExportConfig(Section):
    """`[export]`."""

    opset: int = Field(default=18, ge=18, le=MAX_OPSET)
    check_batches: int = Field(default=4, ge=1)
    """Masked validation batches on which onnxruntime is compared with torch."""
    max_logit_difference: float = Field(default=1e-3, gt=0)
    """The export fails when onnxruntime's float32 logits differ by more than this."""
