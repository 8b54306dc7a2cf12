"""Which frames of a dynamic PET are taken, and with what weight each."""

from __future__ import annotations

import math

import pytest

from medfuse.errors import BundleError, ImageError
from medfuse.io.frames import Timing, checked_timing, choose_frames

HALF_LIFE = 1221.6  # C-11, s
STARTS, DURATIONS = (0, 10, 20, 80, 380), (10, 10, 60, 300, 600)


def timing(**values) -> Timing:
    return checked_timing(
        STARTS, DURATIONS, 5, **{"half_life": HALF_LIFE, "corrected": True, "injection": 10.0} | values
    )


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        ("all", (0, 1, 2, 3, 4)),
        ("1", (0,)),
        ("2-4", (1, 2, 3)),
        ("1,3-4", (0, 2, 3)),
        ("4,1,1-2", (0, 1, 3)),
        ("20-380s", (2, 3)),
        ("0-20s", (0, 1)),
        ("1.333-6.334min", (3,)),
        ("10-370s-pi", (2, 3)),  # the injection came 10 s after the time zero
        ("-10-10s-pi", (0, 1)),
    ],
)
def test_frames_are_chosen_by_number_and_by_time(text, frames):
    choice = choose_frames(text, 5, timing())
    assert choice.frames == frames
    weights = [DURATIONS[k] for k in frames]
    assert choice.weights == pytest.approx([w / sum(weights) for w in weights])
    assert choice.factors == (1.0,) * len(frames)


def test_the_decay_weighted_average_is_what_one_long_frame_would_have_shown():
    """Frames of a constant activity, uncorrected, hold C * decays / duration; corrected ones all hold C.

    One long frame counts the decays of all, and is corrected by its own decay: sum(w c) with w the decays in each.
    """
    one = checked_timing([20], [960], 1, half_life=HALF_LIFE, corrected=True)
    choice = choose_frames("decay:3-5", 5, timing())
    rate = math.log(2) / HALF_LIFE
    decays = [(math.exp(-rate * STARTS[k]) - math.exp(-rate * (STARTS[k] + DURATIONS[k]))) / rate for k in (2, 3, 4)]
    assert choice.weights == pytest.approx([d / sum(decays) for d in decays])
    assert sum(decays) == pytest.approx(one.decays(0))
    assert choice.record["average"] == "weighted by decay"


def test_frames_without_decay_correction_are_corrected_each():
    choice = choose_frames("4-5", 5, timing(corrected=False))
    rate = math.log(2) / HALF_LIFE
    for factor, k in zip(choice.factors, (3, 4), strict=True):
        mean = (math.exp(-rate * STARTS[k]) - math.exp(-rate * (STARTS[k] + DURATIONS[k]))) / (rate * DURATIONS[k])
        assert factor == pytest.approx(1 / mean)
    assert choice.record["decay_corrected_to_s"] == 0.0
    assert "each frame was corrected" in choice.warnings[0]
    with pytest.raises(ImageError, match="radionuclide of a PET must be known"):
        choose_frames("4-5", 5, timing(corrected=False, half_life=None))


def test_a_choice_that_nobody_made_is_told():
    assert "average of its 5 frames, 0 to 980 s after the time zero" in choose_frames(None, 5, timing()).warnings[0]
    assert choose_frames("all", 5, timing()).warnings == ()
    assert choose_frames(None, 1, None).warnings == ()


def test_gaps_and_frames_that_are_cut_are_told():
    choice = choose_frames("1,3", 5, timing())
    assert choice.record["gaps"] == {"count": 1, "seconds": 10.0}
    assert "not contiguous: 10 s" in choice.warnings[0]
    broken = checked_timing((0, 10, 30, 90, 390), DURATIONS, 5, corrected=True)
    assert "not contiguous: 10 s between them were not measured" in choose_frames("all", 5, broken).warnings[0]
    assert "2 frames lie partly in the span of 5 to 100 s" in choose_frames("5-100s", 5, timing()).warnings[0]


@pytest.mark.parametrize("text", ["6", "0", "3-2", "1-6"])
def test_frames_that_are_not_there_are_refused(text):
    with pytest.raises(ImageError, match="must be chosen from 1 to 5"):
        choose_frames(text, 5, timing())


@pytest.mark.parametrize("text", ["", "first", "3-", "60-40min", "1;2", "decay:", "40-60", "1e3-2e3s", 3, "7 CANARY"])
def test_a_text_that_is_no_choice_is_refused(text):
    if text == "40-60":
        with pytest.raises(ImageError, match="from 1 to 5, got 40-60"):
            choose_frames(text, 5, timing())
        return
    with pytest.raises(BundleError, match="must be all, numbers such as 3 or 3-7") as error:
        choose_frames(text, 5, timing())
    assert "CANARY" not in str(error.value)


def test_what_cannot_be_known_is_refused():
    with pytest.raises(ImageError, match="must have times to be averaged"):
        choose_frames(None, 5, None)
    assert choose_frames("3", 5, None).frames == (2,)
    with pytest.raises(ImageError, match="must have times to be chosen by time"):
        choose_frames("0-10s", 5, None)
    with pytest.raises(ImageError, match="The injection must have a time"):
        choose_frames("0-10s-pi", 5, timing(injection=None))
    with pytest.raises(ImageError, match="wholly within 85 to 90 s, got none"):
        choose_frames("85-90s", 5, timing())


def test_times_that_contradict_each_other():
    with pytest.raises(ImageError, match="a number for each of the 4 frames, got 5 and 5"):
        checked_timing(STARTS, DURATIONS, 4)
    with pytest.raises(ImageError, match="must rise"):
        checked_timing((0, 0, 10), (10, 10, 10), 3)
    with pytest.raises(ImageError, match="got frames that overlap"):
        checked_timing((0, 10, 20), (15, 10, 10), 3)
    ends = checked_timing((0, 10, 30, 60), (10, 30, 60, 120), 4)  # as in pet001 of bids-examples
    assert ends.durations == (10, 20, 30, 60)
    assert "FrameDuration holds the ends" in ends.warnings[0]
    rounded = checked_timing((0, 59.8, 120.3), (60, 60, 60), 3)
    assert rounded.durations == (60, 60, 60)
