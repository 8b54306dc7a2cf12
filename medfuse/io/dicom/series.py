"""List the series of a folder, check each before anything is decoded, and choose one.

A series is a volume if its frames share one orientation and lie on one line, evenly, one at each place. Order in the
folder, file names and instance numbers play no part: frames are sorted by position.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from medfuse.errors import DicomError
from medfuse.io.dicom.contrast import mixed
from medfuse.io.dicom.dynamic import split_frames
from medfuse.io.dicom.ends import check_ends, require_parts
from medfuse.io.dicom.header import Header, PixelFormat, read_header
from medfuse.io.dicom.identity import Person
from medfuse.io.dicom.others import why_none
from medfuse.io.dicom.planes import Planes
from medfuse.io.nifti import MAX_BYTES

_MAX_FILES = 50_000
_MAX_SPACING = 1e3  # mm
_UNIT = 1e-3  # by which directions may differ from each other, from unit length, and from a right angle
_TILT = 2e-3  # sine of the angle by which the stack may lean
_STEP = 0.05  # part of the slice distance by which one step may differ from it
_DRIFT = 0.1  # mm; or the part of the slice distance by which a slice may lie off its place
_PLANES = ("position", "orientation", "spacing", "slope", "intercept")
_SHOWN = 12  # series in an error message
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Series:
    """One series of a folder.

    Attributes:
        uid: Series Instance UID.
        modality: CT, MR, PT or NM.
        headers: Of its files.
        problem: Why it is no usable volume; empty if it is one.
        order: **[Z]**, index of each slice among all frames of all files, in the order of the headers.
        affine: **[4, 4]** float64, voxel index to RAS mm.
        doubts: What a person must look at, such as "may lack its first slice: ...", each without full stop.
        frames: `order` of each time frame of a dynamic series; of any other, of itself alone.
    """

    uid: str
    modality: str
    headers: tuple[Header, ...]
    problem: str = ""
    order: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=int))
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    doubts: tuple[str, ...] = ()
    frames: tuple[np.ndarray, ...] = ()

    @property
    def files(self) -> list[Path]:
        """The files, sorted by name."""
        return sorted(header.path for header in self.headers)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels **[X, Y, Z]**: columns, rows, slices."""
        pixels = self.headers[0].pixels
        return (pixels.columns, pixels.rows, len(self.order)) if pixels else (0, 0, 0)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size **[3]**, mm."""
        return tuple(float(s) for s in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def frame_of_reference(self) -> str:
        """UID of the frame of reference, or empty."""
        return self.headers[0].frame_of_reference

    @property
    def study(self) -> str:
        """Study Instance UID, or empty."""
        return self.headers[0].study

    @property
    def person(self) -> Person:
        """The patient, in digests."""
        return self.headers[0].person

    @property
    def is_volume_like(self) -> bool:
        """Whether it may be meant as a volume: no localizer, and more than one image."""
        frames = sum(h.pixels.frames if h.pixels else 1 for h in self.headers)
        return frames > 1 and not any(h.is_localizer for h in self.headers)

    @property
    def is_uncorrected(self) -> bool:
        """Whether it is a PET that is known to be without attenuation correction."""
        return self.modality == "PT" and not any(h.problem or "ATTN" in h.pet.corrections for h in self.headers)

    @property
    def is_result(self) -> bool:
        """Whether medfuse wrote it: a study that comes back from a PACS holds the results as well."""
        return all(h.is_result for h in self.headers)

    def describe(self) -> str:
        """Return the facts in one line; no text of a header but UID and known codes."""
        if self.problem:
            return f"{self.modality} {self.uid}: {len(self.headers)} files, unusable: {self.problem}"
        voxels, spacing = " x ".join(map(str, self.shape)), " x ".join(f"{s:.4g}" for s in self.spacing)
        units = f", {self.headers[0].pet.units or 'no unit'}" if self.modality == "PT" else ""
        maker = ", a result of medfuse" if self.is_result else ""
        times = f", {len(self.frames)} time frames" if len(self.frames) > 1 else ""
        size = f"{voxels} voxels of {spacing} mm{times}"
        return f"{self.modality} {self.uid}: {len(self.headers)} files, {size}{units}{maker}"


@dataclass(frozen=True)
class Folder:
    """What a folder holds.

    Attributes:
        series: Image series, by modality and UID.
        others: Number of files that are no CT, MR, PET or SPECT image.
        unreadable: What is wrong with each DICOM file that could not be read, and belongs to no one knows which series.
        classes: How many of the others are of each SOP class, by its UID.
        is_file: Whether it is no folder, but one file.
    """

    series: tuple[Series, ...]
    others: int
    unreadable: tuple[str, ...]
    classes: Counter[str] = field(default_factory=Counter)
    is_file: bool = False


def list_series(source: str | Path | Sequence[str | Path], *, max_bytes: int = MAX_BYTES) -> Folder:
    """List the series of a folder, with all folders in it, or of a file or several.

    Args:
        source: Folder, file or files. Hidden files are left alone, and links to folders not followed.
        max_bytes: Largest decoded size of a series (float32).

    Raises:
        DicomError: If there is no such folder or file, or a folder holds more than 50 000 files.
    """
    by_series: dict[str, list[Header]] = defaultdict(list)
    unreadable, others, classes = [], 0, Counter[str]()
    paths = list(_files(source))
    for number, path in enumerate(paths, start=1):
        try:
            header = read_header(path)
        except DicomError as error:
            unreadable.append(f"file {number} of {len(paths)} by name {error}")
            continue
        if isinstance(header, Header):
            by_series[header.series].append(header)
        else:
            others += 1
            classes.update([header.sop_class] if header.sop_class else [])
    series = (_series(uid, headers, max_bytes) for uid, headers in by_series.items())
    is_file = isinstance(source, str | Path) and Path(source).is_file()
    listed = tuple(sorted(series, key=lambda s: (s.modality, s.uid)))
    return Folder(listed, others, tuple(unreadable), classes, is_file)


def choose_series(folder: Folder, *, modality: str | None = None, uid: str | None = None) -> Series:
    """Choose one series, or say why not.

    By modality, a series counts if it is neither a localizer nor a single image; of several, those that medfuse did not
    write; of PET series, those with attenuation correction, where there are such. What is still ambiguous is refused.

    Args:
        folder: What `list_series` returned.
        modality: CT, MR or PT; None for any.
        uid: Series Instance UID; it must be of that modality.

    Raises:
        DicomError: If there is none or more than one, or the chosen one is no usable volume. The message lists what
            there is.
    """
    if folder.unreadable:
        raise DicomError(
            f"Every DICOM file must be readable, got {len(folder.unreadable)} which cannot be read: "
            f"{folder.unreadable[0]}; repair or remove them."
        )
    fitting = [s for s in folder.series if modality in (None, s.modality)]
    if uid is not None:
        found = [s for s in fitting if s.uid == uid]
    else:
        found = [s for s in fitting if s.is_volume_like] or fitting
        found = [s for s in found if not s.is_result] or found
        found = [s for s in found if not s.is_uncorrected] or found
    if not found and uid is None:
        why = why_none(folder.classes, modality, is_file=folder.is_file, has_series=bool(folder.series))
        if why:
            raise DicomError(why)
    if len(found) != 1:
        what = f"one {modality or 'image'} series" + ("" if uid is None else " of the given UID")
        listed = "; ".join(s.describe() for s in (found or folder.series)[:_SHOWN]) or "no image series"
        remedy = "choose one by its UID" if found else "check the folder, modality and UID"
        place = "file" if folder.is_file else "folder"
        raise DicomError(f"The {place} must hold {what}, got {len(found)} ({listed}); {remedy}.")
    if found[0].problem:
        raise DicomError(f"{found[0].modality} series {found[0].uid} {found[0].problem}.")
    return found[0]


def require_one_person(sources: Mapping[str, Series]) -> None:
    """Refuse series of two patients. Two studies, or frames of reference, may be of one, and can be registered.

    Args:
        sources: Series, by what a message calls them.

    Raises:
        DicomError: If PatientID differs, or two of name, birth date and sex; where one has no PatientID, one of these.
    """
    for (first, one), (second, other) in combinations(sources.items(), 2):
        if one.person.is_another(other.person):
            raise DicomError(
                f"{first} and {second} must be of one patient, got two by PatientID, or name, birth date and sex; "
                "choose series of one."
            )


def _files(source: str | Path | Sequence[str | Path]) -> Iterator[Path]:
    if not isinstance(source, str | Path):
        for path in source:
            if not Path(path).is_file():
                raise DicomError("Every DICOM file must exist, got none at one of the paths; check them.")
            yield Path(path)
        return
    root = Path(source)
    if root.is_file():
        yield root
        return
    if not root.is_dir():
        raise DicomError(
            "The DICOM folder must exist, got none there; check the path (a NIfTI ends in .nii or .nii.gz)."
        )
    count = 0
    for path in sorted(root.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(root).parts) or not path.is_file():
            continue
        count += 1
        if count > _MAX_FILES:
            raise DicomError(f"A DICOM folder must hold at most {_MAX_FILES} files, got more; choose a part of it.")
        yield path


def _series(uid: str, headers: Sequence[Header], max_bytes: int) -> Series:
    """Check the files of a series, from what concerns them all to what concerns its geometry."""
    headers = sorted(headers, key=lambda h: h.path)
    modality = headers[0].modality
    try:
        frames = split_frames(headers)
        planes, places = _checked(headers, max_bytes * len(frames)), _places(headers)
        stacks = [_frame(places, planes, frame) for frame in frames] if len(frames) > 1 else []
        order, affine = stacks[0] if stacks else _stack(planes, places)
        if any(len(o) != len(order) or np.abs(a - affine).max() > _DRIFT for o, a in stacks):
            raise DicomError("must have one grid in all its time frames, got several; split it")
        doubts = _check_count(headers, order, places)
    except DicomError as error:
        return Series(uid, modality, tuple(headers), problem=str(error))
    orders = tuple(o for o, _ in stacks) or (order,)
    return Series(uid, modality, tuple(headers), order=order, affine=affine, doubts=doubts, frames=orders)


def _frame(places: Sequence[str], planes: Planes, frame: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the order, among all images, and the affine of one time frame."""
    which = np.asarray(frame)
    part = Planes(*(getattr(planes, name)[which] for name in _PLANES))
    order, affine = _stack(part, [places[k] for k in frame])
    return which[order], affine


