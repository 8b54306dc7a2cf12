"""Regions that were drawn in DICOM: a segmentation (SEG), or the contours of a structure set (RTSTRUCT).

Both say in which frame of reference they lie. A segmentation has a grid of its own; contours have none, and are brought
to voxels on any, by the centre of each voxel: a polygon counts where the number of polygons around the centre is odd
(C.8.8.6), so that a hole is a polygon in another, and a plane reaches half way to the next. A plane
without a neighbour is as thick as a voxel of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from matplotlib.path import Path as Polygon
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from medfuse.errors import DicomError, MedfuseError
from medfuse.io.dicom.coded import Codes, codes_of, codes_of_structure
from medfuse.io.dicom.header import quiet
from medfuse.io.texts import region_name

SEGMENTATION, STRUCTURES = "SEG", "RTSTRUCT"
_CLASSES = {
    uid.SegmentationStorage: SEGMENTATION,
    uid.UID("1.2.840.10008.5.1.4.1.1.66.7"): SEGMENTATION,  # Label Map Segmentation
    uid.RTStructureSetStorage: STRUCTURES,
}
_MAX_BYTES = 512 << 20
_MAX_VOXELS = 1 << 29  # of all frames of a segmentation
_MOST = 1000  # regions
_LAYERS = 32  # volumes that regions which overlap may need
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
_THICKEST = 6.0  # mm between neighbouring planes; those that lie farther apart, and than two voxels, are no neighbours
_FLAT = 0.05  # mm, by which points of a contour may leave its plane, and contours of one plane lie apart


@dataclass(frozen=True, eq=False)
class Region:
    """One region of a structure set.

    Attributes:
        label: Its number.
        contours: Closed polygons, points **[N, 3]** in RAS mm each.
    """

    label: int
    contours: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class DrawnRegions:
    """What a file says of regions.

    Attributes:
        kind: `SEG` or `RTSTRUCT`.
        frame_of_reference: UID of the frame of reference in which they lie.
        names: Of the regions, by label.
        volume: Of a segmentation its labels **[L, X, Y, Z]**, overlapping regions in layers of their own; else None.
        affine: **[4, 4]** of that volume, voxel index to RAS mm; else None.
        regions: Of a structure set its contours.
        left_out: Names of structures that enclose no volume, such as points.
        codes: What each label is, as far as the file says it, see `medfuse.io.dicom.coded`.
    """

    kind: str
    frame_of_reference: str
    names: Mapping[int, str]
    volume: np.ndarray | None = None
    affine: np.ndarray | None = None
    regions: tuple[Region, ...] = ()
    left_out: tuple[str, ...] = ()
    codes: Mapping[int, Codes] = field(default_factory=dict)

    def on(self, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Return contours as labels **[L, X, Y, Z]** on a grid, overlapping regions in layers of their own.

        Raises:
            DicomError: If no voxel of the grid lies in a region, or too many regions overlap.
        """
        return _layered(
            ((region.label, _inside(region.contours, affine, shape)) for region in self.regions), tuple(shape)
        )

    def around(self, affine: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, tuple[int, int, int]]:
        """Return a grid with whole voxels more at its ends where contours leave it, at most a quarter of it each.

        What of a region lies outside of the grid is counted there.
        """
        points = np.concatenate([points for region in self.regions for points in region.contours])
        index = (points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        most = np.array(shape) // 4
        low = np.clip(np.ceil(-index.min(0)), 0, most).astype(int)
        high = np.clip(np.ceil(index.max(0)) + 1 - np.array(shape), 0, most).astype(int)
        larger = affine.copy()
        larger[:3, 3] -= affine[:3, :3] @ low
        first, second, third = (int(n) for n in np.array(shape) + low + high)
        return larger, (first, second, third)


def regions_file(path: Path) -> Path:
    """Return the file of regions that a path means: itself, or the only one in a folder.

    Raises:
        DicomError: If there is none, or several.
    """
    if not path.is_dir():
        return path
    found = regions_in(path)
    if len(found) != 1:
        raise DicomError(
            f"A folder of regions must hold one SEG or RTSTRUCT, got {len(found)}; name the file that is meant."
        )
    return found[0]


def regions_in(folder: Path) -> list[Path]:
    """Return the files of regions in a folder and all folders in it, by name."""
    return [file for file in sorted(folder.rglob("*")) if file.is_file() and _kind_of(file) is not None]


def check_regions(path: Path) -> str:
    """Return whether a file is a `SEG` or an `RTSTRUCT`, from its file meta information alone.

    Raises:
        DicomError: If it is neither, or too large, or deflated.
    """
    kind = _kind_of(path)
    if kind is None:
        raise DicomError("Regions must be a NIfTI with labels, or DICOM SEG or RTSTRUCT, got another file; convert it.")
    if path.stat().st_size > _MAX_BYTES:
        raise DicomError(f"A file of regions must have at most {_MAX_BYTES >> 20} MiB, got more; split it.")
    with quiet():
        syntax = pydicom.filereader.read_file_meta_info(path).get("TransferSyntaxUID")
    if syntax == uid.DeflatedExplicitVRLittleEndian:  # what it unpacks to is known when it is too late
        raise DicomError("A file of regions must not be deflated, got one that is; store it uncompressed.")
    return kind


def read_regions(path: Path) -> DrawnRegions:
    """Read a SEG or an RTSTRUCT.

    Raises:
        DicomError: If it is neither, or cannot be used.
    """
    kind = check_regions(path)
    try:
        with quiet():
            return _segmentation(path) if kind == SEGMENTATION else _structures(path)
    except MedfuseError:
        raise
    except MemoryError as error:
        raise DicomError(f"The {kind} must fit into memory, got a larger one; crop it.") from error
    except Exception as error:  # whatever a library makes of a broken file; its words may hold what it read
        raise DicomError(
            f"The {kind} must be readable, got a broken one ({type(error).__name__}); export it again."
        ) from None


def _kind_of(path: Path) -> str | None:
    try:
        with quiet():
            meta = pydicom.filereader.read_file_meta_info(path)
    except (OSError, ValueError, AttributeError, TypeError, NotImplementedError, pydicom.errors.InvalidDicomError):
        return None
    return _CLASSES.get(uid.UID(str(meta.get("MediaStorageSOPClassUID", ""))))


def _segmentation(path: Path) -> DrawnRegions:
    import highdicom  # half a second of imports, which not every case needs

    head = pydicom.dcmread(path, stop_before_pixels=True)
    frames, rows, columns = (int(head[k].value) for k in ("NumberOfFrames", "Rows", "Columns"))
    if frames * rows * columns > _MAX_VOXELS:
        raise DicomError(f"A SEG must have at most {_MAX_VOXELS} voxels in all frames, got more; crop it.")
    read = highdicom.seg.segread(path)
    numbers = [int(n) for n in read.segment_numbers if n > 0]
    _check_labels(numbers)
    described = {n: read.get_segment_description(n) for n in numbers}
    names = {n: _name(segment.segment_label, n) for n, segment in described.items()}
    codes = {n: found for n, segment in described.items() if (found := codes_of(segment))}
    first = read.get_volume(segment_numbers=[numbers[0]])
    shape = tuple(int(n) for n in first.spatial_shape)
    if len(numbers) * float(np.prod(shape)) > 8 * _MAX_VOXELS:
        raise DicomError("A SEG must have fewer segments for its size, got too many; split it.")

    def masks() -> Iterator[tuple[int, np.ndarray]]:
        for number in numbers:
            part = read.get_volume(segment_numbers=[number])
            if part.spatial_shape != first.spatial_shape or not np.allclose(part.affine, first.affine):
                raise DicomError("The segments of a SEG must be on one grid, got several; resample them.")
            yield number, np.asarray(part.array).reshape(shape) >= 0.5

    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(first.affine, dtype=np.float64)
    volume = _layered(masks(), shape)
    frame = str(read.get("FrameOfReferenceUID", ""))
    return DrawnRegions(SEGMENTATION, frame, names, volume, affine, codes=codes)


def _structures(path: Path) -> DrawnRegions:
    data = pydicom.dcmread(path)
    drawn = {int(item.ReferencedROINumber): item for item in data.get("ROIContourSequence", [])}
    listed = list(data.get("StructureSetROISequence", []))
    numbers = [int(item.ROINumber) for item in listed]
    if len(set(numbers)) < len(numbers):  # contours could be of either (C.8.8.5)
        raise DicomError("The structures of an RTSTRUCT must have a number each, got one twice; export it again.")
    own = all(0 < n < 1 << 20 for n in numbers)
    observed = list(data.get("RTROIObservationsSequence") or [])
    regions, names, codes, left_out, frames = [], {}, {}, [], set()
    for order, (number, item) in enumerate(zip(numbers, listed, strict=True), 1):
        label = number if own else order
        name = _name(item.get("ROIName", ""), label)
        contours = tuple(_contours(drawn[number])) if number in drawn else ()
        if not contours:
            left_out.append(name)
            continue
        regions.append(Region(label, contours))
        names[label] = name
        codes[label] = codes_of_structure(o for o in observed if o.get("ReferencedROINumber") == number)
        frames.add(str(item.get("ReferencedFrameOfReferenceUID", "")))
    _check_labels(names)
    if len(frames) > 1:
        raise DicomError(
            f"The structures of an RTSTRUCT must lie in one frame of reference, got {len(frames)}; split it."
        )
    codes = {label: said for label, said in codes.items() if said}
    return DrawnRegions(STRUCTURES, frames.pop(), names, regions=tuple(regions), left_out=tuple(left_out), codes=codes)


def _check_labels(labels: Sequence[int] | Mapping[int, str]) -> None:
    if not 0 < len(labels) <= _MOST:
        raise DicomError(
            f"A file of regions must hold 1 to {_MOST} of them, got {len(labels)}; draw some, or split it."
        )


def _name(value: Any, label: int) -> str:
    """Return a name that may stand on a page; a backslash in it parts a value in two (PS3.5 6.2)."""
    text = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
    return region_name(text) or f"region {label}"


def _contours(item: Dataset) -> Iterator[np.ndarray]:
    """Give the closed planar contours of a region, **[N, 3]** in RAS mm; one that is there twice counts once."""
    seen: set[bytes] = set()
    for contour in item.get("ContourSequence", []):
        kind = str(contour.get("ContourGeometricType", ""))
        if not kind.startswith("CLOSED"):
            continue
        points = np.array(contour.ContourData, dtype=np.float64)
        if points.size % 3 or not np.isfinite(points).all():
            raise DicomError("A contour must have finite points of three numbers, got another; export it again.")
        again = kind == "CLOSED_PLANAR" and points.tobytes() in seen  # by exclusive or, two of them are nothing
        seen.add(points.tobytes())
        if points.size >= 9 and not again:
            yield points.reshape(-1, 3) @ _LPS_TO_RAS


def _inside(contours: Sequence[np.ndarray], affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Tell which voxels of a grid have their centre in a region."""
    across, right, up = _axes(max(contours, key=_area))
    depths, flat = np.array([float((points @ across).mean()) for points in contours]), []
    for points in contours:
        if np.ptp(points @ across) > _FLAT + 1e-3 * np.ptp(points, axis=0).max():
            raise DicomError("The contours of a region must lie in parallel planes, got others; draw it anew.")
        flat.append(np.stack([points @ right, points @ up], 1))
    order = np.argsort(depths, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(depths[order]) > _FLAT) + 1)  # contours of one plane each
    places = np.array([depths[part].mean() for part in parts])
    voxel = float(np.linalg.norm(affine[:3, :3].T @ across))  # one voxel of the grid, where a plane stands alone
    gaps = np.diff(places)
    near_ones = gaps[gaps <= max(2 * voxel, _THICKEST)]
    step = float(np.median(near_ones)) if len(near_ones) else voxel
    found = np.zeros(tuple(shape), bool)
    box = _box(contours, affine, shape, step)
    index = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), -1)
    centres = index @ affine[:3, :3].T + affine[:3, 3]
    depth, x, y = centres @ across, centres @ right, centres @ up
    nearest = np.searchsorted((places[1:] + places[:-1]) / 2, depth)
    near = np.abs(depth - places[nearest]) <= 0.5 * step * (1 + 1e-6)
    own = found[box]
    for k, part in enumerate(parts):
        here = near & (nearest == k)
        points = np.stack([x[here], y[here]], 1)
        odd = np.zeros(len(points), bool)
        for polygon in (flat[number] for number in part):
            odd ^= Polygon(np.vstack([polygon, polygon[:1]])).contains_points(points)
        own[here] = odd
    return found


def _axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return three unit vectors: across the plane of a contour, and two in it."""
    _, _, axes = np.linalg.svd(points - points.mean(0), full_matrices=False)
    return axes[2], axes[0], axes[1]


def _area(points: np.ndarray) -> float:
    """Return the area of a polygon in space."""
    centred = points - points.mean(0)
    return float(np.linalg.norm(np.cross(centred, np.roll(centred, -1, 0)).sum(0)) / 2)


def _box(
    contours: Sequence[np.ndarray], affine: np.ndarray, shape: Sequence[int], step: float
) -> tuple[slice, slice, slice]:
    """Return the part of a grid in which contours lie, with half a plane beyond."""
    index = (np.concatenate(contours) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    margin = np.ceil(0.5 * step * np.abs(np.linalg.inv(affine[:3, :3])).sum(1)) + 1
    low = np.clip(np.floor(index.min(0) - margin), 0, shape).astype(int)
    high = np.clip(np.ceil(index.max(0) + margin) + 1, 0, shape).astype(int)
    first, second, third = (slice(int(a), int(max(a, b))) for a, b in zip(low, high, strict=True))
    return first, second, third


def _layered(masks: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return labels **[L, X, Y, Z]**: each region in the first layer in which it overlaps no other."""
    layers: list[np.ndarray] = []
    found = False
    for label, mask in masks:
        if not mask.any():
            continue
        found = True
        free = next((layer for layer in layers if not layer[mask].any()), None)
        if free is None:
            if len(layers) == _LAYERS:
                raise DicomError(f"At most {_LAYERS} regions may overlap in one place, got more; leave some out.")
            free = np.zeros(shape, np.float32)
            layers.append(free)
        free[mask] = label
    if not found:
        raise DicomError("The regions must lie in the images, got none that does; check that they belong together.")
    return np.stack(layers)
