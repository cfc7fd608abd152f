import pytest

from ddlm.config import UserError
from ddlm.generation import Frame, Span
from ddlm.rendering.storyboard import Mark, MisfitError, storyboard, union


def visible(moment):
    return "".join(
        char for char, mark in zip(moment.text, moment.marks, strict=True) if mark.state in ("prompt", "shown")
    )


def film(*frames):
    return [Frame(step, len(frames) - 1, tuple(Span(*span) for span in spans)) for step, spans in enumerate(frames)]


def test_no_word_moves_while_masks_open(frames_of):
    moments = storyboard(frames_of())
    assert len({moment.text for moment in moments}) == 1


def test_a_moment_shows_exactly_what_its_frame_shows(frames_of):
    frames = frames_of(prompt="It was spring. ", ends=9)
    for frame, moment in zip(frames, storyboard(frames), strict=True):
        assert visible(moment) == "".join(span.text for span in frame.spans if span.state != "masked")


def test_the_last_moment_shows_the_whole_text(frames_of, story):
    assert visible(storyboard(frames_of(prompt="Hello. "))[-1]) == "Hello. " + story


def test_what_follows_the_first_end_token_is_gone_in_the_last_moment(frames_of, story):
    *_, before, last = storyboard(frames_of(after="Another story that nobody will see in the end."))
    assert "in the end." in visible(before)
    assert visible(last) == story


def test_a_mask_has_the_place_of_what_opens_there():
    first, *_ = storyboard(
        film([("██", "masked")], [("Hi", "new"), ("█", "masked")], [("Hi", "shown"), (" fox", "new")])
    )
    assert first.text == "Hi fox"
    assert {mark.state for mark in first.marks} == {"masked"}


def test_the_place_of_an_end_token_is_masked_and_then_empty():
    moments = storyboard(
        film(
            [("████", "masked")],
            [("Hi", "new"), ("███", "masked")],
            [("Hi", "shown"), ("█", "masked")],
            [("Hi", "shown")],
        )
    )
    assert [[mark.state for mark in moment.marks].count("gone") for moment in moments] == [0, 0, 4, 6]
    assert [[mark.state for mark in moment.marks].count("masked") for moment in moments] == [8, 6, 2, 0]


def test_a_word_grows_older_by_one_each_step():
    moments = storyboard(film([("██", "masked")], [("a", "new"), ("█", "masked")], [("a", "shown"), ("b", "new")]))
    assert [moment.marks[0] for moment in moments] == [Mark("masked"), Mark("shown", 0, 1.0), Mark("shown", 1, 1.0)]


def test_a_word_keeps_the_confidence_with_which_it_was_written():
    moments = storyboard(
        film([("██", "masked")], [("a", "new", 0.25), ("█", "masked")], [("a", "shown"), ("b", "new", 0.75)])
    )
    assert [mark.confidence for mark in moments[-1].marks] == [0.25, 0.75]


def test_the_share_that_is_unmasked_goes_from_none_to_all_and_never_back(frames_of):
    for frames in (frames_of(prompt="Hello. "), frames_of(ends=0), frames_of("", ends=9)):
        shares = [moment.share for moment in storyboard(frames)]
        assert shares == sorted(shares)
        assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_masks_that_a_later_window_adds_stand_behind_the_text_in_every_moment():
    moments = storyboard(
        film(
            [("██", "masked")],
            [("a", "new"), (" fox", "new")],
            [("a fox", "shown"), ("██", "masked")],
            [("a fox", "shown"), (" ran", "new"), ("█", "masked")],
            [("a fox ran", "shown"), (".", "new")],
        )
    )
    assert {moment.text for moment in moments} == {"a fox ran."}
    assert [moment.share for moment in moments] == sorted(moment.share for moment in moments)


def test_places_of_end_tokens_do_not_last(frames_of, story):
    moments = storyboard(frames_of(prompt="Hello. ", ends=9))
    assert {moment.text[: moment.lasting] for moment in moments} == {"Hello. " + story}


def test_no_frames_are_refused():
    with pytest.raises(UserError, match="film: got no frames"):
        storyboard([])


def test_masks_parted_by_an_invisible_end_token_stay_in_order():
    moments = storyboard(
        film(
            [("█████", "masked")],
            [("██", "masked"), ("██", "masked")],
            [("Hi", "new"), ("█", "masked"), ("█", "masked")],
            [("Hi", "shown"), (" you", "new"), ("█", "masked")],
            [("Hi you", "shown")],
        )
    )
    assert len({moment.text for moment in moments}) == 1
    assert visible(moments[-1]) == "Hi you"


@pytest.mark.parametrize(
    "second",
    [
        [("Ho", "shown"), ("█", "masked")],
        [("█", "masked"), ("█", "masked")],
        [("Hi", "shown"), ("█", "masked"), ("!", "shown")],
    ],
    ids=["changed", "masked again", "out of nothing"],
)
def test_frames_that_do_more_than_open_masks_stand_each_for_itself(second):
    frames = film([("Hi", "prompt"), ("█", "masked")], second, [("Hi", "shown"), (" you", "new")])
    with pytest.raises(MisfitError):
        union(frames)
    moments = storyboard(frames)
    assert [moment.text for moment in moments] == ["".join(span.text for span in frame.spans) for frame in frames]
    assert moments[-1].marks[-1] == Mark("shown", 0, 1.0)
    assert moments[-1].marks[0].age > 100