def _checked(headers: Sequence[Header], max_bytes: int) -> Planes:
    """Return the planes of all files, which must be alike."""
    for number, header in enumerate(headers, start=1):
        if header.problem:
            raise DicomError(
                f"must have sound files, got number {number} of {len(headers)} by name, which {header.problem}"
            )
    if len({h.instance for h in headers}) < len(headers):
        raise DicomError("must have each image once, got two files of one SOP instance; remove the copy")
    alike: dict[str, Callable[[Header], Any]] = {
        "modality": lambda h: h.modality,
        "patient (PatientID)": lambda h: h.person.key,
        "study (StudyInstanceUID)": lambda h: h.study,
        "frame of reference": lambda h: h.frame_of_reference,
        "size of images": lambda h: h.pixels and (h.pixels.rows, h.pixels.columns),
        "kind of pixels": lambda h: h.pixels and (h.pixels.bits_allocated, h.pixels.signed),
    }
    for what, of in alike.items():
        counts = Counter(of(h) for h in headers)
        if len(counts) > 1:
            usual = counts.most_common(1)[0][0]
            other = next(number for number, h in enumerate(headers, start=1) if of(h) != usual)
            raise DicomError(
                f"must have one {what}, got {len(counts)}; split it (file {other} of {len(headers)} by name is another)"
            )
    usual = Counter(h.person for h in headers).most_common(1)[0][0]
    for number, header in enumerate(headers, start=1):
        if header.person.contradicts(usual):
            raise DicomError(
                "must have one patient (PatientName, PatientBirthDate, PatientSex), got two under one PatientID; split "
                f"it (file {number} of {len(headers)} by name is another)"
            )
    if different := mixed(h.contrast for h in headers):
        raise DicomError(f"must be of one contrast, got several values of {different}; split it by them")
    formats = [h.pixels for h in headers if h.pixels is not None]
    total = 4 * sum(_voxels(f) for f in formats)
    if total > max_bytes:
        raise DicomError(f"must decode to at most {max_bytes} bytes, got {total}; crop it or raise max_bytes")
    planes = [h.planes for h in headers if h.planes is not None]
    return Planes(*(np.concatenate([getattr(p, name) for p in planes]) for name in _PLANES))


