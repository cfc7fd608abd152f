"""`[model]`: what presets fill in and what is refused."""

from typing import Any

import pytest

from ddlm.config import UserError, parse
from ddlm.model import PRESETS, ModelConfig
from ddlm.model.transformer import count_parameters

SEED_PARAMETERS = {
    "tiny": 7_559_168,
    "small": 17_341_184,
    "medium": 34_273_280,
    "large": 60_714_752,
    "xlarge": 99_024_896,
    "xxlarge": 220_688_384,
}
"""Of the sizes of the same names in an earlier network, at vocabulary 8192 and length 256."""


def read(**given: Any) -> ModelConfig:
    return parse(ModelConfig, given, source="test.toml")


@pytest.mark.parametrize("activation", ["swiglu", "relu2"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_about_the_parameters_that_its_name_is_known_for(preset: str, activation: str) -> None:
    config = read(preset=preset, activation=activation)
    assert count_parameters(config, vocab_size=8192) == pytest.approx(SEED_PARAMETERS[preset], rel=0.035)
    assert config.head_dim == 64


def test_a_key_that_is_given_beside_a_preset_wins() -> None:
    config = read(preset="small", num_layers=3)
    assert (config.d_model, config.num_layers, config.num_heads) == (384, 3, 6)


def test_a_resolved_config_shows_dimensions_and_reads_back_as_the_same() -> None:
    config = read(preset="small", dropout=0.1)
    resolved = config.model_dump(mode="json")
    assert "preset" not in resolved
    assert resolved["d_model"] == 384
    assert read(**resolved) == config
    assert "preset" not in config.keyed()


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"preset": "tiny", "d_model": 64, "num_layers": 1, "num_heads": 2},
            "model.preset 'tiny' has no effect beside d_model, num_layers, num_heads; drop one of them",
        ),
        ({"preset": "huge"}, "preset: Input should be 'tiny', 'small'.*got 'huge'"),
        ({"preset": ["tiny"]}, "preset: Input should be 'tiny', 'small'"),
        (
            {"preset": "tiny", "num_heads": 3},
            "d_model 256 is not an even multiple of num_heads 3; take a multiple of 6",
        ),
        ({"attention": "block_causal"}, '"block_causal" needs block_size, got none; give one'),
        ({"block_size": 4}, 'block_size 4 has no effect with attention "bidirectional"; drop it or set'),
        ({"attention": "causal", "block_size": 4}, 'block_size 4 has no effect with attention "causal"'),
        (
            {"attention": "causal", "time_conditioning": True},
            "counts the masks of the whole row.*set time_conditioning",
        ),
        ({"logit_soft_cap": 0}, "logit_soft_cap: .*greater than 0"),
    ],
)
def test_a_config_that_can_not_be_is_refused_in_one_line(given: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError, match=line) as refusal:
        read(**given)
    assert "\n" not in str(refusal.value)
