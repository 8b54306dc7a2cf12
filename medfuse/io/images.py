"""2-D images in and out."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageOps, UnidentifiedImageError

from medfuse.errors import GeometryError, ImageError
from medfuse.io.atomic import atomic_file, atomic_path
from medfuse.io.contents import contents
from medfuse.io.foreign import label, no_image

SUFFIXES = (".png", ".tif", ".tiff", ".npy", ".jpg", ".jpeg", ".bmp")
Bits = Literal[8, 16, 32]
_BEYOND = 2.0  # size of a value that no image on a scale of 0..1 has
_ROWS = 256  # of an image that are rounded at once
_FULL_RANGE = {8: 255.0, 16: 65535.0, 32: 1.0}
_MAX_PIXELS = 80_000_000  # less than what Pillow warns of
_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _SAMPLES_PER_PIXEL, _PLANAR = 258, 262, 274, 277, 284  # TIFF 6.0 tags
_WHITE_IS_ZERO, _RGB = 0, 2  # values of the photometric interpretation
_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # x, y, dx, dy
_GREY16 = ("I;16", "I;16L", "I;16B", "I;16N")
_READ = ("a PNG image", "a JPEG image", "a TIFF image")  # what `contents` calls the files that are read
_FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF"}


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
    The orientation that a camera noted (EXIF) is applied. Colour profiles are not.

    Args:
        path: PNG (8 or 16 bits), TIFF (8, 16 bits or float, one page), npy (uint8, uint16 or float), JPEG or BMP, of at
            most 80 million pixels.
        color: Accept colour, and return it as **[H, W, 3]**.
        allow_constant: Accept an image of one value. It is legal in a folder of slices: those at the ends may be empty.
            `check_pair` refuses a pair of which both are constant.

    Returns:
        The image with its bits and kind.

    Raises:
        ImageError: If the file is absent, truncated, too large, of another format or type, holds several pages,
            transparency, NaN or infinity, colour that was not asked for or is not RGB, or 16 bits in a form that would
            lose some of them.
        GeometryError: If an npy array is neither [H, W] nor [H, W, 3].
    """
    path = Path(path)
    what = label(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(
            f"{what} must be one of {', '.join(SUFFIXES)}, got {no_image(path) or 'another suffix; convert it'}."
        )
    if not path.is_file():
        raise ImageError(f"{what} must be a file, got none there; check the path.")
    stored, kind = _read_npy(path, what) if path.suffix.lower() == ".npy" else _read_pillow(path, what)

    bits = _bits(stored.dtype, what)
    with np.errstate(over="ignore"):
        array = stored.astype(np.float32)
    if bits != 32:
        array /= np.float32(_FULL_RANGE[bits])
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
    """Write an image atomically: integers as PNG or TIFF, floats as npy. Nothing is written that loses values further.

    Args:
        path: `.png`, `.tif` or `.tiff` for 8 and 16 bits, `.npy` for 32.
        array: **[H, W]** or **[H, W, 3]**; array or tensor, finite. In integer files 0..1 becomes the full range,
            rounded half to even, and what lies beyond is clipped; in float files nothing is changed.
        bits: 8, 16 or 32.

    Raises:
        ImageError: If suffix and bits do not fit, or a value is not finite.
        GeometryError: If the shape is another.
    """
    path = Path(path)
    what = label(path)
    if path.suffix.lower() not in {8: tuple(_FORMATS), 16: tuple(_FORMATS), 32: (".npy",)}.get(bits, ()):
        raise ImageError(
            f"{what} must be .png or .tif for 8 and 16 bits and .npy for 32, got {bits} bits; change one of them."
        )
    values = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    if 0 in values.shape or not (values.ndim == 2 or values.shape[2:] == (3,)):
        raise GeometryError(f"{what} must be [H, W] or [H, W, 3], got {values.shape}; reshape it.")
    if not np.isfinite(values).all():
        raise ImageError(f"{what} must be finite, got NaN or infinity; nothing was written.")
    if bits == 32:
        with atomic_file(path) as file:
            np.save(file, np.ascontiguousarray(values, dtype=np.float32), allow_pickle=False)
        return
    samples = np.empty(values.shape, np.uint8 if bits == 8 else np.uint16)
    for some in (slice(i, i + _ROWS) for i in range(0, len(values), _ROWS)):
        samples[some] = np.rint(np.clip(values[some], 0, 1, dtype=np.float64) * _FULL_RANGE[bits])
    with atomic_path(path) as temporary:
        if bits == 16 and samples.ndim == 3:  # which Pillow has no mode for
            sitk.WriteImage(sitk.GetImageFromArray(samples, isVector=True), temporary, useCompression=True)
        else:
            Image.fromarray(samples).save(temporary, format=_FORMATS[path.suffix.lower()])


def check_range(what: str, image: Image2D) -> None:
    """Refuse floats that are not on a scale of 0..1; some may lie beyond it.

    Raises:
        ImageError: If a value is beyond -2..2.
    """
    largest = float(np.abs(image.array).max())
    if image.bits == 32 and largest > _BEYOND:
        raise ImageError(f"{what} must be in 0..1 where it has floats, got {largest:g}; divide by the range.")


def _read_npy(path: Path, what: str) -> tuple[np.ndarray, str]:
    try:  # mapped, so that a header that lies about the size allocates nothing
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a broken header raises errors of any kind
        raise ImageError(f"{what} must be a whole npy file of numbers, got another; write it again.") from error
    if 0 in array.shape or not (array.ndim == 2 or array.shape[2:] == (3,)):
        raise GeometryError(f"{what} must be [H, W] or [H, W, 3], got {array.shape}; reshape it.")
    _check_size(array.shape[1], array.shape[0], what)
    return np.array(array), "npy"


def _read_pillow(path: Path, what: str) -> tuple[np.ndarray, str]:
    try:
        with Image.open(path, formats=["PNG", "TIFF", "JPEG", "BMP"]) as image:
            kind = (image.format or "").lower()
            _check_size(*image.size, what)
            is_deep_color = _check_form(image, path, what)
            image.load()  # to its end, checksums included
            if image.format == "PNG":
                _check_png(path, what)
            if is_deep_color:
                return _deep_color(path, image.size, what), kind
            return _samples(ImageOps.exif_transpose(image), what), kind
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(_too_large(what)) from error
    except PermissionError as error:
        raise ImageError(f"{what} must be readable, got no permission; change it.") from error
    except UnidentifiedImageError as error:
        kind, remedy = contents(path) or ("another file", "convert it")
        if kind in _READ:  # of which the header is broken
            raise ImageError(_broken(what)) from error
        raise ImageError(f"{what} must be a PNG, TIFF, JPEG or BMP image, got {kind}; {remedy}.") from error
    except Exception as error:  # a broken file raises errors of any kind, a warning made an error among them
        raise ImageError(_broken(what)) from error


def _broken(what: str) -> str:
    return f"{what} must be a whole image, got a cut or corrupt one; copy it again."


def _check_size(width: int, height: int, what: str) -> None:
    if width * height > _MAX_PIXELS:
        raise ImageError(_too_large(what))


def _too_large(what: str) -> str:
    return f"{what} must have at most {_MAX_PIXELS // 1_000_000} million pixels, got more; cut it into parts."


def _check_form(image: Image.Image, path: Path, what: str) -> bool:
    """Refuse what cannot be read without loss, and return whether it is 16-bit colour, which Pillow would halve."""
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"{what} must hold one page, got {getattr(image, 'n_frames', 1)}; save each as a file.")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise ImageError(f"{what} must be grey or RGB, got {image.mode}; convert it.")
    if image.format == "PNG":  # PNG specification, 11.2.1: bit depth and colour type in the header
        with path.open("rb") as file:
            depth, colour_type = file.read(26)[24:26]
        deep, color = depth == 16, colour_type in (2, 6)
        plain = color or (colour_type == 0 and "transparency" not in image.info)
        upright = image.getexif().get(_ORIENTATION, 1) == 1
    elif image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        depths = tags.get(_BITS_PER_SAMPLE, (1,))
        if max(depths) not in (1, 2, 4, 8, 16, 32, 64):
            raise ImageError(f"{what} must have 8 or 16 bits or floats, got {max(depths)} bits; convert it.")
        orientation = tags.get(_ORIENTATION, 1)
        if orientation > 4:  # Pillow 13 garbles an uncompressed one
            raise ImageError(
                f"{what} must be stored upright, got a TIFF turned by its orientation tag; save it turned."
            )
        deep, color, upright = max(depths) > 8, tags.get(_PHOTOMETRIC) == _RGB, orientation == 1
        if color:
            plain = tags.get(_PLANAR, 1) == 1 and set(depths) == {16}
        else:
            plain = tags.get(_SAMPLES_PER_PIXEL, 1) == 1 and tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO
    else:
        return False
    if deep and not (plain and (upright or not color)):
        raise ImageError(
            f"{what} must be 8-bit, 16-bit grey with black as zero, or 16-bit RGB stored upright and pixel by pixel, "
            "got another 16-bit kind; save it so."
        )
    return deep and color


