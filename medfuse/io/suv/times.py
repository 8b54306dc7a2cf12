"""For how long a dose decayed until the time that an image is corrected to, and whether its headers agree on that.

The Series Time is the reference of all times of a PET (PS3.3 C.8.9.1.1.2), unless the series was made after the
acquisition (QIBA). It is held against the frames: each was at its average count rate its Frame Reference Time after the
reference, or began then, as some vendors have it; and its Decay Factor tells the time from the reference to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from medfuse.errors import DicomError
from medfuse.io.suv.checks import Evidence
from medfuse.io.suv.tags import DAY, SIDECAR, Moment, PetTags, UnknownError, checked

_MAX_HALF_LIVES = 8.0  # of uptake; beyond, a clock or a date is wrong
_LATE = 4.0  # half lives from which an uptake is unusual
_MAX_DATELESS_HALF_LIFE = DAY / _MAX_HALF_LIVES  # s; beyond, a time of day is ambiguous
_LONG_LIVED, _SOON = 3600.0, 300.0  # s: with such a half life, no one waits so short a time
_SAME = 1.0  # s, by which clocks that mean the same may differ: one may be rounded
_ROUNDED = 60.0  # s, by which two notes of one injection may differ
_MAX_SPREAD = 10.0  # s, between the starts of the scan as each slice gives it
_QUARTER = 900.0  # s: time zones are multiples of it
_WEST, _EAST = -12 * 3600.0, 14 * 3600.0  # s: zones lie between


def uptake(evidence: Evidence, half_life: float | None) -> tuple[float, str]:
    """Return for how long the dose decayed until the time that the image is corrected to, s, and the rule.

    Args:
        evidence: What speaks for the SUV.
        half_life: s; None only where the dose does not decay (ADMIN).

    Raises:
        DicomError: If a time is missing, or times contradict each other.
    """
    one = evidence.one
    if one.decay_correction == "ADMIN":
        if one.uptake:
            raise DicomError("UptakeSeconds must be 0 where DecayCorrection is ADMIN, got another; leave it out.")
        _check_injection_as_reference(evidence, half_life)
        return 0.0, "decay corrected to the injection (ADMIN)"
    if one.decay_correction != "START" or half_life is None:
        raise UnknownError(f"DecayCorrection must be START or ADMIN for SUV, got another or none; {SIDECAR}")
    if one.uptake is not None:
        return checked("uptake", one.uptake), "dose decayed by the given UptakeSeconds"
    evidence.require_sound("injected", "start_time", "series", "ge_scan", "corrected_to", "acquired")
    if one.injected is None:
        raise UnknownError(f"The injection must have a time, got neither (0018,1078) nor (0018,1072); {SIDECAR}")
    reference, name = _reference(evidence, half_life)
    injected = _injection(evidence, one.injected, reference, half_life)
    _check_stop(evidence, injected, half_life)
    if half_life > _MAX_DATELESS_HALF_LIFE and None in (injected.day, reference.day):
        what = "injection" if injected.day is None else "scan"
        raise UnknownError(
            f"The {what} must have a date for a half life of {half_life:g} s, got a time of day only; {SIDECAR}"
        )
    seconds = reference.since(injected)
    if -evidence.before <= reference.apart(injected) < 0.0:  # a dynamic scan may begin first
        seconds = reference.apart(injected)
    elif not 0.0 <= seconds <= _MAX_HALF_LIVES * half_life:
        raise DicomError(
            f"The scan must follow the injection within {_MAX_HALF_LIVES:g} half lives, got {seconds:.0f} s by {name}; "
            f"{SIDECAR}"
        )
    _warn_of_unusual(evidence, seconds, half_life, _first(evidence.slices), injected)
    return seconds, f"dose decayed from the injection to {name}"


def order(moment: Moment) -> tuple[int, float]:
    """Return what moments of one clock are sorted by."""
    return moment.day or 0, moment.second


def _warn_of_unusual(
    evidence: Evidence, seconds: float, half_life: float, first: Moment | None, injected: Moment
) -> None:
    if seconds > _LATE * half_life:
        evidence.warn(
            f"The scan began {seconds / 60.0:.0f} minutes after the injection, {seconds / half_life:.1f} half lives, "
            "which is unusual: check the times."
        )
    if half_life > _LONG_LIVED and not evidence.before and first is not None and first.is_comparable(injected):
        wait = first.since(injected)
        if 0.0 <= wait < _SOON:
            evidence.warn(
                f"The scan began {wait:.0f} s after the injection, which is unusual: check that the time of the "
                "injection is not that of the scan."
            )


def _injection(evidence: Evidence, told: Moment, reference: Moment, half_life: float) -> Moment:
    """Return the injection by the clock of the reference.

    Its date-time and its time of day must agree, unless only one of them lies a usual time before the scan. The
    date-time may end in an offset from UTC; where nothing tells the zone of the other times, the time of day does.
    """
    local = evidence.one.start_time
    if local is None or local == told:
        return told
    if told.is_comparable(local):
        apart = abs(replace(told, day=None).apart(local))
        if apart <= _ROUNDED:
            return told
        usual = [m for m in (told, local) if 0.0 <= reference.since(m) <= _LATE * half_life]
        text = f"RadiopharmaceuticalStartTime must be that of RadiopharmaceuticalStartDateTime, got {apart:.0f} s apart"
        if len(usual) != 1:
            raise DicomError(f"{text}; {SIDECAR}")
        evidence.warn(f"{text}: that was taken which lies before the scan as is usual.")
        return usual[0]
    if told.is_comparable(reference):
        return told
    utc = told.second - (told.zone or 0.0)
    offset = round((local.second - utc) / _QUARTER) * _QUARTER
    if abs(local.second - utc - offset) > _ROUNDED:
        raise DicomError(
            "RadiopharmaceuticalStartTime must be RadiopharmaceuticalStartDateTime in some time zone, got no whole "
            f"quarters of an hour apart; {SIDECAR}"
        )
    zones = [zone for zone in (offset % DAY, offset % DAY - DAY) if _WEST <= zone <= _EAST]
    if told.zone is not None and told.zone in zones:
        zones = [told.zone]
    else:
        evidence.warn(
            "The date and time of the injection are told with an offset from UTC, and no header tells the zone of the "
            "scan: its time of day, RadiopharmaceuticalStartTime, was taken."
        )
    if len(zones) > 1 or told.day is None:
        return local
    return replace(local, day=told.day + math.floor((utc + zones[0]) / DAY))


def _check_stop(evidence: Evidence, injected: Moment, half_life: float) -> None:
    """Hold the start of the injection against its end, by the time of day: who shifts dates may shift one alone."""
    stopped = evidence.one.stopped
    if stopped is None or not stopped.is_comparable(injected):
        return
    early = injected.apart(replace(stopped, day=None))
    if early > _ROUNDED:
        text = f"The injection must end after it began, got {early:.0f} s before, by RadiopharmaceuticalStopTime"
        evidence.agree(early, half_life, text)


def _reference(evidence: Evidence, half_life: float) -> tuple[Moment, str]:
    """Return the time that the image is decay corrected to, and which header it comes from (QIBA)."""
    one, slices = evidence.one, evidence.slices
    first, series = _first(slices), one.series
    if one.corrected_to is not None:
        if first is not None and first.is_comparable(one.corrected_to):
            late = one.corrected_to.apart(first)
            if late > _SOON:
                evidence.warn(
                    f"DecayCorrectionDateTime lies {late:.0f} s after the first acquisition, which is unusual."
                )
        return one.corrected_to, "DecayCorrectionDateTime"
    wait = None if first is None or series is None else _wait(first, series)
    if series is not None and (first is None or (wait is not None and wait >= -_SAME)):
        if first is None:
            evidence.warn(
                "No AcquisitionTime tells whether the series was made after the scan: SeriesTime was taken for it."
            )
        if first is not None and first.day is not None and series.day is None:
            series = replace(first, second=first.second - (wait or 0.0))
        _check_start(evidence, series, "SeriesTime", half_life)
        return series, "SeriesTime"
    if one.ge_scan is not None:  # the series was made after the acquisition, as by post-processing
        _check_start(evidence, one.ge_scan, "The GE scan time", half_life)
        return one.ge_scan, "the GE scan time"
    if first is not None and series is not None and wait is None:
        raise UnknownError(
            "SeriesTime and AcquisitionTime must both have a date, and one clock, where they differ, got one without; "
            f"{SIDECAR}"
        )
    evidence.require_sound("frame_reference", "frame_duration")
    starts = [start for t in slices if (start := _frame_start(t, half_life, _from_zero(slices))) is not None]
    if len(starts) == len(slices) and starts:
        if max(s.since(min(starts, key=order)) for s in starts) > _MAX_SPREAD:
            raise DicomError(f"FrameReferenceTime must give one start of the scan, got several; {SIDECAR}")
        start = min(starts, key=order)
        if first is not None and start.apart(first) > _SAME:
            raise DicomError(f"FrameReferenceTime must be positive, got less; {SIDECAR}")
        _check_factor(evidence, start, half_life)
        return start, "AcquisitionTime less FrameReferenceTime"
    if first is None or any(t.acquired is None for t in slices):
        raise UnknownError(f"The scan must have a time for SUV, got no SeriesTime or AcquisitionTime; {SIDECAR}")
    _check_factor(evidence, first, half_life)
    return first, "the earliest AcquisitionTime"


def _first(slices: Sequence[PetTags]) -> Moment | None:
    acquired = [t.acquired for t in slices if t.acquired is not None]
    return min(acquired, key=order) if acquired else None


def _wait(first: Moment, series: Moment) -> float | None:
    """Return the seconds from the Series Time to the first acquisition; None where it cannot be told."""
    if not first.is_comparable(series):
        return None
    wait = first.apart(series)
    one_date = (first.day is None) != (series.day is None)
    return None if one_date and abs(wait) > _MAX_SPREAD else wait


def _check_start(evidence: Evidence, start: Moment, name: str, half_life: float) -> None:
    """Hold the start of the scan, as one header has it, against all that tells when the first frame began."""
    frame = _first_frame(evidence.slices)
    if frame is None or frame.acquired is None or not frame.acquired.is_comparable(start):
        return
    wait = frame.acquired.apart(start)
    evidence.require_sound("frame_reference", "frame_duration", "decay_factor")
    told = _told_wait(frame, half_life, _from_zero(evidence.slices))
    if _has_factors(evidence.slices) and frame.decay_factor:
        waits = [wait] if told is None else [wait, told]
        best = min(waits, key=lambda w: abs(_off_factor(frame, w, half_life)))
        _agree_with_factor(evidence, frame, best, half_life)
    elif told is not None:
        text = f"FrameReferenceTime must place the first frame {wait:.0f} s after {name}, as AcquisitionTime does"
        evidence.agree(told - wait, half_life, f"{text}, got {told:.0f} s")
    else:
        text = f"{name} must be the time of the first acquisition where no frame tells its FrameReferenceTime"
        evidence.agree(wait, half_life, f"{text}, got {abs(wait):.0f} s {'before' if wait > 0 else 'after'} it")
    if evidence.one.ge_scan is not None and evidence.one.ge_scan.is_comparable(start):
        apart = evidence.one.ge_scan.apart(start)
        evidence.agree(apart, half_life, f"SeriesTime must be the GE scan time, got {abs(apart):.0f} s apart")


def _check_factor(evidence: Evidence, reference: Moment, half_life: float) -> None:
    """Hold a time that an image is corrected to against the Decay Factor of its first frame."""
    frame = _first_frame(evidence.slices)
    evidence.require_sound("decay_factor")
    if frame is None or frame.acquired is None or not frame.acquired.is_comparable(reference):
        return
    if _has_factors(evidence.slices) and frame.decay_factor:
        _agree_with_factor(evidence, frame, frame.acquired.apart(reference), half_life)


def _check_injection_as_reference(evidence: Evidence, half_life: float | None) -> None:
    """Hold an image that is said to be corrected to the injection against its Decay Factor, where all is there."""
    frame, told = _first_frame(evidence.slices), evidence.one.injected
    faults = {name for name, _ in evidence.one.faults}
    if half_life is None or frame is None or frame.acquired is None or told is None or "injected" in faults:
        return
    injected = _injection(evidence, told, frame.acquired, half_life)
    if not injected.is_comparable(frame.acquired):
        return
    seconds = frame.acquired.since(injected)
    if not 0.0 <= seconds <= _MAX_HALF_LIVES * half_life:
        raise DicomError(
            f"The scan must follow the injection within {_MAX_HALF_LIVES:g} half lives, got {seconds:.0f} s by "
            f"AcquisitionTime; {SIDECAR}"
        )
    _check_factor(evidence, injected, half_life)


def _agree_with_factor(evidence: Evidence, frame: PetTags, wait: float, half_life: float) -> None:
    off = _off_factor(frame, wait, half_life)
    text = f"DecayFactor must be that of {wait:.0f} s, by which the first frame followed what it is corrected to"
    evidence.agree(off, half_life, f"{text}, got {frame.decay_factor:.4g}, {abs(off):.0f} s off")


def _off_factor(frame: PetTags, wait: float, half_life: float) -> float:
    """Return by how many seconds a Decay Factor is off: it may include the decay during the frame, or not."""
    decayed = half_life * math.log2(frame.decay_factor or 1.0)
    later = wait + (average_time(frame.frame_duration, half_life) if frame.frame_duration else 0.0)
    return decayed - wait if decayed < wait else max(decayed - later, 0.0)


def _has_factors(slices: Sequence[PetTags]) -> bool:
    """Return whether Decay Factors tell something: 1 in all slices is a default."""
    return all(t.decay_factor and t.decay_factor > 0 for t in slices) and any(t.decay_factor != 1.0 for t in slices)


def _first_frame(slices: Sequence[PetTags]) -> PetTags | None:
    """Return the slice of the first frame; None where one has no time."""
    if any(t.acquired is None for t in slices):
        return None
    return min(slices, key=lambda t: (order(t.acquired) if t.acquired else (0, 0.0), t.frame_reference or 0.0))


def _from_zero(slices: Sequence[PetTags]) -> bool:
    """Return whether Frame Reference Times count to the starts of frames: an average is never at 0."""
    return any(t.frame_reference == 0.0 for t in slices) and any(t.frame_reference for t in slices)


def _told_wait(tags: PetTags, half_life: float, from_zero: bool) -> float | None:
    """Return how long after the reference a frame began by its Frame Reference Time, s."""
    if from_zero:
        return tags.frame_reference
    if not tags.frame_reference or not tags.frame_duration:  # 0 in all slices is a default
        return None
    return tags.frame_reference - average_time(tags.frame_duration, half_life)


def _frame_start(tags: PetTags, half_life: float, from_zero: bool) -> Moment | None:
    """Return the start of the scan by a slice's frame."""
    wait = _told_wait(tags, half_life, from_zero)
    return None if tags.acquired is None or wait is None else replace(tags.acquired, second=tags.acquired.second - wait)


def average_time(duration: float, half_life: float) -> float:
    """Return when a frame of a duration, s, is at its average count rate, s after its start (QIBA)."""
    decay = math.log(2.0) / half_life * duration
    return duration / decay * math.log(decay / -math.expm1(-decay)) if decay > 0 else 0.0
