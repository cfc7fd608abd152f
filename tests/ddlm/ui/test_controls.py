"""Every key of [sampling] is on the page and says what it does."""

import pytest

from ddlm.diffusion import SAMPLING_PARAMETERS, SamplingConfig
from ddlm.diffusion.unmasking import POLICIES
from ddlm.ui.controls import FIRST, LABELS, SLIDERS, order_help, sentences, settings


def test_every_key_has_a_control():
    assert set(LABELS) == set(SamplingConfig.model_fields)
    assert [each.name for each in settings()] == list(LABELS)
    assert set(FIRST) | set(SLIDERS) <= set(LABELS)


def test_every_control_has_a_sentence_from_the_config_itself():
    for each in settings():
        assert len(each.help.split()) >= 5, each.name
        assert each.help.endswith("."), each.name
        assert "\n" not in each.help
    assert sentences(SamplingConfig)["temperature"] == "0 takes the most likely token."


@pytest.mark.parametrize("unmasking", POLICIES)
def test_every_order_says_what_it_does_without_its_source(unmasking):
    told = order_help(unmasking)
    assert len(told.split()) >= 4
    assert told.endswith(".")
    assert "Source" not in told


def test_the_kind_of_a_control_is_read_from_the_type():
    kinds = {each.name: (bool(each.choices), each.is_whole, each.may_be_empty) for each in settings()}
    assert kinds["ends"] == (True, False, False)
    assert kinds["num_sampling_steps"] == (False, True, False)
    assert kinds["top_k"] == (False, True, True)
    assert kinds["remask_share"] == (False, False, True)


def test_a_control_suits_the_orders_that_its_key_belongs_to():
    for each in settings():
        owners = SAMPLING_PARAMETERS.get(each.name, tuple(POLICIES))
        assert {name for name in POLICIES if each.suits(name)} == set(owners)