def _check_count(headers: Sequence[Header], order: np.ndarray, places: Sequence[str]) -> tuple[str, ...]:
    """Hold the slices against Number of Slices (0054,0081) of a PET, or how images are counted; return doubts."""
    require_parts([h.numbering for h in headers])
    named, count = max(h.slices for h in headers), len(order)
    if count < named:
        raise DicomError(f"must have the {named} slices that it names, got {count}; add the missing ones")
    if named and count > named:
        raise DicomError(
            f"must have the {named} slices that it names, got {count}; remove what is of another series, such as the "
            "first or the last"
        )
    if named or count != len(headers):
        return ()
    return check_ends([headers[k].numbering for k in order], [places[k] for k in order])


def _places(headers: Sequence[Header]) -> list[str]:
    """Return where each frame of each file is, for messages."""
    places = []
    for number, header in enumerate(headers, start=1):
        frames = header.pixels.frames if header.pixels else 1
        file = f"file {number} of {len(headers)} by name"
        places += [file] if frames == 1 else [f"frame {k + 1} of {file}" for k in range(frames)]
    return places


def _voxels(pixels: PixelFormat) -> int:
    return pixels.rows * pixels.columns * pixels.frames


def _stack(planes: Planes, places: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the order of the frames along their normal, and the affine of the volume."""
    if len(planes.position) < 2:
        raise DicomError("must have at least 2 slices, got 1; give the folder of its files, or choose another series")
    along_row, along_column = planes.orientation[0, :3], planes.orientation[0, 3:]
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(along_row @ along_column)) > _UNIT:
        raise DicomError("must have two unit vectors at a right angle as orientation, got others; repair its headers")
    if np.abs(planes.orientation - planes.orientation[0]).max() > _UNIT:
        raise DicomError("must have one orientation, got several; split it")
    rows, columns = planes.spacing[0]
    if min(rows, columns) <= 0 or max(rows, columns) > _MAX_SPACING:
        raise DicomError(f"must have pixels of more than 0 mm, got {rows:g} x {columns:g}; repair its headers")
    if not np.allclose(planes.spacing, planes.spacing[0], rtol=1e-4, atol=0):
        raise DicomError("must have one pixel spacing, got several; split it")

    height = planes.position @ np.cross(along_row, along_column)
    order = np.argsort(height, kind="stable")
    _check_steps(np.diff(height[order]), [places[k] for k in order])
    position = planes.position[order]
    step = (position[-1] - position[0]) / (len(order) - 1)
    distance = float(np.linalg.norm(step))
    if max(abs(step @ along_row), abs(step @ along_column)) > _TILT * distance:
        raise DicomError("must be stacked along its normal, got a tilted stack; resample it")
    off = np.linalg.norm(position - (position[0] + np.arange(len(order))[:, None] * step), axis=1)
    if off.max() > max(_DRIFT, _DRIFT * distance):
        raise DicomError(
            f"must have its slices on one line, evenly, got one {off.max():.2f} mm off its place; resample it "
            f"({places[order[int(off.argmax())]]})"
        )
    affine = np.eye(4)
    affine[:3, :] = np.column_stack([along_row * columns, along_column * rows, step, position[0]])
    return order, _LPS_TO_RAS @ affine


def _check_steps(steps: np.ndarray, places: Sequence[str]) -> None:
    """Check the distances of neighbours; places are those of the slices, in order."""
    usual = float(np.median(steps))
    close = np.flatnonzero(steps < (1e-3 if usual < 1e-3 else 0.01 * usual))
    if len(close):
        pair, remedy = f"(first: {places[close[0]]} and {places[close[0] + 1]})", "keep one part of it"
        if places[close[0]].startswith("frame"):  # of one file, from which no part can be taken
            remedy = "convert it to NIfTI with its sidecar (dcm2niix), whose time frames --frames chooses"
        raise DicomError(
            f"must have one image at each place, got {len(close)} at the place of another: copies, or a dynamic, gated "
            f"or multi-echo series; {remedy} {pair}"
        )
    widest = int(steps.argmax())
    if steps[widest] > 1.5 * usual:
        pair = f"({places[widest]} and {places[widest + 1]})"
        gap = f"must have a slice every {usual:.4g} mm, got a gap of {steps[widest]:.4g} mm"
        if widest in (0, len(steps) - 1):
            end = "first" if widest == 0 else "last"
            raise DicomError(f"{gap} at its {end} slice; add the missing slice, or remove the stray {end} one {pair}")
        raise DicomError(f"{gap}; add the missing slice {pair}")
    if np.abs(steps - usual).max() > _STEP * usual:
        raise DicomError(
            f"must have evenly spaced slices, got steps of {steps.min():.4g} to {steps.max():.4g} mm; resample it"
        )
