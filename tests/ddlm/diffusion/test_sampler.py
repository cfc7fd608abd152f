"""The loop against enumeration, and its contracts."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddlm.diffusion.sampler import Canvas, Step, denoise, sample, to_open
from ddlm.diffusion.tokens import Draw
from ddlm.diffusion.unmasking import POLICIES, REWRITING
from ddlm.diffusion.view import Denoiser, everywhere

END, MASK = 0, 9
NO_END = -1
"""No token ends a text."""
KEEPING = sorted(set(POLICIES) - REWRITING)


def start(rows: int = 4, length: int = 12, prompt: int = 3) -> Tensor:
    ids = torch.full((rows, length), MASK)
    ids[:, :prompt] = torch.tensor([1, 2, 4])[:prompt]
    return ids


@pytest.mark.parametrize("unmasking", [*KEEPING, "remdm_cap", "remdm_rescale", "remdm_loop"])
def test_an_exact_denoiser_gives_the_data(
    unmasking: str, pairs: tuple[Denoiser, Tensor], draw_of: Callable[..., Draw]
) -> None:
    denoiser, joint = pairs
    count, steps = (2000, 30) if unmasking in REWRITING else (4000, 2)
    settings: dict[str, object] = {"entropy_bound": 0.0} if unmasking == "entropy_bound" else {}
    draw = draw_of(count, end_id=NO_END, unmasking=unmasking, num_sampling_steps=steps, **settings)
    ids, calls = sample(denoiser, torch.full((count, 2), 3), 3, draw)
    assert calls <= steps
    seen = torch.zeros(3, 3)
    for a, b in itertools.product(range(3), repeat=2):
        seen[a, b] = ((ids[:, 0] == a) & (ids[:, 1] == b)).float().mean()
    torch.testing.assert_close(seen, joint, atol=0.04 if unmasking in REWRITING else 0.03, rtol=0)


@pytest.mark.parametrize("unmasking", POLICIES)
@pytest.mark.parametrize("steps", [1, 3, 50])
@pytest.mark.parametrize("settings", [{}, {"block_size": 4}, {"ends": "drawn"}, {"ends": "last", "grid": "cosine"}])
def test_no_mask_is_left_what_stands_stays_and_forbidden_ids_do_not_come(
    unmasking: str, steps: int, settings: dict[str, object], noise: Denoiser, draw_of: Callable[..., Draw]
) -> None:
    draw = draw_of(4, forbidden=(5,), unmasking=unmasking, num_sampling_steps=steps, **settings)
    seen: list[Step] = []
    ids, calls = sample(noise, start(), MASK, draw, seen.append)
    assert calls <= (9 if unmasking == "first_hitting" else steps + 2 * ("block_size" in settings))
    assert calls == seen[-1].calls
    assert [step.step for step in seen] == list(range(len(seen)))
    assert (ids != MASK).all()
    assert not (ids[:, 3:] == 5).any()
    assert torch.equal(ids[:, :3], start()[:, :3])
    for before, after in itertools.pairwise(seen):
        kept = ~after.opened
        if unmasking not in REWRITING:
            assert torch.equal(before.ids[kept], after.ids[kept])
            assert (before.ids[after.opened] == MASK).all()
        assert (after.confidence[kept] == 0).all()


@pytest.mark.parametrize("unmasking", POLICIES)
@pytest.mark.parametrize("settings", [{}, {"block_size": 4}, {"ends": "drawn"}, {"repetition_penalty": 1.5}])
def test_a_text_does_not_depend_on_its_neighbours_in_the_batch(
    unmasking: str, settings: dict[str, object], noise: Denoiser, draw_of: Callable[..., Draw]
) -> None:
    ids = start(5, prompt=0)
    ids[1, :6] = 2
    ids[3, :11] = 4
    draw = draw_of(5, unmasking=unmasking, num_sampling_steps=7, **settings)
    together, _ = sample(noise, ids, MASK, draw)
    for row in range(5):
        index = torch.tensor([row])
        alone, _ = sample(noise, ids[index], MASK, draw.of_rows(index))
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("unmasking", POLICIES)
def test_rows_that_have_to_stay_in_the_batch_are_left_alone_once_they_are_done(
    unmasking: str, noise: Denoiser, draw_of: Callable[..., Draw]
) -> None:
    ids = start(4, prompt=0)
    ids[1, :6], ids[2, :11] = 2, 4
    draw = draw_of(4, unmasking=unmasking, num_sampling_steps=7, block_size=4)
    leaving, _ = sample(noise, ids, MASK, draw)
    *_, staying = denoise(noise, ids, MASK, draw, denoiser_of=lambda before, block: noise)
    assert torch.equal(leaving, staying.ids)


def test_seeds_matter_and_so_does_the_place_in_the_text(noise: Denoiser, draw_of: Callable[..., Draw]) -> None:
    def written(draw: Draw) -> list[int]:
        return sample(noise, start(1), MASK, draw)[0][0].tolist()  # type: ignore[no-any-return]

    first, second = draw_of(1, seed=1), draw_of(1, seed=2)
    later = Draw(first.config, 1, first.sample, END, first_position=torch.tensor([100]))
    assert written(first) == written(first)
    assert written(first) != written(second)
    assert written(first) != written(later)


def test_only_free_positions_are_written(noise: Denoiser, draw_of: Callable[..., Draw]) -> None:
    is_free = torch.zeros(4, 12, dtype=torch.bool)
    is_free[:, 5:8] = True
    *_, last = denoise(noise, start(), MASK, draw_of(4), is_free=is_free)
    assert torch.equal(last.ids != MASK, is_free | (start() != MASK))


@pytest.mark.parametrize(("total", "steps"), [(10, 4), (3, 8), (7, 7), (256, 64), (5, 1), (255, 64)])
@pytest.mark.parametrize("grid", ["linear", "cosine"])
def test_the_grid_opens_something_at_every_step_and_everything_at_last(total: int, steps: int, grid: str) -> None:
    left, opened, allowed = total, [], min(total, steps)
    for taken in range(allowed):
        opened.append(to_open(left, allowed, taken, grid))
        left -= opened[-1]
    assert left == 0
    assert min(opened) >= 1
    if grid == "linear":
        assert max(opened) - min(opened) <= 1
    elif total > 2 * steps > 2:
        assert opened[0] < opened[-1]


def stories(lengths: Tensor) -> Denoiser:
    """The exact denoiser of rows that are ones up to a length with these probabilities, and ends from there on."""

    def network(ids: Tensor) -> Tensor:
        place = torch.arange(ids.shape[1])
        longest = torch.where(ids == END, place, ids.shape[1]).amin(1)
        shortest = torch.where(ids == 1, place + 1, 0).amax(1)
        possible = torch.arange(len(lengths))
        weight = lengths * (possible >= shortest[:, None]) * (possible <= longest[:, None])
        over = (weight / weight.sum(1, keepdim=True)).cumsum(1)[:, : ids.shape[1]]
        return torch.stack([over, 1 - over], dim=-1).clamp(min=0).log()

    return everywhere(network)


@pytest.mark.parametrize("unmasking", ["confidence", "margin", "left_to_right", "threshold"])
@pytest.mark.parametrize("settings", [{}, {"block_size": 3}])
def test_drawn_ends_give_texts_the_lengths_of_the_data(
    unmasking: str, settings: dict[str, object], draw_of: Callable[..., Draw]
) -> None:
    lengths = torch.tensor([0.0, 0.1, 0.0, 0.2, 0.4, 0.0, 0.1, 0.1, 0.1])
    draw = draw_of(3000, end_id=END, unmasking=unmasking, num_sampling_steps=4, ends="drawn", **settings)
    ids, _ = sample(stories(lengths), torch.full((3000, 8), 2), 2, draw)
    seen = (ids == 1).sum(1).bincount(minlength=9) / 3000
    torch.testing.assert_close(seen, lengths, atol=0.03, rtol=0)
    assert (ids.diff(dim=1) <= 0).all()  # nothing comes after an end


def test_certain_tails_fix_the_length_blindly_when_ends_are_free_and_never_when_they_come_last(
    draw_of: Callable[..., Draw],
) -> None:
    lengths = torch.tensor([0.0, 0.0, 0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2])
    mean = float((lengths * torch.arange(9)).sum())

    def mean_length(ends: str, temperature: float) -> float:
        draw = draw_of(
            1500, end_id=END, unmasking="confidence", num_sampling_steps=8, ends=ends, temperature=temperature
        )
        ids, _ = sample(stories(lengths), torch.full((1500, 8), 2), 2, draw)
        return float((ids == 1).sum(1).float().mean())

    assert mean_length("drawn", 0.5) == pytest.approx(mean, abs=0.2)
    assert abs(mean_length("free", 0.5) - mean) > 0.5
    assert abs(mean_length("last", 0.5) - mean) > 0.5


def test_what_is_said_of_an_end_too_soon_is_taken_back_by_what_is_said_of_later_places(
    draw_of: Callable[..., Draw],
) -> None:
    """At the first places the end is said to be likelier than later, where the text can't be less over."""
    over = torch.tensor([0.30, 0.40, 0.10, 0.15, 0.55, 0.50])

    def noisy(ids: Tensor) -> Tensor:
        rows = torch.stack([over, 1 - over], dim=1).log()
        return torch.where(ids[..., None] == MASK, rows, 0.0)

    count = 4000
    draw = draw_of(count, end_id=END, unmasking="random", num_sampling_steps=2, ends="drawn", temperature=1.0)
    start = torch.full((count, len(over)), MASK)
    ids, _ = sample(everywhere(noisy), start, MASK, draw)
    lengths = (ids == END).logical_not().sum(1).bincount(minlength=7) / count
    least, behind = 0.10, torch.tensor([0.10, 0.10, 0.10, 0.15, 0.50, 0.50, 1.0])
    wanted = ((behind - least) / (1 - least)).diff(prepend=torch.zeros(1))
    assert wanted[:3].sum() == 0
    torch.testing.assert_close(lengths, wanted, atol=0.03, rtol=0)


