"""The step graph and the loop around it, against the sampler of the processor and the library's own."""

import itertools
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from ddlm.diffusion import SamplingConfig
from ddlm.diffusion.sampler import sample
from ddlm.diffusion.tokens import Draw as LibraryDraw
from ddlm.diffusion.unmasking import POLICIES
from ddlm.export.choice import LANES, Vocabulary
from ddlm.export.onnx import LOGITS, choice_graph
from ddlm.export.runtime import sampler, step, tokens
from ddlm.generation import drafts
from tests.ddlm.export.policies import BLOCKS, SHAPES

END_ID, NEVER, OTHER_STOP, VOCAB_SIZE, MASK_ID, LENGTH = 0, 4, 7, 10, 10, 12
STARTS = np.arange(VOCAB_SIZE) % 2 == 0
LIMITS = step.Limits(LENGTH, candidates=VOCAB_SIZE, most_opened=LENGTH)
ODD_ROWS = 24
TURNS = [
    {"top_p": 1.0, "top_k": VOCAB_SIZE},
    {"top_p": 0.6, "top_k": VOCAB_SIZE, "grid": "cosine"},
    {"top_p": 1.0, "top_k": 3, "final_temperature": 0.3},
    {"top_p": 0.8, "top_k": 4, "grid": "cosine"},
    {"top_p": 0.9, "top_k": 8, "final_temperature": 1.4, "temperature_schedule": "cosine"},
]
RULES = [{}, {"threshold": 0.3}, {"threshold": 0.6, "most_per_step": 2}]
DRAWS = [(0, 0, False), (7, 2, False), (2**40 + 1, 1, True), (-3, 5, False)]
"""Seed, sample number, whether the length is given."""


class Network:
    """From everything on the canvas to one of a few rows of logits for each position, so that scores tie, exactly."""

    def __init__(self):
        generator = np.random.default_rng(5)
        self.rows = generator.normal(0, 2, (ODD_ROWS, VOCAB_SIZE)).astype(np.float32)
        self.rows[::3, 2] = self.rows[::3].max(axis=1)
        self.rows[::4, END_ID] += 2

    def __call__(self, ids):
        generator = np.random.default_rng(int(ids @ np.arange(1, len(ids) + 1)))
        return self.rows[generator.choice(generator.integers(0, ODD_ROWS, 4), len(ids))]


@pytest.fixture(scope="module")
def choice(tmp_path_factory):
    vocabulary = Vocabulary(END_ID, MASK_ID, (NEVER,), (END_ID, OTHER_STOP), tuple(STARTS.tolist()))
    assert VOCAB_SIZE % LANES  # so that rows of logits have to be filled up
    graph = choice_graph(vocabulary, LIMITS, 18)
    return onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


class Stepper:
    """A step of that network. seen: the inputs of each run."""

    def __init__(self, choice):
        self.choice, self.network, self.held, self.seen = choice, Network(), {}, []

    def __call__(self, changed):
        self.seen.append(dict(changed))
        self.held.update(changed)
        logits = self.network(self.held["ids"][0].astype(np.int64))[None]
        self.held["ids"] = self.choice.run([step.OUTPUT], {**self.held, LOGITS: logits})[0]
        return self.held["ids"]


def settings(policy):
    turns = [itertools.cycle(values) for values in (BLOCKS, TURNS, RULES)]
    for (steps, ends, temperature), block_size, extra, rule in zip(SHAPES, *turns, strict=False):
        chosen = {name: value for name, value in extra.items() if temperature or name != "final_temperature"}
        yield SamplingConfig(
            unmasking=policy, num_sampling_steps=steps, ends=ends, block_size=block_size, temperature=temperature,
            **chosen, **(rule if policy == "threshold" else {}),
        )  # fmt: skip


def draw_of(config, seed, number, is_exact, **given):
    forbidden = (NEVER, END_ID, OTHER_STOP) if is_exact else (NEVER,)
    return tokens.Draw(tokens.Sampling(**config.model_dump()), seed, number, END_ID, MASK_ID, forbidden, **given)