def _deep_color(path: Path, size: tuple[int, int], what: str) -> np.ndarray:
    """Read 16-bit RGB or RGBA as **[H, W, 3]**."""
    samples = sitk.GetArrayFromImage(sitk.ReadImage(path))
    if samples.dtype != np.uint16 or samples.shape not in {(size[1], size[0], n) for n in (3, 4)}:
        raise ImageError(f"{what} must be RGB of 16 bits, got another kind; convert it.")
    if samples.shape[2] == 4 and samples[..., 3].min() < _FULL_RANGE[16]:
        raise ImageError(_transparent(what))
    return samples[..., :3]


def _check_png(path: Path, what: str) -> None:
    """Check that a PNG holds all of its rows, and a palette where it needs one: Pillow would fill in zeros."""
    chunks: dict[bytes, bytes] = {}
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:  # Pillow has verified the checksums
            size, kind = int.from_bytes(head[:4], "big"), head[4:]
            if kind in (b"IHDR", b"PLTE", b"IDAT"):
                chunks[kind] = chunks.get(kind, b"") + file.read(size)
                size = 0
            file.seek(size + 4, 1)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    expected = sum(
        rows * (1 + -(-columns * bits // 8))  # a byte for the filter
        for x, y, dx, dy in (_ADAM7 if interlaced else ((0, 0, 1, 1),))
        if (columns := -(-(width - x) // dx)) > 0 and (rows := -(-(height - y) // dy)) > 0
    )
    if len(zlib.decompressobj().decompress(chunks[b"IDAT"], expected)) < expected:
        raise ImageError(f"{what} must hold {height} rows, got fewer; copy it again.")
    if colour == 3 and b"PLTE" not in chunks:
        raise ImageError(f"{what} must have a palette, got none; save it again.")


def _samples(image: Image.Image, what: str) -> np.ndarray:
    """Return **[H, W]** or **[H, W, 3]** as stored, without alpha."""
    if image.mode == "1":
        image = image.convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if np.asarray(image.getchannel("A")).min() < 255:
            raise ImageError(_transparent(what))
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


def _transparent(what: str) -> str:
    return f"{what} must be opaque, got transparent pixels; save it without alpha."


def _bits(dtype: np.dtype, what: str) -> Bits:
    if dtype.kind == "u" and dtype.itemsize == 1:
        return 8
    if dtype.kind == "u" and dtype.itemsize == 2:
        return 16
    if dtype.kind == "f" and dtype.itemsize <= 8:
        return 32
    raise ImageError(f"{what} must be uint8, uint16 or float, got {dtype}; convert it.")
