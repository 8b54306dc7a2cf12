"""The time frames of a dynamic PET series: which images belong to which, and when they were (PS3.3 C.8.9.4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from medfuse.errors import DicomError, ImageError
from medfuse.io.dicom.header import Header
from medfuse.io.frames import Timing, checked_timing, own_starts
from medfuse.io.suv import HALF_LIVES
from medfuse.io.suv.times import average_time, order

if TYPE_CHECKING:
    from medfuse.io.dicom.series import Series

_PLACE = 0.05  # mm, by which positions of one place may differ


def split_frames(headers: Sequence[Header]) -> list[list[int]]:
    """Return the indices of the headers of each time frame, in the order of time; all as one where there is no more.

    A series is dynamic where several images lie at one place and differ by Frame Reference Time (0054,1300), or else by
    their acquisition.
    """
    every = list(range(len(headers)))
    planes = [h.planes for h in headers]
    if any(h.modality != "PT" or p is None or len(p.position) != 1 for h, p in zip(headers, planes, strict=True)):
        return [every]
    places = {tuple(np.round(p.position[0] / _PLACE).astype(int)) for p in planes if p is not None}
    if len(places) == len(headers):
        return [every]
    groups: dict[tuple[float, ...], list[int]] = defaultdict(list)
    by_reference = len({h.pet.frame_reference for h in headers} - {None}) > 1
    for k, header in enumerate(headers):
        acquired = header.pet.acquired
        key = (header.pet.frame_reference or 0.0,) if by_reference else order(acquired) if acquired else ()
        groups[key].append(k)
    return [groups[key] for key in sorted(groups)] if len(groups) > 1 else [every]


def timing_of(series: Series) -> Timing | None:
    """Return when the time frames of a series were, counted from the Series Time; None where headers do not tell.

    Raises:
        DicomError: If their times contradict each other.
    """
    tags = [series.headers[frame[0]].pet for frame in series.frames]
    durations = [t.frame_duration for t in tags]
    if not all(durations):
        return None
    lasting = [float(d or 0.0) for d in durations]
    half_life = tags[0].half_life or HALF_LIVES.get(tags[0].nuclide)
    acquired = [t.acquired for t in tags]
    zero, begun = tags[0].series, [a for a in acquired if a is not None]
    starts: list[float] | None = None
    if len({order(a) for a in begun}) == len(tags):
        if zero is None or not zero.is_comparable(begun[0]) or begun[0].apart(zero) < -1.0:
            zero = begun[0]
        starts = [a.apart(zero) for a in begun]
    elif all(t.frame_reference is not None for t in tags):
        told = [float(t.frame_reference or 0.0) for t in tags]
        averages = [average_time(d, half_life) if half_life else d / 2 for d in lasting]
        starts = told if told[0] == 0 else [t - a for t, a in zip(told, averages, strict=True)]
    injected = tags[0].injected
    after = zero.apart(injected) if zero is not None and injected is not None and zero.is_comparable(injected) else None
    factors = [t.decay_factor for t in tags]
    corrected = "DECY" in tags[0].corrections
    try:
        timing = checked_timing(
            starts,
            lasting,
            len(tags),
            injection=None if after is None else -after,
            half_life=half_life,
            corrected=corrected,
        )
    except ImageError as error:
        text = str(error).replace("FrameTimesStart", "AcquisitionTime").replace("FrameDuration", "ActualFrameDuration")
        raise DicomError(text.replace("the sidecar", "the headers")) from None
    return own_starts(timing, factors) if timing is not None and corrected else timing