def canvas(*fixed):
    return np.array(list(fixed) + [MASK_ID] * (LENGTH - len(fixed)))


@pytest.mark.parametrize("policy", step.POLICIES)
def test_every_state_of_the_canvas_is_the_samplers(choice, policy):
    for number, (config, draw) in enumerate(zip(settings(policy), itertools.cycle(DRAWS), strict=False)):
        start = canvas(3, number % VOCAB_SIZE)
        start[6] = 5  # something in the middle stands already
        gaps = {"starts_word": (2, 7), "word_starts": STARTS} if number % 3 == 0 else {}
        wanted = draw_of(config, *draw, **gaps, first_position=number)
        states = list(step.denoise(Stepper(choice), start, wanted, LIMITS))
        assert np.array_equal(states, list(sampler.denoise(Network(), start.copy(), wanted))), config
        assert MASK_ID not in states[-1]


def test_a_moving_temperature_does_not_count_what_the_end_took(choice):
    config = SamplingConfig(
        unmasking="confidence", num_sampling_steps=12, temperature=1.5, final_temperature=0.1, top_p=1.0, top_k=10
    )
    for seed in range(12):
        wanted = draw_of(config, seed, 0, False)
        states = list(step.denoise(Stepper(choice), canvas(3), wanted, LIMITS))
        assert np.array_equal(states, list(sampler.denoise(Network(), canvas(3), wanted)))


def test_some_of_these_texts_end_and_some_gaps_begin_a_word(choice):
    ends, firsts = set(), set()
    for config in settings("confidence"):
        wanted = draw_of(config, 1, 0, False, starts_word=(2,), word_starts=STARTS)
        *_, last = step.denoise(Stepper(choice), canvas(3, 1), wanted, LIMITS)
        ends.add(int((last == END_ID).sum()))
        firsts.add(int(last[2]))
    assert len(ends) > 3
    assert firsts <= set(np.flatnonzero(STARTS))
    assert NEVER not in firsts


def test_only_what_changed_is_sent_and_as_the_graph_takes_it(choice):
    stepper = Stepper(choice)
    config = SamplingConfig(unmasking="margin", num_sampling_steps=6, block_size=6, top_k=5, ends="free")
    list(step.denoise(stepper, canvas(3), draw_of(config, 0, 0, True), LIMITS))
    first, *later = stepper.seen
    kinds = step.inputs_of(LENGTH)
    assert set(first) == set(kinds)
    for sent in stepper.seen:
        assert {name: (str(value.dtype), value.shape) for name, value in sent.items()}.items() <= kinds.items()
    beyond = [set(sent) - {"uniform", "pace", "settings"} for sent in later]
    assert sorted(beyond, key=len) == [set()] * (len(later) - 1) + [{"places"}]  # once, for the second block


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"unmasking": "entropy"}, "unmasking entropy: the step graph knows confidence, threshold, margin, random"),
        ({}, "top_k none: the step graph knows the 9 likeliest tokens"),
        ({"top_k": 10}, "top_k 10: the step graph knows the 9 likeliest tokens"),
        ({"top_k": 9, "repetition_penalty": 1.2}, "repetition_penalty 1.2: the step graph has none"),
        ({"top_k": 9, "num_sampling_steps": 3}, "4 tokens in one step: the step graph writes 3 at most; take more"),
        ({"top_k": 9, "num_sampling_steps": 4, "grid": "cosine"}, "4 tokens in one step"),
        ({"top_k": 9, "unmasking": "threshold"}, "most_per_step none: the step graph writes 3 at most"),
    ],
)
def test_what_the_graph_can_not_do_is_told_in_a_line(given, told):
    objection = step.objection(sampling(**given), step.Limits(LENGTH, 9, 3))
    assert objection
    assert told in objection
    assert "\n" not in objection