def test_at_temperature_0_the_length_is_the_median(draw_of: Callable[..., Draw]) -> None:
    draw = draw_of(3, end_id=END, unmasking="confidence", ends="drawn", temperature=0.0)
    ids, _ = sample(stories(torch.tensor([0.0, 0.3, 0.0, 0.4, 0.3])), torch.full((3, 4), 2), 2, draw)
    assert ids.tolist() == [[1, 1, 1, 0]] * 3


def test_a_denoiser_is_asked_only_where_a_decision_is_taken(noise: Denoiser, draw_of: Callable[..., Draw]) -> None:
    def asked(unmasking: str) -> list[int]:
        counts: list[int] = []

        def watched(ids: Tensor, wanted: Tensor) -> Tensor:
            counts.append(int(wanted.sum()))
            return noise(ids, wanted)

        sample(watched, start(1), MASK, draw_of(1, unmasking=unmasking, num_sampling_steps=3))
        return counts

    assert asked("random") == asked("left_to_right") == [3, 3, 3]
    assert asked("confidence") == [9, 6, 3]
    assert asked("revise") == [9, 9, 9]


def test_finished_rows_leave_the_batch(noise: Denoiser, draw_of: Callable[..., Draw]) -> None:
    rows: list[int] = []

    def watched(ids: Tensor, wanted: Tensor) -> Tensor:
        rows.append(len(ids))
        return noise(ids, wanted)

    ids = start(3)
    ids[0, 4:] = 1
    sample(watched, ids, MASK, draw_of(3, num_sampling_steps=4))
    assert rows == [3, 2, 2, 2]


