"""What MLflow runs to serve a registered model: prompts in, texts out. Copied into every version; never imported."""

from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext


class StoryTeller(PythonModel):  # type: ignore[misc]
    """Continues prompts. The same prompts and params give the same texts; length 0 is as long as the model likes."""

    def load_context(self, context: PythonModelContext) -> None:
        from ddlm.generation import DiffusionPipeline

        self.pipeline = DiffusionPipeline.from_pretrained(context.artifacts["model"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[str]:
        """model_input: one column of prompts, which MLflow makes of a string or a list, too."""
        del context
        return self._write(model_input.iloc[:, 0].tolist(), **params or {})

    def _write(self, prompts: list[str], steps: int = 64, seed: int = 0, length: int = 0, **asked: Any) -> list[str]:
        from ddlm.diffusion import SamplingConfig

        sampling = SamplingConfig(num_sampling_steps=steps, **asked)
        made = self.pipeline.generate_batch(prompts, sampling=sampling, seed=seed, length=length or None)
        return [sample.text for sample in made.samples]


mlflow.models.set_model(StoryTeller())