@pytest.mark.parametrize(
    "given",
    [
        {"top_k": 9, "num_sampling_steps": 4},
        {"temperature": 0.0, "num_sampling_steps": 4},
        {"top_k": 1, "unmasking": "threshold", "most_per_step": 3},
        {"top_k": 9, "unmasking": "first_hitting", "num_sampling_steps": 1},
        {"top_k": 9, "num_sampling_steps": 4, "block_size": 6},
    ],
)
def test_what_it_can_do_is_not_objected_to(given):
    assert step.objection(sampling(**given), step.Limits(LENGTH, 9, 3)) is None


def test_open_settings_become_those_of_the_graph_and_given_ones_stay():
    limits = step.Limits(LENGTH, 9, 3)
    assert step.suited(sampling(), limits) == sampling(top_k=9)
    assert step.suited(sampling(top_k=4), limits) == sampling(top_k=4)
    assert step.suited(sampling(top_k=50), limits) == sampling(top_k=50), "it is refused, not bent"
    rule = {"unmasking": "threshold", "top_k": 4}
    assert step.suited(sampling(**rule), limits) == sampling(**rule, most_per_step=3)
    assert step.suited(sampling(**rule, most_per_step=2), limits) == sampling(**rule, most_per_step=2)


def sampling(**given):
    return tokens.Sampling(**SamplingConfig(**given).model_dump())


@pytest.mark.parametrize("policy", sorted(set(step.POLICIES) - {"threshold"}))  # whose rule opens up to most_per_step
@pytest.mark.parametrize("grid", ["linear", "cosine"])
def test_no_step_opens_more_than_it_was_said_to(choice, policy, grid):
    for steps, block_size in itertools.product((1, 2, 3, 5, 12), (None, 4, 5)):
        config = SamplingConfig(
            unmasking=policy, num_sampling_steps=steps, grid=grid, block_size=block_size, ends="free", top_k=3
        )
        given = draw_of(config, 2, 0, True)
        states = [canvas(), *step.denoise(Stepper(choice), canvas(), given, LIMITS)]
        left = [int((state == MASK_ID).sum()) for state in states]
        most = max(before - after for before, after in itertools.pairwise(left))
        assert most <= max(1, step.most_in_a_step(given.sampling, LENGTH))


def test_it_knows_only_policies_of_the_library():
    assert set(step.POLICIES) < set(POLICIES)


# The bundle's own graph


@pytest.fixture(scope="module")
def limits(pipeline):
    return step.Limits(pipeline.seq_len, 256, pipeline.seq_len)


@pytest.fixture(scope="module")
def float32_step(bundle):
    return onnxruntime.InferenceSession(str(bundle / "step_float32.onnx"), providers=["CPUExecutionProvider"])


CASES = [
    ("", {}),
    ("One day", {"temperature": 1.0, "num_sampling_steps": 9}),
    ("She", {"unmasking": "margin", "temperature": 1.2, "top_k": 50, "top_p": 1.0}),
    ("The dog", {"unmasking": "threshold", "threshold": 0.2, "most_per_step": 8, "num_sampling_steps": 6}),
    ("A boy", {"block_size": 8, "num_sampling_steps": 12, "final_temperature": 0.4}),
    ("Once ___[3] there was ___[2] dog.", {"num_sampling_steps": 5}),
    ("Once upon a time", {"temperature": 0.0, "ends": "last", "grid": "cosine", "num_sampling_steps": 10}),
    ("", {"unmasking": "random", "ends": "free", "temperature": 1.0}),
]


def test_a_seed_writes_the_text_that_torch_writes(pipeline, float32_step, limits):
    equal = []
    for seed, (text, given) in enumerate(CASES):
        draft, config = draft_of(pipeline, text), SamplingConfig(**{"unmasking": "confidence", "top_k": 256, **given})
        for number, wanted in enumerate(torch_texts(pipeline, draft, config, seed, 3)):
            written = graph_text(pipeline, float32_step, draft, config, seed, limits, number)
            equal.append(np.array_equal(written, wanted))
    assert sum(equal) >= len(equal) - 1  # a choice may hang on the logits' rounding


