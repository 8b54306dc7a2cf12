"""Pairs of images for training and validation, both on one grid, kept in memory.

`slice_pairs` reads MRI with a functional image, `image_pairs` visible with infrared, split by subject; `RandomPatches`
draws augmented patches of them for training.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import PILReader
from nibabel.affines import voxel_sizes
from numpy.random import Generator
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from medfuse.errors import BundleError, ImageError
from medfuse.fusion.color import rgb_to_ycbcr
from medfuse.training.phantoms import insert_lesions, load_atlas, random_phantoms

# Share of each kind among training patches; the shares of absent kinds go to the others.
KIND_WEIGHTS = {"pet": 0.20, "spect": 0.22, "ct": 0.13, "sts": 0.15, "phantom": 0.30}
# The same for visible and infrared images, by set; `chroma` are pairs to restore, for one network restores colour too.
IMAGE_KIND_WEIGHTS = {"roadscene": 0.65, "msrs": 0.2, "chroma": 0.15}
# Patients kept out of training: they are the demo case and the DICOM case.
STS_HELD_OUT = frozenset({"STS_002", "STS_008"})

_MIN_SIDE, _MAX_SIDE = 96, 256
_STS_ISOTROPIC_MM = 1.25
_COLOURLESS = 0.01  # standard deviation of chroma


@dataclass(frozen=True)
class SlicePair:
    """One slice or image of a subject, both sources on one grid.

    Attributes:
        source1: MRI, or luma of the visible image, shape `[H, W]`; uint8 counts 0..255 or float16 0..1.
        source2: Functional image (uptake or CT), or infrared, of the same shape.
        name: Unique name of the pair.
        subject: Subject; a subject is in one split only.
        kind: A key of `KIND_WEIGHTS` or `IMAGE_KIND_WEIGHTS`, or another set of images.
    """

    source1: np.ndarray
    source2: np.ndarray
    name: str
    subject: str
    kind: str


class SlicePairs(Dataset[dict[str, Any]]):
    """Whole pairs, as dictionaries of `source1` and `source2` (float32, `[1, H, W]`, 0..1), name, subject and kind.

    Args:
        pairs: The pairs, at least one.

    Raises:
        BundleError: There is no pair.
    """

    def __init__(self, pairs: Sequence[SlicePair]) -> None:
        if not pairs:
            raise BundleError("The slice pairs must be at least one, got none; check the data folder and the kinds.")
        self.pairs = tuple(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the pair as a dictionary; `image` holds both sources, `[2, H, W]`."""
        pair = self.pairs[index]
        image = torch.from_numpy(np.stack([_unit(pair.source1), _unit(pair.source2)]))
        return {
            "image": image,
            "source1": image[:1],
            "source2": image[1:],
            "name": pair.name,
            "subject": pair.subject,
            "kind": pair.kind,
        }

    @property
    def subjects(self) -> frozenset[str]:
        """Subjects that occur."""
        return frozenset(pair.subject for pair in self.pairs)


