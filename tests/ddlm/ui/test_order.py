"""What comes from the page is checked before anything else happens to it."""

import pytest

from ddlm.config import UserError
from ddlm.diffusion import SamplingConfig
from ddlm.ui import Limits
from ddlm.ui.order import SETTINGS, read_order

LIMITS = Limits(tokens=100, samples=2, steps=50, characters=30)


def read(**values):
    return read_order({"num_sampling_steps": 8, **values}, LIMITS)


def test_empty_controls_leave_the_defaults():
    order = read_order({**dict.fromkeys(SETTINGS, ""), "text": None, "length": "", "seed": 0, "samples": 1}, Limits())
    assert order.ways == (SamplingConfig(),)
    assert (order.text, order.length, order.num_samples) == ("", None, 1)


def test_numbers_may_come_as_text():
    order = read(top_k="40", final_temperature=" 0.5 ", length="12", seed=7)
    assert order.ways[0].top_k == 40
    assert order.ways[0].final_temperature == 0.5
    assert (order.length, order.seed) == (12, 7)


def test_a_text_that_looks_like_a_number_stays_a_text():
    assert read(text="1984").text == "1984"


@pytest.mark.parametrize(
    ("text", "has_gaps"), [("a ___ b", True), ("a ____[5] b", True), ("snake_case __init__", False)]
)
def test_a_text_with_a_gap_is_to_be_filled(text, has_gaps):
    assert read(text=text).has_gaps == has_gaps


def test_a_hidden_control_of_another_order_means_nothing():
    assert read(unmasking="margin", threshold=0.8, remask_share=0.3).ways == (
        SamplingConfig(unmasking="margin", num_sampling_steps=8),
    )
    assert read(unmasking="threshold", threshold=0.8, remask_share=0.3).ways[0].threshold == 0.8


def test_a_rival_differs_in_the_order_alone():
    first, second = read(unmasking="threshold", threshold=0.8, rival="random", temperature=0.5).ways
    assert (first.unmasking, first.threshold) == ("threshold", 0.8)
    assert second == first.model_copy(update={"unmasking": "random", "threshold": None})


def test_an_order_is_no_rival_of_itself():
    assert len(read(unmasking="random", rival="random").ways) == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"text": "x" * 31}, "text: got 31 characters; this page takes at most 30"),
        ({"length": 101}, "length: got 101 tokens; this page takes at most 100"),
        ({"samples": 3}, "samples: got 3 texts at once; this page takes at most 2"),
        ({"num_sampling_steps": 51}, "steps: got 51 steps; this page takes at most 50"),
        ({"samples": 0}, "samples: Input should be greater than or equal to 1"),
        ({"length": "soon"}, "length: Input should be a valid integer"),
        ({"top_k": "2.5"}, "sampling.top_k: Input should be a valid integer"),
        ({"temperature": -1}, "sampling.temperature: Input should be greater than or equal to 0"),
        ({"temperature": "nan"}, "sampling.temperature"),
        ({"unmasking": "best"}, "sampling.unmasking: Input should be 'random'"),
        ({"rival": "best"}, "unmasking: Input should be 'random'"),
        ({"temperature": 0, "final_temperature": "1"}, "final_temperature has no effect"),
        ({"seed": 2**60}, "seed: Input should be less than"),
        ({"text": ["a", "list"]}, "text: Input should be a valid string"),
        ({"file": "/etc/passwd"}, "unknown key file"),
        ({"text": "a ___ b", "length": 5}, "a text with gaps has its own"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(values, said):
    with pytest.raises(UserError) as refused:
        read(**values)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
