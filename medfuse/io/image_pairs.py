"""Pairs of 2-D images: whether two fit, and which belong together, by name or by a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medfuse.errors import BundleError, GeometryError, ImageError
from medfuse.io.foreign import no_image
from medfuse.io.images import SUFFIXES, Image2D
from medfuse.io.manifest import read_rows
from medfuse.schema import PLAIN_ID, refuse_twins

_MAX_NAME = 200  # bytes


def size_factor(
    large: Sequence[int],
    small: Sequence[int],
    *,
    names: tuple[str, str] = ("source1", "source2"),
    factors: tuple[int, ...] = (1, 2, 3, 4),
) -> int:
    """Return by how much an image is smaller than that on the reference grid.

    Args:
        large: Rows and columns of the image on the reference grid.
        small: Those of the other one: `ceil(H / factor)` rows.
        names: What both are called in an error.
        factors: Factors to accept.

    Raises:
        GeometryError: If the sizes do not fit.
    """
    for factor in factors:
        if tuple(-(-n // factor) for n in large) == tuple(small):
            return factor
    raise GeometryError(
        f"{names[1]} must be as large as {names[0]}, or smaller by {' or '.join(str(f) for f in factors if f > 1)}, "
        f"got {tuple(small)} for {tuple(large)}; resample it."
    )


def check_pair(source1: Image2D, source2: Image2D) -> int:
    """Check that two images can be fused, and return by how much the second is smaller.

    Args:
        source1: The image on the reference grid (MRI or visible).
        source2: The other one (PET or infrared), as large or smaller by a factor of 2, 3 or 4.

    Returns:
        The factor, see `size_factor`.

    Raises:
        GeometryError: If the sizes do not fit.
        ImageError: If both images are constant: there is nothing to fuse. One constant image is accepted.
    """
    factor = size_factor(source1.array.shape[:2], source2.array.shape[:2])
    if all(image.array.min() == image.array.max() for image in (source1, source2)):
        raise ImageError("A pair must show something, got two constant images; leave the pair out.")
    return factor


def match_folders(
    source1: str | Path, source2: str | Path, *, names: tuple[str, str] = ("source1", "source2")
) -> list[tuple[str, Path, Path]]:
    """Match the images of two folders by their names without suffix.

    Hidden files and files of other kinds are left alone.

    Args:
        source1: Folder of the first source.
        source2: Folder of the second source.
        names: What both are called in an error.

    Returns:
        Name, first path and second path, sorted by name.

    Raises:
        BundleError: If a folder is absent or holds no image, an image has no partner, or two share a name.
    """
    first, second = _images(names[0], Path(source1)), _images(names[1], Path(source2))
    for name, alone in ((names[1], first.keys() - second.keys()), (names[0], second.keys() - first.keys())):
        if alone:
            shown = ", ".join(sorted(alone)[:3]) + (", ..." if len(alone) > 3 else "")
            raise BundleError(
                f"Every image must have a partner of the same name, got {len(alone)} without one in {name}: {shown}; "
                "add or remove files."
            )
    refuse_twins(first, f"Names in {names[0]}")
    return [(name, first[name], second[name]) for name in sorted(first)]


def match_manifest(path: str | Path, *, check: bool = True) -> list[tuple[str, Path, Path]]:
    """List the pairs of a table: TSV or CSV with the columns source1, source2 and, if wanted, name.

    Paths are relative to the table. Without a name, a pair is called as its first image without suffix.

    Args:
        path: The table.
        check: Refuse the table where a file is absent or of another kind; else whoever reads it says so.

    Returns:
        Name, first path and second path, sorted by name.

    Raises:
        BundleError: If the table cannot be read, lacks a column, has an unknown one or no row, an image is absent or
            of another kind, a name is none, or two pairs share one.
    """
    path = Path(path)
    pairs: dict[str, tuple[str, Path, Path]] = {}
    for number, cells in read_rows(path, ("source1", "source2"), ("name",)):
        files = []
        for source in ("source1", "source2"):
            file = path.parent / cells.get(source, "")
            if check and (file.suffix.lower() not in SUFFIXES or not file.is_file()):
                got = no_image(file) or "no such file; check its path"
                raise BundleError(
                    f"{source} in row {number} of the manifest must be an image ({', '.join(SUFFIXES)}), got {got}."
                )
            files.append(file)
        name = cells.get("name", files[0].stem)
        if "name" in cells and not PLAIN_ID.fullmatch(name):
            raise BundleError(
                f"name in row {number} of the manifest must be letters, digits, '.', '_' and '-', got another text; "
                "rename it."
            )
        if name in pairs:
            raise BundleError(f"Each pair must have a name of its own, got {name} twice; give a column name.")
        pairs[name] = (name, files[0], files[1])
    refuse_twins(pairs, "Names of pairs")
    return [pairs[name] for name in sorted(pairs)]


def _images(what: str, folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        got = no_image(folder) or f"no folder {folder.name!r}; check the path"
        raise BundleError(f"{what} must be a folder, got {got}.")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if not path.name.isprintable() or len(path.name.encode()) > _MAX_NAME:
            raise BundleError(
                f"Names in {what} must be printable, of at most {_MAX_NAME} bytes, got another; rename it."
            )
        if path.stem in images:
            twins = f"{images[path.stem].name} and {path.name}"
            raise BundleError(f"Names in {what} must differ without their suffix, got {twins}; rename one.")
        images[path.stem] = path
    if not images:
        got = next(filter(None, map(no_image, sorted(folder.iterdir()))), f"none in {folder.name!r}; check it")
        raise BundleError(f"{what} must hold images ({', '.join(SUFFIXES)}), got {got}.")
    return images
