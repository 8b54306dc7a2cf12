"""Time frames of a dynamic PET: which are taken, and with what weight each. Loads neither torch nor MONAI.

A choice is a text:

    all             every frame
    3   3-7   1,3-5 frames by number, the first is 1
    40-60min 2400-3600s  frames that lie wholly in a span, counted as the starts of the frames are (BIDS: TimeZero)
    40-60min-pi     the same, counted from the injection
    decay:CHOICE    of such a choice the decay-weighted average

The average of frames with values c, decay corrected to one time, weights each by its duration d:

    c = sum(d_i c_i) / sum(d_i)

The decay-weighted one weights each by the decays that it could see, and so equals what one long frame would have shown
of an activity that decays and does not move; late frames, whose correction has magnified their noise, count less:

    w_i = integral of 2**(-t / T) over frame i, T the half life
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from medfuse.errors import ImageError
from medfuse.schema import ALL_FRAMES, DECAY, FRAME_SPAN, checked_frames

_SLACK = 0.01  # part of a frame by which rounded times may miss those of their neighbour
_ROUNDED = 0.5  # s, likewise
_WHOLE = 1.0  # s, by which starts that are told in whole seconds may
_LN2 = math.log(2.0)


@dataclass(frozen=True)
class Timing:
    """When the frames of a PET were, and what the decay correction of their values is.

    Attributes:
        starts: Of each frame, s after the time zero.
        durations: Of each frame, s.
        injection: When the injection was, s after the time zero; None where nobody knows.
        half_life: s; None where nobody knows.
        corrected: Whether the values are decay corrected; None where nobody knows.
        own_start: Whether each frame is corrected to its own start alone, and not all to one time.
        warnings: What is odd about the times, as sentences.
    """

    starts: tuple[float, ...]
    durations: tuple[float, ...]
    injection: float | None = None
    half_life: float | None = None
    corrected: bool | None = None
    own_start: bool = False
    warnings: tuple[str, ...] = ()

    def end(self, k: int) -> float:
        """Return the end of a frame, s after the time zero."""
        return self.starts[k] + self.durations[k]

    def decays(self, k: int) -> float:
        """Return the integral of `2**(-t / T)` over a frame, s.

        Raises:
            ImageError: The radionuclide, and so its half life, is unknown.
        """
        if self.half_life is None:
            raise ImageError(
                "The radionuclide of a PET must be known for its decay, got none; say TracerRadionuclide in its "
                "sidecar, or choose frames without decay."
            )
        rate = _LN2 / self.half_life
        return math.exp(-rate * self.starts[k]) * -math.expm1(-rate * self.durations[k]) / rate

    def correction(self, k: int) -> float:
        """Return what the value of a frame is multiplied by to be that of the time zero."""
        if self.own_start and self.half_life is not None:
            return math.exp2(self.starts[k] / self.half_life)
        return self.durations[k] / self.decays(k)


@dataclass(frozen=True)
class Choice:
    """Frames that were chosen.

    Attributes:
        frames: Their indices, from 0 on, rising.
        weights: Of each in the average; their sum is 1.
        factors: What the values of each are multiplied by before, to be decay corrected to the time zero; 1 where
            they are already.
        record: What was done, plain numbers and texts.
        warnings: What the person must read, as sentences.
    """

    frames: tuple[int, ...]
    weights: tuple[float, ...]
    factors: tuple[float, ...]
    record: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def checked_timing(
    starts: Sequence[float] | None,
    durations: Sequence[float] | None,
    count: int,
    **known: Any,
) -> Timing | None:
    """Return when the frames were, with a warning where one reading of contradictory times is certain.

    Args:
        starts: Start of each frame, s; None where nobody knows.
        durations: Duration of each, s, likewise.
        count: Number of frames of the image.
        known: The other attributes of `Timing`.

    Raises:
        ImageError: If there are more or fewer times than frames, a time is none, or frames overlap.
    """
    if starts is None or durations is None:
        return None
    if len(starts) != count or len(durations) != count:
        raise ImageError(
            f"FrameTimesStart and FrameDuration must have a number for each of the {count} frames, got {len(starts)} "
            f"and {len(durations)}; correct the sidecar."
        )
    begin, last = [float(s) for s in starts], [float(d) for d in durations]
    if not all(map(math.isfinite, (*begin, *last))) or min(last) <= 0 or begin != sorted(set(begin)):
        raise ImageError(
            "FrameTimesStart must rise from frame to frame, and FrameDuration be positive, got others; correct the "
            "sidecar."
        )
    warnings = []
    gaps = [after - start for start, after in pairwise(begin)]
    if any(d > gap + _slack(gap) for d, gap in zip(last, gaps, strict=False)):
        ends = [d + begin[0] for d in last]
        if count < 2 or not all(abs(e - after) <= _slack(e) for e, after in zip(ends, begin[1:], strict=False)):
            raise ImageError(
                "Each frame must end before the next begins, got frames that overlap by FrameTimesStart and "
                "FrameDuration; correct the sidecar."
            )
        last = [*gaps, ends[-1] - begin[-1]]
        if last[-1] <= 0:
            raise ImageError("FrameDuration must be positive, got an end before the start; correct the sidecar.")
        warnings.append(
            "FrameDuration holds the ends of the frames, not how long they lasted: the durations were taken from "
            "FrameTimesStart."
        )
    return Timing(tuple(begin), tuple(last), warnings=tuple(warnings), **known)


def choose_frames(text: str | None, count: int, timing: Timing | None, *, correct: bool = True) -> Choice:
    """Choose frames of a dynamic PET.

    Args:
        text: A choice, see this module; None for the average of all, with a warning that it was taken.
        count: Number of frames of the image.
        timing: When they were; None where nobody knows.
        correct: Whether values without decay correction are to be corrected, where the nuclide is known.

    Raises:
        BundleError: If the text is no choice.
        ImageError: If a frame is not there, no frame lies in the span, or several frames cannot be averaged, as their
            durations, or the decay correction, are not known.
    """
    text = text if text is None else checked_frames(text, "frames")
    weighting = "decay" if text is not None and text.startswith(DECAY) else "duration"
    plain = ALL_FRAMES if text is None else text.removeprefix(DECAY)
    warnings = list(timing.warnings) if timing else []
    span = FRAME_SPAN.fullmatch(plain)
    if span:
        frames = _in_span(span, timing, warnings)
    else:
        frames = list(range(count)) if plain == ALL_FRAMES else _numbered(plain, count)
    several = len(frames) > 1
    if several and timing is None:
        raise ImageError(
            f"The frames of a dynamic PET must have times to be averaged, got {count} frames without FrameTimesStart "
            "and FrameDuration; add them to its sidecar, or choose one frame by its number."
        )
    if several and timing is not None and timing.corrected is None:
        warnings.append(
            "Nothing says whether the frames are decay corrected: they were averaged as if they were, to one time."
        )
    factors = [1.0] * len(frames)
    if timing is not None and timing.own_start:
        factors = [timing.correction(k) for k in frames]
        warnings.append(
            "Each frame is decay corrected to its own start, by its decay factor: all were corrected to the time zero."
        )
    elif timing is not None and timing.corrected is False and (several or (correct and timing.half_life is not None)):
        factors = [timing.correction(k) for k in frames]
        warnings.append("The PET was not decay corrected: each frame was corrected to the time zero.")
    weights = [1.0]
    if several and timing is not None:
        weights = [timing.decays(k) if weighting == "decay" else timing.durations[k] for k in frames]
    total = math.fsum(weights)
    record = _record(frames, count, timing, weighting, any(f != 1.0 for f in factors))
    if text is None and count > 1:
        when = f", {record['start_s']:g} to {record['end_s']:g} s after the time zero" if timing else ""
        warnings.append(
            f"The PET is dynamic: the average of its {count} frames{when}, weighted by their durations, was taken; "
            "choose others with --frames."
        )
    if several and timing is not None and (gaps := _gaps(frames, timing)):
        warnings.append(
            f"The frames that were averaged are not contiguous: {gaps['seconds']:g} s between them were not measured, "
            f"or not chosen, at {gaps['count']} place{'s' * (gaps['count'] > 1)}."
        )
        record["gaps"] = gaps
    return Choice(tuple(frames), tuple(w / total for w in weights), tuple(factors), record, tuple(warnings))


def own_starts(timing: Timing, factors: Sequence[float | None]) -> Timing:
    """Return times with a note where decay factors show that each frame was corrected to its own start alone.

    Args:
        timing: Of frames that are decay corrected.
        factors: What each was multiplied by.
    """
    half_life, known = timing.half_life, [f for f in factors if f is not None and f > 0]
    if half_life is None or len(known) != len(timing.starts) or all(f == 1.0 for f in known):
        return timing
    within = [
        -_SLACK * duration - _ROUNDED <= half_life * math.log2(f) <= duration * (1 + _SLACK) + _ROUNDED
        for f, duration in zip(known, timing.durations, strict=True)
    ]
    late = timing.starts[-1] - timing.starts[0] > timing.durations[-1] * (1 + _SLACK) + _ROUNDED
    return replace(timing, own_start=True) if late and all(within) else timing


def _slack(seconds: float) -> float:
    return max(_WHOLE, _SLACK * abs(seconds))


def _numbered(text: str, count: int) -> list[int]:
    frames: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not 1 <= low <= high <= count:
            raise ImageError(f"Frames must be chosen from 1 to {count}, got {part}; choose others.")
        frames.update(range(low - 1, high))
    return sorted(frames)


def _in_span(span: re.Match[str], timing: Timing | None, warnings: list[str]) -> list[int]:
    """Return the frames that lie wholly in a span of time; the others that share a part of it are told."""
    if timing is None:
        raise ImageError(
            "The frames of a PET must have times to be chosen by time, got none; add FrameTimesStart and FrameDuration "
            "to its sidecar, or choose frames by number."
        )
    unit, shift = 60.0 if span[3] == "min" else 1.0, 0.0
    if span[4]:
        if timing.injection is None:
            raise ImageError(
                "The injection must have a time for frames to be counted from it, got none; add InjectionStart to the "
                "sidecar, or leave -pi out."
            )
        shift = timing.injection
    low, high = float(span[1]) * unit + shift, float(span[2]) * unit + shift
    ends = [timing.end(k) for k in range(len(timing.starts))]
    within = [k for k, s in enumerate(timing.starts) if s >= low - _ROUNDED and ends[k] <= high + _ROUNDED]
    touched = [k for k, s in enumerate(timing.starts) if s < high - _ROUNDED and ends[k] > low + _ROUNDED]
    if not within:
        raise ImageError(
            f"A frame must lie wholly within {low:g} to {high:g} s, got none: the frames last from "
            f"{timing.starts[0]:g} to {ends[-1]:g} s after the time zero; choose another span."
        )
    if cut := len(touched) - len(within):
        warnings.append(
            f"{cut} frame{'s' * (cut > 1)} lie{'s' * (cut == 1)} partly in the span of {low:g} to {high:g} s, and "
            f"{'were' if cut > 1 else 'was'} left out."
        )
    return within


def _record(
    frames: Sequence[int], count: int, timing: Timing | None, weighting: str, corrected: bool
) -> dict[str, Any]:
    record: dict[str, Any] = {"count": count, "frames": _numbers(frames)}
    if len(frames) > 1:
        record["average"] = f"weighted by {weighting}"
    if timing is not None:
        record |= {"start_s": timing.starts[frames[0]], "end_s": timing.end(frames[-1])}
        record["measured_s"] = math.fsum(timing.durations[k] for k in frames)
        if timing.injection is not None:
            record["start_after_injection_s"] = timing.starts[frames[0]] - timing.injection
    if corrected:
        record["decay_corrected_to_s"] = 0.0
    return record


def _numbers(frames: Sequence[int]) -> str:
    """Return frames by number, runs as first-last."""
    runs: list[list[int]] = []
    for k in frames:
        if runs and runs[-1][1] == k:
            runs[-1][1] = k + 1
        else:
            runs.append([k + 1, k + 1])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _gaps(frames: Sequence[int], timing: Timing) -> dict[str, Any]:
    apart = [timing.starts[b] - timing.end(a) for a, b in pairwise(frames)]
    found = [gap for gap in apart if gap > _WHOLE]
    return {"count": len(found), "seconds": math.fsum(found)} if found else {}
