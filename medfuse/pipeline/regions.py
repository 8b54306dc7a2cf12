"""The regions of a case, from NIfTI, SEG or RTSTRUCT: described, loaded with their names, brought to the reference."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform
from monai.utils import ImageMetaKey
from torch import Tensor

from medfuse.errors import BundleError, DicomError, GeometryError
from medfuse.io import NiftiReader, is_nifti
from medfuse.io.dicom.regions import DrawnRegions, check_regions, read_regions, regions_file
from medfuse.io.labels import label_names, read_labels, region_label
from medfuse.io.modalities import title
from medfuse.pipeline.describe import DescribeSourcesd
from medfuse.pipeline.facts import sha256
from medfuse.pipeline.measured import CODES, EMPTY, KIND, LEFT_OUT, NAMES, OUTSIDE, WORLD, within
from medfuse.transforms import ResampleToReference
from medfuse.transforms.spatial import FRAME_OF_REFERENCE

WANTED = "region_wanted"
"""Entry of the meta data of loaded regions: the label of the reference region."""


class DescribeRegionsd(MapTransform):
    """Check the file of regions of a case, and note its hash, `<key>_sha256`, before anything is read of it.

    NIfTI as `DescribeSourcesd` does; of DICOM the one SEG or RTSTRUCT that the path means takes its place.
    """

    def __init__(self, keys: KeysCollection = "mask", *, strict: bool = False) -> None:
        """Make the transform.

        Args:
            keys: Keys of the paths; a case need not have them.
            strict: Refuse a NIfTI whose sform and qform disagree.
        """
        super().__init__(keys, allow_missing_keys=True)
        self.strict = strict

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the notes.

        Raises:
            MedfuseError: If a file cannot be used.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            path = Path(str(result[key]))
            if is_nifti(path):
                result = dict(DescribeSourcesd(key, strict=self.strict)(result))
                continue
            if not path.exists():
                raise BundleError(f"{key} of case {result.get('case')} must be a file, got none there; check its path.")
            path = regions_file(path)
            check_regions(path)
            result[key], result[f"{key}_sha256"] = str(path), sha256(path)
        return result


class LoadRegionsd(MapTransform):
    """Load the regions of a case as labels **[L, X, Y, Z]**, with their names: L is 1 unless regions overlap.

    A NIfTI and a SEG keep their own grid. Contours come to that of the source in whose frame of reference they were
    drawn, with more voxels at its ends where they leave it. The names are those of `labels` of the case (TSV), else
    those of the DICOM file or of the table beside the NIfTI.
    """

    def __init__(
        self,
        keys: KeysCollection = "mask",
        *,
        reference: str,
        moving: str,
        nonfinite: str = "error",
        strict: bool = False,
        reference_region: str | int | None = None,
    ) -> None:
        """Make the transform.

        Args:
            keys: Keys of the paths; a case need not have them.
            reference: Key of the source whose grid the results get, loaded; a NIfTI lies in its world.
            moving: Key of the other source, loaded.
            nonfinite: NaN and infinity in NIfTI, one of `medfuse.io.NONFINITE`.
            strict: Refuse a NIfTI whose sform and qform disagree.
            reference_region: Label or name of a region that must be there, for SUVR.
        """
        super().__init__(keys, allow_missing_keys=True)
        self.reference, self.moving, self.reference_region = reference, moving, reference_region
        options: dict[str, Any] = {"nonfinite": nonfinite, "strict": strict}
        self.load = LoadImage(
            reader=NiftiReader(allow_constant=True, labels=True, **options), ensure_channel_first=True, image_only=True
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load each key.

        Raises:
            MedfuseError: If the regions cannot be used, belong to neither source, or the reference region is not
                among them in the field of view.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            path, codes, drawn = Path(str(result[key])), {}, None
            if is_nifti(path):
                labels: Any = self.load(result[key])
                names, kind, world = label_names(path), "NIfTI", self.reference
            else:
                drawn = read_regions(path)
                names, kind, world = dict(drawn.names), drawn.kind, self._world(result, drawn.frame_of_reference)
                labels, codes = _volume(drawn, result[world]), dict(drawn.codes)
            if result.get("labels") is not None:
                names = read_labels(Path(str(result["labels"])))
            found = [int(v) for v in torch.unique(labels.as_tensor().round()).tolist() if v > 0]
            if self.reference_region is not None:
                wanted = region_label(self.reference_region, found, names)
                labels.meta[WANTED] = wanted
                if world == self.reference:
                    _require_seen(wanted, labels, result[world], world)
            if drawn is not None:
                empty = [names.get(label, name) for label, name in drawn.names.items() if label not in found]
                labels.meta |= {EMPTY: json.dumps(empty), LEFT_OUT: json.dumps(drawn.left_out)}
            labels.meta |= {
                ImageMetaKey.FILENAME_OR_OBJ: str(path),
                NAMES: json.dumps({label: names[label] for label in found if label in names}),
                CODES: json.dumps({label: codes[label] for label in found if label in codes}),
                KIND: kind,
                WORLD: world,
            }
            result[key] = labels
        if self.reference_region is not None and not any(key in result for key in self.keys):
            raise BundleError(
                "A reference region must come with regions (--mask or --atlas), got none of case "
                f"{result.get('case')}; add them, or leave it out."
            )
        return result

    def _world(self, data: Mapping[Hashable, Any], frame: str) -> str:
        """Return the key of the source in whose world regions of a frame of reference lie.

        Raises:
            DicomError: There is none.
        """
        own = {key: data[key].meta.get(FRAME_OF_REFERENCE) for key in (self.reference, self.moving)}
        same = [key for key, uid in own.items() if uid and uid == frame]
        unknown = [key for key, uid in own.items() if not uid]  # a NIfTI, which may have been made of it
        if not (same or unknown):
            both = " or ".join(title(key) for key in own)
            raise DicomError(
                f"Regions must be drawn in the frame of reference of the {both}, got another; give those of these "
                "series."
            )
        return (same or unknown)[0]


class PlaceRegionsd(MapTransform):
    """Bring regions to the reference's grid, nearest neighbour; those of the other source move with its registration.

    It stands between registration and resampling.
    """

    def __init__(self, keys: KeysCollection = "mask", *, reference: str, moving: str) -> None:
        """Make the transform.

        Args:
            keys: Keys of loaded regions; a case need not have them.
            reference: Key of the source whose grid they get.
            moving: Key of the source that was registered; `<moving>_before` is it as it lay.
        """
        super().__init__(keys, allow_missing_keys=True)
        self.reference, self.moving = reference, moving
        self.resample = ResampleToReference(mode="nearest")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Place each key.

        Raises:
            GeometryError: If it does not overlap the reference.
            BundleError: If the reference region is beyond one of the sources.
        """
        result = dict(data)
        before = result.get(f"{self.moving}_before")
        for key in self.key_iterator(result):
            labels = result[key]
            if labels.meta.get(WORLD) == self.moving and before is not None:
                there, lay = (np.asarray(image.affine, dtype=np.float64) for image in (result[self.moving], before))
                labels = labels.clone()
                labels.affine = torch.as_tensor(there @ np.linalg.inv(lay) @ np.asarray(labels.affine, np.float64))
            wanted = int(labels.meta.get(WANTED, 0))
            if wanted and labels.meta.get(WORLD) == self.moving:  # of the reference it is known since it was loaded
                _require_seen(wanted, labels, result[self.reference], self.reference)
            try:
                placed = self.resample(labels, result[self.reference])
            except GeometryError:
                raise GeometryError(
                    f"Regions must overlap the {title(self.reference)}, got none that does in the field of view of "
                    f"theirs; check that {key} was drawn in the world of this {title(self.reference)}."
                ) from None
            if wanted:
                _require_seen(wanted, placed, result[self.moving], self.moving)
            placed.meta[OUTSIDE] = json.dumps(_outside(labels, placed))
            result[key] = placed
        return result