def draft_of(pipeline, text):
    if "___" in text:
        return drafts.gapped(pipeline.tokenizer, text, 0, seq_len=pipeline.seq_len)[0]
    return drafts.prompted(pipeline.tokenizer, text, 0, seq_len=pipeline.seq_len, length=None)


def start_of(pipeline, draft):
    filler = pipeline.tokenizer.end_id if draft.is_closed else pipeline.tokenizer.mask_id
    return [*draft.tokens, *[filler] * (pipeline.seq_len - len(draft.tokens))]


def barred(pipeline, draft):
    tokenizer = pipeline.tokenizer
    return tuple(tokenizer.unwritable_ids) + (tuple(tokenizer.stop_ids) if draft.is_closed else ())


def torch_texts(pipeline, draft, config, seed, count):
    tokenizer, start = pipeline.tokenizer, torch.tensor([start_of(pipeline, draft)] * count)
    starts = torch.zeros_like(start, dtype=torch.bool)
    starts[:, list(draft.word_starts)] = True
    draw = LibraryDraw(
        config, seed, torch.arange(count), tokenizer.end_id, barred(pipeline, draft), starts_word=starts,
        word_starts=torch.tensor(tokenizer.word_starts()),
    )  # fmt: skip
    return sample(pipeline.model.at, start, tokenizer.mask_id, draw)[0].numpy()


def graph_text(pipeline, session, draft, config, seed, limits, number=0):
    tokenizer = pipeline.tokenizer
    draw = tokens.Draw(
        tokens.Sampling(**config.model_dump()), seed, number, tokenizer.end_id, tokenizer.mask_id,
        barred(pipeline, draft), starts_word=draft.word_starts, word_starts=np.array(tokenizer.word_starts()),
    )  # fmt: skip
    *_, last = step.denoise(step.on_onnxruntime(session), start_of(pipeline, draft), draw, limits)
    return last


def test_a_run_keeps_what_it_is_not_given(pipeline, float32_step, limits):
    """Two texts by one run, the second after a first that left something in every input."""
    draft, config = (
        draft_of(pipeline, "One day"),
        SamplingConfig(unmasking="confidence", top_k=256, num_sampling_steps=8),
    )
    shared = step.on_onnxruntime(float32_step)
    draws = [
        tokens.Draw(
            tokens.Sampling(**config.model_dump()), seed, 0, pipeline.tokenizer.end_id, pipeline.tokenizer.mask_id
        )
        for seed in (4, 5)
    ]
    texts = [list(step.denoise(shared, start_of(pipeline, draft), draw, limits))[-1] for draw in draws]
    alone = graph_text(pipeline, float32_step, draft, config, 5, limits)
    assert np.array_equal(texts[1], alone)
    assert not np.array_equal(*texts)


def test_the_float16_step_writes_whole_texts_too(bundle, pipeline, limits):
    session = onnxruntime.InferenceSession(str(bundle / "step_float16.onnx"), providers=["CPUExecutionProvider"])
    config = SamplingConfig(unmasking="confidence", top_k=256, num_sampling_steps=8)
    draft = draft_of(pipeline, "One day")
    text = graph_text(pipeline, session, draft, config, 3, limits)
    assert list(text[: len(draft.tokens)]) == list(draft.tokens)
    assert set(text.tolist()) <= set(range(pipeline.tokenizer.vocab_size))
    assert not set(text.tolist()) & set(pipeline.tokenizer.unwritable_ids)


def test_an_objection_is_no_surprise_of_the_loop(choice):
    with pytest.raises(AssertionError):
        next(step.denoise(Stepper(choice), canvas(), draw_of(SamplingConfig(top_k=11), 0, 0, False), LIMITS))
    assert step.objection(replace(sampling(), temperature=0.0), LIMITS) is None  # the best token needs no candidates
