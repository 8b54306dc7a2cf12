"""2-D images in and out, and folders of them matched by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from medfuse.errors import BundleError, GeometryError, ImageError
from medfuse.io.atomic import atomic_file

SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".jpg", ".jpeg", ".bmp")
Bits = Literal[8, 16, 32]
_FULL_RANGE = {8: 255.0, 16: 65535.0, 32: 1.0}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0 tags
_GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True)
class Image2D:
    """A 2-D image scaled by the full range of its type.

    Attributes:
        array: float32 **[H, W]**, or **[H, W, 3]** where colour was asked for and found. 0..1 for 8 and 16 bits; as
            stored for 32.
        bits: 8 or 16 for integers, 32 for floats.
        kind: Kind of file: "png", "tiff", "npy", "jpeg" or "bmp".
    """

    array: np.ndarray
    bits: Bits
    kind: str


def read_image(path: str | Path, *, color: bool = False, allow_constant: bool = True) -> Image2D:
    """Read a grey image, or a colour one where asked.

    Integers are divided by the full range of their type (255 or 65535), floats are kept as they are. Fewer than 8 bits
    count as 8. A palette is looked up. An opaque alpha channel is dropped. Three equal channels are one grey channel.

    Args:
        path: PNG (8 or 16 bits), TIFF (8, 16 bits or float, one page), npy (uint8, uint16 or float), JPEG or BMP.
        color: Accept colour, and return it as **[H, W, 3]**.
        allow_constant: Accept an image of one value. It is legal in a folder of slices: those at the ends may be empty.
            `check_pair` refuses a pair of which both are constant.

    Returns:
        The image with its bits and kind.

    Raises:
        ImageError: If the file is absent, truncated, of another format or type, holds several pages, transparency,
            NaN or infinity, colour that was not asked for, or 16-bit colour, which would lose half its bits.
        GeometryError: If an npy array is neither [H, W] nor [H, W, 3].
    """
    path = Path(path)
    what = _label(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(f"{what} must be one of {', '.join(SUFFIXES)}, got another suffix; convert it.")
    if not path.is_file():
        raise ImageError(f"{what} must be a file, got none there; check the path.")
    stored, kind = _read_npy(path, what) if path.suffix.lower() == ".npy" else _read_pillow(path, what)

    bits = _bits(stored.dtype, what)
    with np.errstate(over="ignore"):
        array = (stored / _FULL_RANGE[bits] if bits != 32 else stored).astype(np.float32)
    if not np.isfinite(array).all():
        raise ImageError(f"{what} must be finite, got NaN or infinity; repair it.")
    if array.ndim == 3 and (array == array[..., :1]).all():
        array = array[..., 0]
    if array.ndim == 3 and not color:
        raise ImageError(f"{what} must be grey, got colour; convert it to the scalar it shows, not to its luma.")
    if not allow_constant and array.min() == array.max():
        raise ImageError(f"{what} must show something, got one value everywhere; check how it was made.")
    return Image2D(np.ascontiguousarray(array), bits, kind)


def write_image(path: str | Path, array: Any, *, bits: Bits) -> None:
    """Write an image atomically: integers as PNG, floats as npy.

    Args:
        path: `.png` for 8 and 16 bits, `.npy` for 32.
        array: **[H, W]**, or **[H, W, 3]** for 8 and 32 bits; array or tensor, finite. In integer files 0..1 becomes
            the full range, rounded half to even, and what lies beyond is clipped; in float files nothing is changed.
        bits: 8, 16 or 32.

    Raises:
        ImageError: If suffix and bits do not fit, or a value is not finite.
        GeometryError: If the shape is another.
    """
    path = Path(path)
    what = _label(path)
    if path.suffix.lower() != {8: ".png", 16: ".png", 32: ".npy"}.get(bits):
        raise ImageError(f"{what} must be .png for 8 and 16 bits and .npy for 32, got {bits} bits; change one of them.")
    values = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    if 0 in values.shape or not (values.ndim == 2 or (values.shape[2:] == (3,) and bits != 16)):
        raise GeometryError(f"{what} must be [H, W], or [H, W, 3] but for 16 bits, got {values.shape}; reshape it.")
    if not np.isfinite(values).all():
        raise ImageError(f"{what} must be finite, got NaN or infinity; nothing was written.")
    with atomic_file(path) as file:
        if bits == 32:
            np.save(file, np.ascontiguousarray(values, dtype=np.float32), allow_pickle=False)
        else:
            scaled = np.rint(np.clip(values.astype(np.float64), 0, 1) * _FULL_RANGE[bits])
            Image.fromarray(scaled.astype(np.uint8 if bits == 8 else np.uint16)).save(file, format="PNG")


def check_pair(source1: Image2D, source2: Image2D, *, factors: tuple[int, ...] = (1, 2, 4)) -> int:
    """Check that two images can be fused, and return by how much the second is smaller.

    Args:
        source1: The image on the reference grid (MRI or visible).
        source2: The other one (PET or infrared), as large or smaller by one of the factors.
        factors: Factors to accept.

    Returns:
        The factor; a low-resolution image has `ceil(H / factor)` rows.

    Raises:
        GeometryError: If the sizes do not fit.
        ImageError: If both images are constant: there is nothing to fuse. One constant image is accepted.
    """
    size1, size2 = source1.array.shape[:2], source2.array.shape[:2]
    factor = next((f for f in factors if tuple(-(-n // f) for n in size1) == size2), None)
    if factor is None:
        raise GeometryError(
            f"source2 must be as large as source1, or smaller by {' or '.join(str(f) for f in factors if f > 1)}, "
            f"got {size2} for {size1}; resample it."
        )
    if all(image.array.min() == image.array.max() for image in (source1, source2)):
        raise ImageError("A pair must show something, got two constant images; leave the pair out.")
    return factor


def match_folders(source1: str | Path, source2: str | Path) -> list[tuple[str, Path, Path]]:
    """Match the images of two folders by their names without suffix.

    Hidden files and files of other kinds are left alone.

    Args:
        source1: Folder of the first source.
        source2: Folder of the second source.

    Returns:
        Name, first path and second path, sorted by name.

    Raises:
        BundleError: If a folder is absent or holds no image, an image has no partner, or two share a name.
    """
    first, second = _images("source1", Path(source1)), _images("source2", Path(source2))
    for name, alone in (("source2", first.keys() - second.keys()), ("source1", second.keys() - first.keys())):
        if alone:
            shown = ", ".join(sorted(alone)[:3]) + (", ..." if len(alone) > 3 else "")
            raise BundleError(
                f"Every image must have a partner of the same name, got {len(alone)} without one in {name}: {shown}; "
                "add or remove files."
            )
    return [(name, first[name], second[name]) for name in sorted(first)]


def _images(what: str, folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise BundleError(f"{what} must be a folder, got no folder {folder.name!r}; check the path.")
    images: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        if path.stem in images:
            twins = f"{images[path.stem].name} and {path.name}"
            raise BundleError(f"Names in {what} must differ without their suffix, got {twins}; rename one.")
        images[path.stem] = path
    if not images:
        raise BundleError(f"{what} must hold images ({', '.join(SUFFIXES)}), got none in {folder.name!r}; check it.")
    return images


def _read_npy(path: Path, what: str) -> tuple[np.ndarray, str]:
    try:  # mapped, so that a header that lies about the size allocates nothing
        array = np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception as error:  # a broken header raises errors of any kind
        raise ImageError(f"{what} must be a whole npy file of numbers, got another; write it again.") from error
    if 0 in array.shape or not (array.ndim == 2 or array.shape[2:] == (3,)):
        raise GeometryError(f"{what} must be [H, W] or [H, W, 3], got {array.shape}; reshape it.")
    return array, "npy"


def _read_pillow(path: Path, what: str) -> tuple[np.ndarray, str]:
    try:
        with Image.open(path, formats=["PNG", "TIFF", "JPEG", "BMP"]) as image:
            kind = (image.format or "").lower()
            _refuse_loss(image, path, what)
            image.load()
            return _samples(image, what), kind
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{what} must be a PNG, TIFF, JPEG or BMP image, got another file; convert it.") from error
    except Exception as error:  # a broken file raises errors of any kind, a warning made an error among them
        raise ImageError(f"{what} must be a whole image, got a cut or corrupt one; copy it again.") from error


def _refuse_loss(image: Image.Image, path: Path, what: str) -> None:
    """Refuse what Pillow would read with loss: more pages than one, 16-bit colour, inverted 16-bit grey."""
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"{what} must hold one page, got {getattr(image, 'n_frames', 1)}; save each as a file.")
    deep = False
    if image.format == "PNG":  # PNG specification, 11.2.1: bit depth and colour type in the header; 0 is grey
        with path.open("rb") as file:
            depth, colour_type = file.read(26)[24:26]
        deep = depth == 16 and (colour_type != 0 or "transparency" in image.info)
    elif image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        depths = tags.get(_BITS_PER_SAMPLE, (1,))
        deep = max(depths) > 8 and (len(depths) > 1 or tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)
    if deep:
        raise ImageError(
            f"{what} must be 8-bit, or 16-bit grey with black as zero, got another 16-bit kind; save it as 16-bit grey."
        )


def _samples(image: Image.Image, what: str) -> np.ndarray:
    """Return **[H, W]** or **[H, W, 3]** as stored, without alpha."""
    if image.mode == "1":
        image = image.convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            raise ImageError(f"{what} must be opaque, got transparent pixels; save it without alpha.")
        image = image.convert("RGB")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGB")
    if image.mode not in ("L", "RGB", "F", "I", *_GREY16):
        raise ImageError(f"{what} must be grey or RGB, got mode {image.mode}; convert it.")
    samples = np.asarray(image)
    if image.mode == "I":  # how some versions of Pillow give 16-bit PNG
        if samples.min() < 0 or samples.max() > _FULL_RANGE[16] or image.format != "PNG":
            raise ImageError(f"{what} must have 8 or 16 bits or floats, got 32-bit integers; convert it.")
        samples = samples.astype(np.uint16)
    return samples


def _bits(dtype: np.dtype, what: str) -> Bits:
    if dtype.kind == "u" and dtype.itemsize == 1:
        return 8
    if dtype.kind == "u" and dtype.itemsize == 2:
        return 16
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return 32
    raise ImageError(f"{what} must be uint8, uint16 or float, got {dtype}; convert it.")


def _label(path: Path) -> str:
    """Return folder and name, which tell an image without the rest of the path."""
    return "/".join(path.parts[-2:])
