"""How good a model is, in numbers that say what they are."""

from pydantic import Field

from ddlm.config import EXECUTION_ONLY, Section


class EvaluationConfig(Section):
    """`[evaluation]`."""

    stories: int = Field(default=256, ge=1)
    """Validation stories that the bound is measured on: the first ones, with all their rows."""
    masks_per_row: int = Field(default=16, ge=2, multiple_of=2)
    """Random masks a row, stratified over the number of masked tokens: half in each of two independent replicates."""
    num_samples: int = Field(default=20, ge=2)
    num_continuations: int = Field(default=20, ge=1)
    prompt_words: int = Field(default=20, ge=1)
    """A continuation's prompt: so many first words of a validation story; the rest is its reference."""
    corpus_stories: int = Field(default=20_000, ge=1)
    """Training stories that samples are searched in for copied runs and known words: the first ones."""
    batch_size: int = Field(default=32, ge=1, json_schema_extra=EXECUTION_ONLY)


BUDGETS = {
    "quick": EvaluationConfig(stories=64, masks_per_row=8, num_samples=8, num_continuations=8),
    "standard": EvaluationConfig(),
    "full": EvaluationConfig(stories=2**31, masks_per_row=64, num_samples=200, num_continuations=200),
}
"""What `ddlm evaluate --budget` may spend; 2^31 stories are all there are."""