class RandomPatches(Dataset[dict[str, Tensor]]):
    """Random, augmented patches of slice pairs; patch k depends on `(seed, k)` only.

    Each patch: a kind by its weight, a slice of that kind, a crop (zeros beyond small slices), shrunk, flips and a
    transposition, lesions, a gain per source and a gamma for source 1, none of the three for chroma, which is grey at
    0.5; values stay in 0..1 without clipping. Nine of ten crops that show next to nothing are drawn again.
    Draw in order and without shuffling: let `length` cover the whole training and give the trainer an `epoch_length`.
    A training that is resumed sets `start` to the first patch that it has not seen; items are counted from there.

    Args:
        pairs: Whole slices to cut from.
        size: Side of the square patches, px, a multiple of 16 or what the network needs.
        length: Number of patches.
        seed: Seed; another seed gives other patches.
        weights: Weight of each kind; `KIND_WEIGHTS` if none are given.
        gain: Range of the factor on each source.
        gamma: Range of the exponent on source 1.
        shrink: Range of the factor, 1 or more, by which a crop is shrunk: photographs get sharper, and their noise and
            JPEG blocks fainter.
        lesions: Probability that 1 to 12 lesions are inserted, each into one source alone.

    Raises:
        BundleError: No kind among the pairs has a weight above 0.
        ImageError: The size, the length or a factor to shrink by is below 1.
    """

    def __init__(
        self,
        pairs: SlicePairs,
        *,
        size: int = 128,
        length: int = 1_000_000,
        seed: int = 0,
        weights: dict[str, float] | None = None,
        gain: tuple[float, float] = (0.7, 1.1),
        gamma: tuple[float, float] = (0.8, 1.25),
        shrink: tuple[float, float] = (1.0, 1.0),
        lesions: float = 0.0,
    ) -> None:
        if size < 1 or length < 1:
            raise ImageError(f"The patch size and length must be at least 1, got {size} and {length}; raise them.")
        if not 1 <= shrink[0] <= shrink[1]:
            raise ImageError(f"shrink must be two rising numbers of at least 1, got {tuple(shrink)}; change it.")
        weights = KIND_WEIGHTS if weights is None else weights
        kinds = sorted({pair.kind for pair in pairs.pairs if weights.get(pair.kind, 0) > 0})
        if not kinds:
            raise BundleError("The weights must favour a kind of the pairs, got none above 0; name one of their kinds.")
        shares = np.array([weights[kind] for kind in kinds])
        self.pairs = pairs
        self.size, self.length, self.seed, self.gain, self.gamma = size, length, seed, gain, gamma
        self.shrink, self.lesions, self.start = shrink, lesions, 0
        self._members = [np.flatnonzero([pair.kind == kind for pair in pairs.pairs]) for kind in kinds]
        self._cumulative = np.cumsum(shares / shares.sum())

    def __len__(self) -> int:
        return max(self.length - self.start, 0)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return patch `start + index`: `{"image": [2, size, size]}`, float32, channels (source 1, source 2), 0..1."""
        if not 0 <= index < len(self):
            raise IndexError(f"The index must be in 0..{len(self) - 1}, got {index}; keep to the length.")
        rng = np.random.default_rng((self.seed, self.start + index))
        image, kind = self._crop(rng)
        for axis in (1, 2):
            if rng.random() < 0.5:
                image = np.flip(image, axis)
        if rng.random() < 0.5:
            image = image.transpose(0, 2, 1)
        image = np.ascontiguousarray(image)
        if kind != "chroma":
            if self.lesions and rng.random() < self.lesions:
                insert_lesions(image[0], image[1], int(rng.integers(1, 13)), rng)
            np.power(image[0], rng.uniform(*self.gamma), out=image[0])
            for source in image:
                source *= min(rng.uniform(*self.gain), 1 / max(float(source.max()), 1e-3))
        return {"image": torch.from_numpy(image)}

    def _crop(self, rng: Generator) -> tuple[np.ndarray, str]:
        """Draw a crop `[2, size, size]` and its kind; nine of ten that show next to nothing are drawn again."""
        for _ in range(20):
            members = self._members[int(np.searchsorted(self._cumulative[:-1], rng.random(), side="right"))]
            pair = self.pairs.pairs[members[rng.integers(len(members))]]
            factor = rng.uniform(*self.shrink) if self.shrink[1] > 1 else 1.0
            size = round(self.size * min(factor, max(min(pair.source1.shape) / self.size, 1.0)))
            source, target = zip(*(_place(n, size, rng) for n in pair.source1.shape), strict=True)
            sources = pair.source1[source], pair.source2[source]
            dull = all(map(_colourless, sources)) if pair.kind == "chroma" else any(map(_nearly_empty, sources))
            if not dull or rng.random() < 0.1:
                break
        image = np.zeros((2, size, size), np.float32)
        image[0][target], image[1][target] = map(_unit, sources)
        return image if size == self.size else np.stack([_shrink(source, self.size) for source in image]), pair.kind


def slice_pairs(
    dataset_dir: str | Path,
    *,
    split: str = "train",
    kinds: Sequence[str] | None = None,
    seed: int = 0,
    phantoms: int = 400,
) -> SlicePairs:
    """Load the slice pairs of a split; no subject is in both splits.

    Args:
        dataset_dir: Folder with `harvard/splits.tsv` and its image folders, `volumes/sts/*` and `volumes/mni152`.
        split: `train` or `dev`.
        kinds: Kinds to load, of `pet`, `spect`, `ct`, `sts`, `phantom`. If none are given: all for `train`, and
            the first three (whole slices of one size, 256 x 256) for `dev`. Phantoms are of `train` only.
        seed: Seed of the phantoms.
        phantoms: Number of phantom slices.

    Returns:
        The pairs, in a fixed order, each of 96 to 256 px a side.

    Raises:
        BundleError: The split or a kind is unknown, or a file is missing.
        ImageError: A pair does not fit together.
    """
    if split not in ("train", "dev"):
        raise BundleError(f"The split must be train or dev, got {split!r}; choose one of them.")
    if kinds is None:
        kinds = tuple(KIND_WEIGHTS) if split == "train" else ("pet", "spect", "ct")
    if unknown := set(kinds) - set(KIND_WEIGHTS):
        raise BundleError(f"The kinds must be among {', '.join(KIND_WEIGHTS)}, got {', '.join(unknown)}; drop it.")
    root = Path(dataset_dir)
    pairs: list[SlicePair] = []
    for kind in kinds:
        if kind in _HARVARD:
            pairs += _harvard_pairs(root / "harvard", kind, split)
        elif kind == "sts":
            pairs += _sts_pairs(root / "volumes" / "sts", split)
        elif split == "train" and phantoms > 0:
            pairs += _phantom_pairs(root / "volumes" / "mni152", phantoms, seed)
    return SlicePairs(pairs)


def image_pairs(dataset_dir: str | Path, *, split: str = "train", side: int | None = None) -> SlicePairs:
    """Load the visible and infrared images of a split: luma and infrared, and for training the chroma.

    Chroma is a pair of its own kind, Cb and Cr shifted by 0.5, to train the restoration of colour; of grey images there
    is none.

    Args:
        dataset_dir: Folder with `irvis/splits.tsv` (set, stem, ir, vis, split; paths relative to it).
        split: `train` or `dev`.
        side: Crop the middle of each image to at most this many px a side; whole images where None.

    Returns:
        The pairs, in the order of the table; the kind is the set.

    Raises:
        BundleError: The split is unknown, or the table or a file is missing.
        ImageError: A pair does not fit together.
    """
    if split not in ("train", "dev"):
        raise BundleError(f"The split must be train or dev, got {split!r}; choose one of them.")
    table = Path(dataset_dir) / "irvis" / "splits.tsv"
    if not table.is_file():
        raise BundleError(f"The data folder must hold irvis/{table.name}, got none; give the folder above irvis.")
    with table.open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["split"] == split]
    pairs: list[SlicePair] = []
    for row in rows:
        name = f"{row['set']}_{row['stem']}"
        rgb, thermal = (read_pixels(mode, table.parent / row[k]) for mode, k in (("RGB", "vis"), ("L", "ir")))
        _require_one_size(name, rgb.shape[:2], thermal.shape)
        luma, *chroma = np.moveaxis(rgb_to_ycbcr(rgb / 255) + np.array([0, 0.5, 0.5]), -1, 0).astype(np.float16)
        luma, thermal, cb, cr = (_middle(image, side or max(luma.shape)) for image in (luma, thermal, *chroma))
        pairs.append(SlicePair(luma, thermal, name, name, row["set"]))
        if split == "train" and not (_colourless(cb) and _colourless(cr)):
            pairs.append(SlicePair(cb, cr, f"{name}_chroma", name, "chroma"))
    return SlicePairs(pairs)


# Folder of a modality, and of its scalar functional images: uptake recovered from colour tables, never the colours.
_HARVARD = {"pet": ("pet_mri", "pet_index"), "spect": ("spect_mri", "spect_index"), "ct": ("ct_mri", "ct")}


def _harvard_pairs(folder: Path, kind: str, split: str) -> Iterator[SlicePair]:
    """Read 8-bit slices by the table of splits; sets without scalar uptake are left out."""
    table = folder / "splits.tsv"
    if not table.is_file():
        raise BundleError(f"The data folder must hold harvard/{table.name}, got none; give the folder above harvard.")
    with table.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    subjects = {part: {row["subject"] for row in rows if row["split"] == part} for part in ("train", "dev")}
    if both := subjects["train"] & subjects["dev"]:
        raise BundleError(f"A subject must be in one split of {table.name}, got {len(both)} in both; mend the table.")
    modality, uptake = _HARVARD[kind]
    for row in rows:
        base = folder / modality / row["set"]
        if row["modality"] != kind or row["split"] != split or not (base / uptake).is_dir():
            continue
        mri, function = (read_pixels("L", base / name / f"{row['stem']}.png") for name in ("mri", uptake))
        if split == "dev" or not (_nearly_empty(mri) or _nearly_empty(function, 0.02)):
            name = f"{kind}_{row['set']}_{row['stem']}"
            yield _pair(mri, function, name=name, subject=row["subject"], kind=kind)


def _sts_pairs(folder: Path, split: str) -> Iterator[SlicePair]:
    """Cut the sarcoma patients' volumes: every native axial slice, and isotropic cuts along the two other axes."""
    cases = sorted(folder.glob("STS_*"))
    if not cases:
        raise BundleError("The data folder must hold volumes/sts/STS_*, got none; leave out the kind sts or add them.")
    for case in cases:
        if (case.name in STS_HELD_OUT) != (split == "dev"):
            continue
        mri_image, pet_image = (_load_nifti(case / f"{name}_image.nii.gz") for name in ("MR_T1", "PET"))
        mri, pet = (np.asarray(image.dataobj, dtype=np.float32) for image in (mri_image, pet_image))
        pet = _resample(pet, np.linalg.inv(pet_image.affine) @ mri_image.affine, mri.shape)
        mri = np.clip(mri / np.percentile(mri, 99.9), 0, 1)
        pet = np.clip(pet / min(pet.max(), 2 * np.percentile(pet, 99.9)), 0, 1)
        yield from _cuts(mri, pet, axis=2, step=1, name=case.name)
        zoom = voxel_sizes(mri_image.affine) / _STS_ISOTROPIC_MM
        mri, pet = (np.clip(ndimage.zoom(volume, zoom, order=3), 0, 1) for volume in (mri, pet))
        for axis in (0, 1):
            yield from _cuts(mri, pet, axis=axis, step=2, name=case.name)


