"""What MLflow runs to serve a registered model: prompts in, texts out. Copied into every version; never imported."""

import warnings
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext

# With the type hints that MLflow asks for it would take no plain string.
warnings.filterwarnings("ignore", message=".*Add type hints to the `predict` method")


class StoryTeller(PythonModel):  # type: ignore[misc]
    """Continues prompts. The same prompts and params give the same texts; length 0 is as long as the model likes."""

    def load_context(self, context: PythonModelContext) -> None:
        from ddlm.generation import DiffusionPipeline

        self.pipeline = DiffusionPipeline.from_pretrained(context.artifacts["model"])

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """A list of texts. model_input: one column of prompts, which MLflow makes of a string or a list, too."""
        del context
        return self._write(model_input.iloc[:, 0].tolist(), **params or {})

    def _write(self, prompts: list[str], steps: int = 64, seed: int = 0, length: int = 0, **asked: Any) -> list[str]:
        from ddlm.diffusion import SamplingConfig

        sampling = SamplingConfig(num_sampling_steps=steps, **asked)
        made = self.pipeline.generate_batch(prompts, sampling=sampling, seed=seed, length=length or None)
        return [sample.text for sample in made.samples]


mlflow.models.set_model(StoryTeller())
