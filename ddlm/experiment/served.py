"""What MLflow runs to serve a registered model: prompts in, texts out. Copied into every version; never imported."""

from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext


class StoryTeller(PythonModel):  # type: ignore[misc]
    """Continues prompts with the default sampling settings and seed 0: the same prompts give the same texts."""

    def load_context(self, context: PythonModelContext) -> None:
        from ddlm.generation import DiffusionPipeline

        self.pipeline = DiffusionPipeline.from_pretrained(context.artifacts["model"])

    def predict(
        self, context: PythonModelContext, model_input: list[str], params: dict[str, Any] | None = None
    ) -> list[str]:
        del context, params
        return [sample.text for sample in self.pipeline.generate_batch(model_input).samples]


mlflow.models.set_model(StoryTeller())