def _cuts(mri: np.ndarray, pet: np.ndarray, *, axis: int, step: int, name: str) -> Iterator[SlicePair]:
    """Yield every `step`-th slice along an axis that is not nearly empty."""
    for k in range(step // 2, mri.shape[axis], step):
        first, second = (np.ascontiguousarray(v.take(k, axis).T.astype(np.float16)) for v in (mri, pet))
        if not (_nearly_empty(first) or _nearly_empty(second, 0.05)):
            yield _pair(first, second, name=f"{name}_{'xyz'[axis]}{k:03d}", subject=name, kind="sts")


def _phantom_pairs(folder: Path, count: int, seed: int) -> Iterator[SlicePair]:
    """Draw phantom slices of the template, scaled to a maximum of 1."""
    for k, phantom in enumerate(random_phantoms(load_atlas(folder), count, seed=seed)):
        mri, pet = ((image / image.max()).astype(np.float16) for image in (phantom.mri, phantom.pet))
        yield _pair(mri, pet, name=f"phantom_{k:04d}", subject="mni152", kind="phantom")


def _pair(mri: np.ndarray, function: np.ndarray, *, name: str, subject: str, kind: str) -> SlicePair:
    """Build a pair whose sides are 96 to 256 px: pad with zeros, crop the middle."""
    _require_one_size(name, mri.shape, function.shape)
    return SlicePair(_fit(mri), _fit(function), name, subject, kind)


def _fit(image: np.ndarray) -> np.ndarray:
    short = [max(_MIN_SIDE - n, 0) for n in image.shape]
    return _middle(np.pad(image, [(n // 2, n - n // 2) for n in short]), _MAX_SIDE)


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    """Crop the middle to at most `side` px a side."""
    start = [max(n - side, 0) // 2 for n in image.shape]
    return image[tuple(slice(s, s + side) for s in start)]


def _place(side: int, size: int, rng: Generator) -> tuple[slice, slice]:
    """Random place of a patch along an axis of `side` px: slices of the source and of the patch."""
    offset = int(rng.integers(abs(side - size) + 1))
    inner = slice(offset, offset + min(side, size))
    return (inner, slice(None)) if side >= size else (slice(None), inner)


def _shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Shrink to `size` px a side, antialiased; a bicubic kernel may leave 0..1 at edges, hence the clip."""
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)


def _require_one_size(name: str, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    if first != second:
        raise ImageError(f"The images of {name} must be of one size, got {first} and {second}; resample one.")


def _unit(image: np.ndarray) -> np.ndarray:
    """Convert stored values to float32 in 0..1."""
    return image.astype(np.float32) * np.float32(1 / 255 if image.dtype == np.uint8 else 1)


def _nearly_empty(image: np.ndarray, fraction: float = 0.1) -> bool:
    """Tell whether less than a fraction of the pixels is above 5 % of full scale, by every fourth row and column."""
    threshold = 12 if image.dtype == np.uint8 else 0.05
    return bool((image[::4, ::4] > threshold).mean() < fraction)


def _colourless(chroma: np.ndarray) -> bool:
    """Tell whether there is next to no colour to restore, by every fourth row and column."""
    return bool(chroma[::4, ::4].std(dtype=np.float32) < _COLOURLESS)


def _resample(volume: np.ndarray, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resample by the map from target to source indices; zero beyond the source, never negative."""
    values = ndimage.affine_transform(
        volume, matrix[:3, :3], matrix[:3, 3], tuple(shape), order=3, mode="grid-constant"
    )
    return np.asarray(np.maximum(values, 0))


def read_pixels(mode: str, path: Path) -> np.ndarray:
    """Read an 8-bit image as `L` **[H, W]** or `RGB` **[H, W, 3]**.

    Raises:
        BundleError: There is no such file.
    """
    if not path.is_file():
        raise BundleError(f"The data folder must hold {path.parent.name}/{path.name}, got none; copy it there.")
    reader = PILReader(converter=lambda image: image.convert(mode), reverse_indexing=False)
    return np.ascontiguousarray(reader.get_data(reader.read(path))[0])


def _load_nifti(path: Path) -> Any:
    if not path.is_file():
        raise BundleError(f"The case folder {path.parent.name} must hold {path.name}, got none; copy it there.")
    return nib.load(path)
