"""Every key of [sampling] is on the page and says what it does."""

from typing import get_args

import pytest

from ddlm.diffusion import SAMPLING_PARAMETERS, SamplingConfig
from ddlm.diffusion.unmasking import POLICIES
from ddlm.generation.words import CHOICES, HELP, LABELS, USUAL
from ddlm.ui.controls import FIRST, SLIDERS, settings, titled


def test_every_key_has_a_control():
    assert set(LABELS) == set(SamplingConfig.model_fields)
    assert [each.name for each in settings()] == list(LABELS)
    assert set(FIRST) | set(SLIDERS) <= set(LABELS)


def test_every_setting_has_a_sentence_and_every_choice_one_of_its_own():
    assert set(HELP) | set(CHOICES) == set(LABELS)
    assert not set(HELP) & set(CHOICES)
    sentences = [*HELP.values(), *(sentence for choices in CHOICES.values() for sentence in choices.values())]
    assert len(set(sentences)) == len(sentences)
    for sentence in sentences:
        assert sentence.endswith("."), sentence
        assert not set(sentence) & set("`_"), sentence  # names of the config are no words of the page


@pytest.mark.parametrize("name", CHOICES)
def test_the_choices_are_those_of_the_config(name):
    assert set(CHOICES[name]) == set(get_args(SamplingConfig.model_fields[name].annotation))


def test_every_order_is_offered_and_the_usual_ones_come_first_without_a_mark():
    assert set(CHOICES["unmasking"]) == set(POLICIES)
    assert SamplingConfig().unmasking in USUAL
    titles = dict(titled(settings()[0]))
    assert list(titles.values())[: len(USUAL)] == list(USUAL)
    assert [name for title, name in titles.items() if title.endswith("· experimental")] == list(titles.values())[
        len(USUAL) :
    ]


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
