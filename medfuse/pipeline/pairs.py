"""Pairs of 2-D images: listed, checked before work, and read when their turn comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import torch
from torch import Tensor

from medfuse.errors import BundleError, GeometryError, MedfuseError, OthersResultsError
from medfuse.io import check_pair, check_range, match_folders, match_manifest, read_image
from medfuse.io.images import Bits
from medfuse.physics import Downsample, replicate
from medfuse.pipeline.facts import sha256
from medfuse.pipeline.failures import failure_message
from medfuse.pipeline.provenance import REPLACE, by_name, noted_sources, same_name

_BATCH_PIXELS = 2**20  # images that are larger come one by one


@dataclass(frozen=True)
class ImagePair:
    """Two images of one name, checked; they are read again when their turn comes, so that many need little memory.

    Attributes:
        name: Of the pair.
        paths: Of both sources.
        sha256: Hashes of both files.
        shape: Rows and columns of the first.
        factor: By which the second is smaller.
        color: Whether the first is in colour.
        bits: Of the deeper one.
        truths: Of the clean sources, by source.
    """

    name: str
    paths: tuple[Path, Path]
    sha256: tuple[str, str]
    shape: tuple[int, ...]
    factor: int
    color: bool
    bits: Bits
    truths: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def check(cls, name: str, path1: Path, path2: Path, truths: Mapping[str, Path], *, color: bool) -> ImagePair:
        """Return a pair that can be fused.

        Raises:
            MedfuseError: It cannot.
        """
        digests = (sha256(path1), sha256(path2)) if path1.is_file() and path2.is_file() else ("", "")
        source1, source2 = read_image(path1, color=color), read_image(path2)
        factor = check_pair(source1, source2)
        for what, image in (("source1", source1), ("source2", source2)):
            check_range(what, image)
        shape, bits = source1.array.shape, max(source1.bits, source2.bits)
        for source, path in truths.items():
            truth = read_image(path, color=len(shape) == 3 and source == "source1").array
            if truth.shape[:2] != shape[:2]:
                raise GeometryError(f"truth{source[-1]} must be {shape[:2]}, got {truth.shape[:2]}; resample it.")
        return cls(name, (path1, path2), digests, shape[:2], factor, len(shape) == 3, bits, truths)

    def read(self) -> tuple[Tensor, Tensor]:
        """Return both sources on the grid of the first, **[H, W]** or **[H, W, 3]**, the second replicated.

        Raises:
            BundleError: A file is another than when it was checked.
        """
        first, second = (
            torch.from_numpy(read_image(path, color=color).array)
            for path, color in zip(self.paths, (self.color, False), strict=True)
        )
        if tuple(map(sha256, self.paths)) != self.sha256:
            raise BundleError(
                f"The images of {self.name} must stay as they are while they are fused, got other content in the "
                "meantime; wait until they are complete, and run them again."
            )
        return first, replicate(second[None, None], Downsample(self.factor), self.shape)[0, 0]

    @property
    def sources(self) -> dict[str, str]:
        """Hash of each source, by its name, for records."""
        return dict(zip(("source1", "source2"), self.sha256, strict=True))


Matched = tuple[str, Path, Path]
"""Name of a pair, and where both sources lie."""


def matched_pairs(source1: str | Path | None, source2: str | Path | None, manifest: str | Path | None) -> list[Matched]:
    """List pairs, of two folders or of a table; nothing is read of an image.

    Raises:
        BundleError: Folders or table cannot be used as a whole.
    """
    if manifest is not None and source1 is source2 is None:
        return match_manifest(manifest, check=False)
    if manifest is None and source1 is not None and source2 is not None:
        return match_folders(source1, source2)
    raise BundleError("The images must be given as two folders or as a manifest, got another mixture; change it.")


def checked_pairs(
    matched: Sequence[Matched],
    truths: Sequence[str | Path | None],
    *,
    color: bool,
    also: Callable[[ImagePair], object],
) -> tuple[list[ImagePair], dict[str, str]]:
    """Tell the pairs that can be fused from those that cannot.

    Args:
        matched: All of them.
        truths: Folders of the clean sources, where known.
        color: Whether source 1 may be in colour.
        also: Raises for a pair that cannot be used for another reason.

    Returns:
        Pairs in their order, and the message about each other one by its name, without a path.

    Raises:
        MedfuseError: No pair can be fused, or a truth is no folder.
    """
    clean = {f"source{n}": _by_stem(truth, n) for n, truth in enumerate(truths, start=1) if truth is not None}
    pairs: list[ImagePair] = []
    failed: dict[str, str] = {}
    first: Exception | None = None
    for name, path1, path2 in matched:
        own: dict[str, Path] = {}
        try:
            for source, found in clean.items():
                if name not in found:
                    raise BundleError(
                        f"truth{source[-1]} must hold an image for every pair, got none for {name}; add it."
                    )
                own[source] = found[name]
            pair = ImagePair.check(name, path1, path2, own, color=color)
            also(pair)
            pairs.append(pair)
        except (MedfuseError, OSError) as error:
            failed[name] = failure_message(error, _told(path1, path2, own))
            first = first or error
    if first is not None and not pairs:
        kind = type(first) if isinstance(first, MedfuseError) else BundleError
        raise kind(": ".join(next(iter(failed.items())))) from first
    return pairs, failed


def require_own_pairs(pairs: Sequence[ImagePair], folders: Sequence[Path], records: Sequence[Path]) -> None:
    """Raise where results of other images would be replaced or removed.

    Args:
        pairs: That are to be fused.
        folders: Where results lie, each called as its pair.
        records: What earlier runs say of theirs, see `medfuse.pipeline.provenance.noted_sources`.

    Raises:
        OthersResultsError: They would, or nobody can say of what they are.
    """
    before, now = noted_sources(*records), {pair.name: pair.sources for pair in pairs}
    there = by_name(path.stem for folder in folders if folder.is_dir() for path in folder.iterdir())
    others = {name for name in now for name in there.get(same_name(name), ()) if name not in (before or {})}
    others |= {name for name, sources in (before or {}).items() if sources != now.get(name)}
    if before is None or others:
        shown = ", ".join(sorted(others)[:3]) + (", ..." if len(others) > 3 else "")
        raise OthersResultsError(
            f"OUT must hold no results of other images, got some{f' ({shown})' if shown else ''}; choose another OUT, "
            f"or {REPLACE}."
        )


def groups(pairs: Sequence[ImagePair], batch: int) -> Iterator[list[ImagePair]]:
    """Give runs of pairs of one kind, at most `batch` long."""
    for (shape, *_), run in groupby(pairs, key=lambda p: (p.shape, p.factor, p.color)):
        members, size = list(run), max(1, min(batch, _BATCH_PIXELS // math.prod(shape)))
        yield from (members[i : i + size] for i in range(0, len(members), size))


def told_paths(pair: ImagePair) -> dict[str, Path]:
    """Return the inputs of a pair, each by the name that may be told."""
    return _told(*pair.paths, pair.truths)


def _told(path1: Path, path2: Path, truths: Mapping[str, Path]) -> dict[str, Path]:
    return {"source1": path1, "source2": path2} | {f"truth{key[-1]}": path for key, path in truths.items()}


def _by_stem(folder: str | Path, n: int) -> dict[str, Path]:
    if not Path(folder).is_dir():
        raise BundleError(f"truth{n} must be a folder, got no folder {Path(folder).name!r}; check the path.")
    return {p.stem: p for p in sorted(Path(folder).glob("*")) if p.is_file()}
