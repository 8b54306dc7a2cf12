"""Training pairs in one file, and single images as pairs: what a training on another machine takes along."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from medfuse.errors import BundleError
from medfuse.io import atomic_path
from medfuse.training.datasets import SlicePair, SlicePairs, image_pairs, read_pixels

RESTORATION_KIND_WEIGHTS = {
    "pet": 0.17, "spect": 0.25, "ct": 0.16, "sts": 0.12, "phantom": 0.16,
    "natural": 0.06, "anatomy": 0.04, "roadscene": 0.03, "msrs": 0.01,
}  # fmt: skip
"""Share of each kind among the patches of a training that is to restore: single images beside the pairs."""

_SIDE, _STREET = 256, 192
_STEP = 3  # slices of a volume between two that are taken


def single_images(dataset_dir: str | Path, anatomies: Sequence[str] = ()) -> SlicePairs:
    """Load single images, for restoration: two that have nothing to do with each other make a pair.

    A network of two sources may not make up in one what it sees in the other; such pairs tell it so.

    Args:
        dataset_dir: Folder with `natural/*.png`, photographs (kind `natural`), with `irvis`, see `image_pairs`, whose
            training images are taken without their chroma, and with the volumes that are named.
        anatomies: MRI volumes in NIfTI, paths relative to the folder, cut in three planes (kind `anatomy`).

    Raises:
        BundleError: A folder or a volume is missing.
    """
    root = Path(dataset_dir)
    photographs = [_fitted(read_pixels("L", path)) for path in sorted((root / "natural").glob("*.png"))]
    if not photographs:
        raise BundleError("The data folder must hold natural/*.png, got none; add photographs or drop single images.")
    slices = [image for name in anatomies for image in _planes(root / name)]
    pairs = [*_strangers(photographs, "natural"), *_strangers(slices, "anatomy")]
    street = image_pairs(root, split="train", side=_STREET).pairs
    return SlicePairs(pairs + [pair for pair in street if pair.kind != "chroma"])


def write_pack(path: str | Path, *sets: SlicePairs) -> Path:
    """Write pairs as one compressed `.npz`, atomically: images in 8 bit, and a table of names, subjects and kinds."""
    pairs = [_bytes(pair) for given in sets for pair in given.pairs]
    table = np.array([(pair.name, pair.subject, pair.kind) for pair in pairs])
    images = {f"{i:05d}": np.stack([pair.source1, pair.source2]) for i, pair in enumerate(pairs)}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, allow_pickle=False, table=table, **images)
    return path


def read_pack(path: str | Path) -> SlicePairs:
    """Read the pairs that `write_pack` wrote.

    Raises:
        BundleError: There is no such file.
    """
    if not Path(path).is_file():
        raise BundleError(f"The packed pairs must be at {path}, got no file; write them with `write_pack`.")
    with np.load(path, allow_pickle=False) as packed:
        names = packed["table"]
        both = [(pair[0], pair[1]) for pair in (packed[f"{i:05d}"] for i in range(len(names)))]
        return SlicePairs(
            [
                SlicePair(first, second, str(name), str(subject), str(kind))
                for (first, second), (name, subject, kind) in zip(both, names, strict=True)
            ]
        )


def _strangers(images: Sequence[np.ndarray], kind: str) -> Iterator[SlicePair]:
    """Pair each image of the first half with one of the second."""
    half = len(images) // 2
    for i, (first, second) in enumerate(zip(images[:half], images[half:], strict=False)):
        height, width = (min(sides) for sides in zip(first.shape, second.shape, strict=True))
        name = f"{kind}_{i:03d}"
        yield SlicePair(first[:height, :width], second[:height, :width], name, name, kind)


def _fitted(image: np.ndarray) -> np.ndarray:
    """Crop the middle to at most 256 px a side."""
    start = [max(n - _SIDE, 0) // 2 for n in image.shape]
    return image[tuple(slice(s, s + _SIDE) for s in start)]


def _bytes(pair: SlicePair) -> SlicePair:
    """Return a pair in 8 bit."""
    return replace(pair, source1=_eight_bit(pair.source1), source2=_eight_bit(pair.source2))


def _eight_bit(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image
    counts: np.ndarray = (image.astype(np.float32) * 255).round().astype(np.uint8)
    return counts


def _planes(path: Path) -> Iterator[np.ndarray]:
    """Cut a volume along its three axes: slices of 8 bit of which at least a tenth is not air."""
    if not path.is_file():
        raise BundleError(f"The data folder must hold {path.name}, got no such file; drop it from the anatomies.")
    image: Any = nib.load(path)
    volume = np.asarray(image.dataobj, np.float32)
    volume = np.clip(volume / np.percentile(volume, 99.9), 0, 1)
    for axis in range(3):
        for k in range(0, volume.shape[axis], _STEP):
            cut = _eight_bit(volume.take(k, axis).T)
            if min(cut.shape) >= 96 and (cut > 12).mean() >= 0.1:
                yield np.ascontiguousarray(_fitted(cut))