def _outside(labels: MetaTensor, placed: MetaTensor) -> dict[int, float]:
    """Return which share of each label lies outside of the grid to which it was brought; 1 of those that are gone."""
    marks, beyond = labels.as_tensor().round(), _seen(labels, placed, beyond=True).round()
    cut = {int(v): float((beyond == v).sum() / (marks == v).sum()) for v in torch.unique(beyond) if v > 0}
    gone = set(torch.unique(marks).tolist()) - set(torch.unique(placed.as_tensor().round()).tolist()) - {0.0}
    return dict(sorted((cut | {int(v): 1.0 for v in gone}).items()))


def _require_seen(wanted: int, labels: MetaTensor, image: MetaTensor, key: str) -> None:
    """Refuse a reference region that is not in the field of view of a source.

    Raises:
        BundleError: It is not.
    """
    if not (_seen(labels, image).round() == wanted).any():
        raise BundleError(
            f"The reference region must lie in the field of view of the {title(key)}, got label {wanted} beyond it; "
            "name another, or give an image that holds it."
        )


def _seen(labels: MetaTensor, image: MetaTensor, *, beyond: bool = False) -> Tensor:
    """Return the labels **[L, N]** of the voxels in the field of view of an image, or of those beyond it."""
    own, grid = (np.asarray(volume.affine, dtype=np.float64) for volume in (labels, image))
    inside = within(np.linalg.solve(grid, own), image.shape[1:], labels.shape[1:])
    return labels.as_tensor()[:, torch.from_numpy(inside != beyond)]


def _volume(drawn: DrawnRegions, image: MetaTensor) -> MetaTensor:
    """Return drawn regions as labels **[L, X, Y, Z]**: a segmentation on its grid, contours on that about an image."""
    if drawn.volume is not None and drawn.affine is not None:
        return MetaTensor(torch.from_numpy(drawn.volume), affine=torch.from_numpy(drawn.affine))
    affine, shape = drawn.around(np.asarray(image.affine, dtype=np.float64), image.shape[1:])
    return MetaTensor(torch.from_numpy(drawn.on(affine, shape)), affine=torch.from_numpy(affine))


DescribeRegionsD = DescribeRegionsDict = DescribeRegionsd
LoadRegionsD = LoadRegionsDict = LoadRegionsd
PlaceRegionsD = PlaceRegionsDict = PlaceRegionsd