def test_a_step_that_opens_nothing_does_not_run_the_network(noise: Denoiser, draw_of: Callable[..., Draw]) -> None:
    seen: list[Step] = []
    _, calls = sample(noise, start(1), MASK, draw_of(1, unmasking="remdm_cap", num_sampling_steps=200), seen.append)
    assert len(seen) == 201
    assert calls < 100


@pytest.mark.parametrize("unmasking", ["random", "confidence", "margin", "left_to_right", "first_hitting"])
def test_at_the_grid_s_pace_nothing_is_asked_back_from_the_device(
    unmasking: str, noise: Denoiser, draw_of: Callable[..., Draw], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = denoise(noise, start(), MASK, draw_of(4, unmasking=unmasking, num_sampling_steps=3, ends="drawn"))
    next(steps)  # the masks are counted once
    next(steps)  # and so is what is left before the drawn ends

    def refuse(*args: object) -> None:
        raise AssertionError("the host waits for the device")

    for name in ("tolist", "item", "__bool__", "__int__", "__float__", "nonzero"):
        monkeypatch.setattr(Tensor, name, refuse)
    assert next(steps).step == 2


def ending(ids: Tensor) -> Tensor:
    """Nine tokens; the end is likely, and what else is depends on the token before."""
    weights = torch.randn(10, 9, generator=torch.Generator().manual_seed(3))
    return weights[ids] + weights[ids.roll(1, 1)] + 2.0 * (torch.arange(9) == END)


@pytest.fixture
def without_closing(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on a text that is over is written to the last position."""

    def closes_nothing(self: Canvas, rows: list[int]) -> Tensor:
        return torch.zeros(len(rows), self.ids.shape[1], dtype=torch.bool)

    return lambda: monkeypatch.setattr(Canvas, "_close_texts", closes_nothing)


@pytest.mark.parametrize("unmasking", KEEPING)
@pytest.mark.parametrize("settings", [{}, {"block_size": 4}, {"ends": "last"}])
@pytest.mark.parametrize("stays", [False, True])
def test_a_text_that_is_over_takes_no_more_steps_and_stays_as_it_is(
    unmasking: str,
    settings: dict[str, object],
    stays: bool,
    draw_of: Callable[..., Draw],
    without_closing: Callable[[], None],
) -> None:
    """With `stays` rows that are done stay in the batch, as they do where keys are reused."""
    draw, network = draw_of(24, unmasking=unmasking, num_sampling_steps=12, **settings), everywhere(ending)
    asked = 0

    def counted(ids: Tensor, wanted: Tensor) -> Tensor:
        nonlocal asked
        asked += int(wanted.sum())
        return network(ids, wanted)

    def written() -> tuple[list[list[int]], int]:
        nonlocal asked
        asked, of_block = 0, (lambda before, block: counted) if stays else None
        *_, last = denoise(counted, start(24, prompt=0), MASK, draw, denoiser_of=of_block)
        assert (last.ids != MASK).all()
        return last.ids.tolist(), asked

    def text(row: list[int]) -> list[int]:
        return row[: row.index(END)] if END in row else row

    closed, fewer = written()
    without_closing()
    plain, all_of_them = written()
    assert list(map(text, closed)) == list(map(text, plain))
    assert fewer < all_of_them
    if unmasking == "left_to_right":
        assert all(set(row[len(text(row)) :]) <= {END} for row in closed)
        assert fewer == sum(min(len(text(row)) + 1, 12) for row in closed)


def test_a_finished_text_leaves_the_batch_and_its_neighbours_go_on(draw_of: Callable[..., Draw]) -> None:
    rows: list[int] = []

    def network(ids: Tensor) -> Tensor:
        """Row 0 ends at position 2; the other never does."""
        rows.append(len(ids))
        ends_here = (ids[:, :1] == 1) & (torch.arange(6) == 2)
        return 50.0 * torch.where(ends_here[..., None], torch.arange(3) == END, torch.arange(3) == 2)

    ids = torch.tensor([[1, 3, 3, 3, 3, 3], [2, 3, 3, 3, 3, 3]])
    draw = draw_of(2, unmasking="left_to_right", num_sampling_steps=6)
    made, calls = sample(everywhere(network), ids, 3, draw)
    assert made.tolist() == [[1, 2, END, END, END, END], [2, 2, 2, 2, 2, 2]]
    assert rows == [2, 2, 1, 1, 1]
    assert calls == 5


def test_what_a_text_is_closed_with_counts_as_opened_with_no_confidence(draw_of: Callable[..., Draw]) -> None:
    ids = torch.full((1, 5), 2)
    seen: list[Step] = []
    always_ending = everywhere(lambda ids: torch.tensor([50.0, 0.0]).expand(*ids.shape, 2))
    sample(always_ending, ids, 2, draw_of(1, unmasking="left_to_right", num_sampling_steps=5), seen.append)
    assert [step.opened.tolist() for step in seen] == [[[False] * 5], [[True] * 5]]
    assert seen[-1].confidence.tolist() == [[1.0, 0.0, 0.0, 0.0, 0.0]]


def test_an_end_token_that_was_given_or_that_has_masks_before_it_closes_nothing(draw_of: Callable[..., Draw]) -> None:
    given = torch.tensor([[1, END, 3, 3, 3], [1, 3, 3, END, 3]])
    never_ending = everywhere(lambda ids: 50.0 * torch.tensor([0.0, 1.0, 0.0]).expand(*ids.shape, 3))
    made, _ = sample(never_ending, given, 3, draw_of(2, unmasking="left_to_right", num_sampling_steps=5))
    assert made.tolist() == [[1, END, 1, 1, 1], [1, 1, 1, END, 1]]
    token = torch.tensor([1, 1, 1, 1, END])
    ending_last = everywhere(lambda ids: 50.0 * (torch.arange(3) == token[:, None]).float().expand(*ids.shape, 3))
    made, _ = sample(ending_last, torch.full((9, 5), 3), 3, draw_of(9, unmasking="random", num_sampling_steps=5))
    assert made.tolist() == [token.tolist()] * 9


@pytest.mark.parametrize(
    "settings",
    [
        *[{"unmasking": name} for name in sorted(REWRITING)],
        {"forbidden": (END,)},
        {"forbidden": (END,), "ends": "last"},
        {"ends": "drawn"},
    ],
)
def test_texts_are_not_closed_that_may_be_rewritten_can_t_end_or_have_drawn_ends(
    settings: dict[str, object], draw_of: Callable[..., Draw], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = draw_of(4, num_sampling_steps=5, **settings)
    assert not Canvas(start(), MASK, draw).may_be_over
    assert Canvas(start(), MASK, draw_of(4)).may_be_over

    def refuse(self: Canvas, rows: list[int]) -> Tensor:
        raise AssertionError("closed")

    monkeypatch.setattr(Canvas, "_close_texts", refuse)
    ids, _ = sample(everywhere(ending), start(), MASK, draw)
    assert (ids != MASK).all()
