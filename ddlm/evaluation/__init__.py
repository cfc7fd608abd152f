"""How good a model is, in numbers that say what they are."""

from typing import Literal

from pydantic import Field, model_validator

from ddlm.config import EXECUTION_ONLY, LocalPath, Section


class EvaluationConfig(Section):
    """`[evaluation]`."""

    stories: int = Field(default=256, ge=1)
    """Validation stories that the bound is measured on: the first ones, with all their rows."""
    masks_per_row: int = Field(default=16, ge=2, le=2**16, multiple_of=2)
    """Random masks a row, stratified over the number of masked tokens: half in each of two independent replicates."""
    chain_rule_stories: int = Field(default=16, ge=0)
    """Stories whose exact likelihood is taken along each order: the first ones. A row costs a run of the network for
    each of its positions."""
    chain_rule_orders: tuple[Literal["left_to_right", "confidence", "margin", "entropy"], ...] = (
        "left_to_right",
        "confidence",
        "margin",
    )
    num_samples: int = Field(default=20, ge=2, le=2**20)
    num_continuations: int = Field(default=20, ge=1, le=2**20)
    prompt_words: int = Field(default=20, ge=1)
    """A continuation's prompt: so many first words of a validation story; the rest is its reference."""
    num_infills: int = Field(default=16, ge=0, le=2**20)
    """Stories whose middle sentence is taken out and written anew."""
    corpus_stories: int = Field(default=20_000, ge=1)
    """Training stories that samples are searched in for copied runs and known words: the first ones."""
    judge: LocalPath | None = None
    """A causal language model of transformers, a folder or a hub id, that judges samples beside real stories."""
    twin: LocalPath | None = None
    """A MODEL, the autoregressive one that is scored on the same stories."""
    pairs: LocalPath | None = None
    """Minimal pairs in BLiMP's format: a jsonl file or a folder of them."""
    frontier: Literal["quick", "standard", "full"] | None = None
    """How many ways of writing the judge compares; none when absent."""
    batch_size: int = Field(default=32, ge=1, le=2**20, json_schema_extra=EXECUTION_ONLY)

    @model_validator(mode="after")
    def _a_frontier_needs_a_judge(self) -> "EvaluationConfig":
        if self.frontier and not self.judge:
            raise ValueError(f"frontier {self.frontier!r} needs a judge, got none; set evaluation.judge")
        return self


BUDGETS = {
    "quick": EvaluationConfig(
        stories=64, masks_per_row=8, chain_rule_stories=4, num_samples=8, num_continuations=8, num_infills=8
    ),
    "standard": EvaluationConfig(),
    "full": EvaluationConfig(
        stories=2**31, masks_per_row=64, chain_rule_stories=500, num_samples=200, num_continuations=200, num_infills=200
    ),
}
"""What `ddlm evaluate --budget` may spend; 2^31 stories are all there are."""
