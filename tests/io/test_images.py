from __future__ import annotations

import contextlib
import struct
import zlib

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
import torch
from PIL import Image

from medfuse.errors import GeometryError, ImageError
from medfuse.io.images import read_image, write_image

GREY8 = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREY16 = np.linspace(0, 65535, 12 * 9).astype(np.uint16).reshape(12, 9)


def store(path, array, **options):
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("color", [False, True])
def test_every_integer_level_survives_a_png(tmp_path, bits, color):
    levels = np.arange(2**bits).reshape(2 ** (bits // 2), -1)
    write_image(tmp_path / "a.png", levels / (2**bits - 1), bits=bits)
    image = read_image(tmp_path / "a.png", color=color)
    assert (image.bits, image.kind, image.array.dtype) == (bits, "png", np.float32)
    np.testing.assert_array_equal(np.rint(image.array * (2**bits - 1)), levels)
    write_image(tmp_path / "b.png", torch.as_tensor(image.array), bits=image.bits)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".npy", ".bmp"])
def test_8_bit_kinds(tmp_path, suffix):
    image = read_image(store(tmp_path / f"a{suffix}", GREY8))
    assert image.bits == 8
    np.testing.assert_array_equal(image.array, (GREY8 / 255).astype(np.float32))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_16_bit_kinds(tmp_path, suffix):
    image = read_image(store(tmp_path / f"a{suffix}", GREY16))
    assert image.bits == 16
    np.testing.assert_array_equal(image.array, (GREY16 / 65535).astype(np.float32))


@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_floats_are_kept_as_they_are(tmp_path, suffix):
    array = np.array([[-1.5, 0, 3e4], [1, 2, 3]], dtype=np.float32)
    image = read_image(store(tmp_path / f"a{suffix}", array))
    assert image.bits == 32
    np.testing.assert_array_equal(image.array, array)


def test_npy_round_trip_changes_nothing(tmp_path):
    array = np.array([[-1.5, 1e-20], [1, 2]], dtype=np.float32)
    write_image(tmp_path / "a.npy", array, bits=32)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy").array, array)


def test_jpeg_is_read(tmp_path):
    image = read_image(store(tmp_path / "a.jpg", GREY8, quality=100))
    assert (image.bits, image.kind) == (8, "jpeg")


def test_equal_channels_opaque_alpha_and_palettes_are_grey(tmp_path):
    expected = (GREY8 / 255).astype(np.float32)
    grey = Image.fromarray(GREY8)
    for mode in ("RGB", "RGBA", "LA", "P"):
        grey.convert(mode).save(tmp_path / f"{mode}.png")
        np.testing.assert_array_equal(read_image(tmp_path / f"{mode}.png").array, expected)
    grey.convert("1").save(tmp_path / "1.png")
    assert set(np.unique(read_image(tmp_path / "1.png").array)) == {0, 1}


def test_colour_only_where_asked_for(tmp_path):
    rgb = np.stack([GREY8, GREY8.T, 255 - GREY8], axis=-1)
    for name in ("a.png", "a.tif", "a.npy"):
        store(tmp_path / name, rgb)
        with pytest.raises(ImageError, match="must be grey, got colour"):
            read_image(tmp_path / name)
        np.testing.assert_array_equal(np.rint(read_image(tmp_path / name, color=True).array * 255), rgb)
    write_image(tmp_path / "b.png", rgb / 255, bits=8)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), rgb)


def test_transparency_is_refused(tmp_path):
    Image.fromarray(np.stack([GREY8, GREY8], -1)).save(tmp_path / "a.png")
    Image.fromarray(GREY8).save(tmp_path / "b.png", transparency=7)
    for name in ("a.png", "b.png"):
        with pytest.raises(ImageError, match="opaque"):
            read_image(tmp_path / name)


def png(path, depth, colour_type, samples, *chunks, size=None):
    """Write a PNG of one row by hand: Pillow has no mode for some kinds. Its header may lie about the size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = size or (len(samples) // {0: 1, 2: 3, 4: 2, 6: 4}[colour_type], 1)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0))
        + b"".join(chunk(*c) for c in chunks)
        + chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(f">{len(samples)}H", *samples)))
        + chunk(b"IEND", b"")
    )
    return path


RGB16 = np.random.default_rng(0).integers(0, 65536, (12, 9, 3)).astype(np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_16_bit_colour_keeps_every_bit(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, RGB16)
    else:
        write_image(path, torch.from_numpy(RGB16 / 65535), bits=16)
    image = read_image(path, color=True)
    assert (image.bits, image.array.dtype) == (16, np.float32)
    np.testing.assert_array_equal(image.array, (RGB16 / 65535).astype(np.float32))
    with pytest.raises(ImageError, match="must be grey, got colour"):
        read_image(path)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_16_bit_colour_of_other_writers(tmp_path, compression):
    tifffile.imwrite(tmp_path / "a.tif", RGB16, photometric="rgb", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif", color=True).array, (RGB16 / 65535).astype(np.float32))
    png(tmp_path / "a.png", 16, 2, (1, 2, 3))
    np.testing.assert_array_equal(np.rint(read_image(tmp_path / "a.png", color=True).array * 65535), [[[1, 2, 3]]])


def test_16_bit_grey_as_colour_is_grey(tmp_path):
    write_image(tmp_path / "a.png", np.repeat(GREY16[..., None] / 65535, 3, axis=2), bits=16)
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "RGB"
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").array, (GREY16 / 65535).astype(np.float32))


def test_16_bit_alpha_is_dropped_where_opaque(tmp_path):
    png(tmp_path / "a.png", 16, 6, (1, 2, 3, 65535, 4, 5, 6, 65535))
    found = read_image(tmp_path / "a.png", color=True).array
    np.testing.assert_array_equal(np.rint(found * 65535), [[[1, 2, 3], [4, 5, 6]]])
    png(tmp_path / "b.png", 16, 6, (1, 2, 3, 65535, 4, 5, 6, 65534))
    with pytest.raises(ImageError, match="opaque"):
        read_image(tmp_path / "b.png", color=True)


def test_16_bits_that_would_lose_some_are_refused(tmp_path, capfd):
    png(tmp_path / "alpha.png", 16, 4, (1, 65535))
    png(tmp_path / "key.png", 16, 0, (1, 2), (b"tRNS", struct.pack(">H", 1)))
    exif = Image.Exif()
    exif[274] = 3
    png(tmp_path / "turned.png", 16, 2, (1, 2, 3), (b"eXIf", exif.tobytes()[6:]))
    tifffile.imwrite(tmp_path / "planes.tif", np.moveaxis(RGB16, -1, 0), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "turned.tif", RGB16, photometric="rgb", extratags=[(274, 3, 1, 3, True)])
    tifffile.imwrite(tmp_path / "inverse.tif", GREY16, photometric="miniswhite")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ImageError, match="16-bit kind"):
            read_image(path, color=True)
    assert capfd.readouterr() == ("", "")


def test_12_bits_are_refused_rather_than_taken_as_16(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY16, byteorder="<")
    raw = (tmp_path / "a.tif").read_bytes()
    entry = struct.pack("<HHI", 258, 3, 1)  # bits per sample, one short
    assert raw.count(entry + b"\x10") == 1
    (tmp_path / "a.tif").write_bytes(raw.replace(entry + b"\x10", entry + b"\x0c"))
    with pytest.raises(ImageError, match="got 12 bits"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_the_orientation_that_a_camera_noted_is_applied(tmp_path, suffix, orientation):
    scene = np.zeros((24, 40), np.uint8)
    scene[:8, :16], scene[16:, 24:] = 255, 128  # TIFF 6.0, tag 274: which corner the first row and column are
    stored = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.T,
        6: scene.T[::-1],
        7: scene.T[::-1, ::-1],
        8: scene.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    path = store(tmp_path / f"a{suffix}", np.ascontiguousarray(stored), exif=exif, quality=100)
    assert np.abs(read_image(path).array * 255 - scene).max() < 4
    write_image(tmp_path / "b.png", read_image(path).array, bits=8)
    with Image.open(tmp_path / "b.png") as written:
        assert not written.getexif()


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("array", [GREY8, GREY16])
def test_a_turned_tiff_is_applied_or_refused(tmp_path, array, compression):
    for orientation, upright in {2: array[:, ::-1], 3: array[::-1, ::-1], 4: array[::-1]}.items():
        path, tags = tmp_path / f"{orientation}.tif", [(274, 3, 1, orientation, True)]
        tifffile.imwrite(path, array, compression=compression, extratags=tags)
        np.testing.assert_array_equal(read_image(path).array, (upright / np.iinfo(array.dtype).max).astype(np.float32))
    tifffile.imwrite(tmp_path / "6.tif", array, compression=compression, extratags=[(274, 3, 1, 6, True)])
    with pytest.raises(ImageError, match="upright"):
        read_image(tmp_path / "6.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_is_refused(tmp_path, suffix):
    Image.fromarray(GREY8).convert("CMYK").save(tmp_path / f"a{suffix}")
    with pytest.raises(ImageError, match="grey or RGB, got CMYK"):
        read_image(tmp_path / f"a{suffix}", color=True)


@pytest.mark.parametrize("side", [9_000, 20_000])
def test_a_header_of_too_large_an_image_is_refused_before_its_pixels_are_read(tmp_path, side):
    png(tmp_path / "a.png", 8, 0, (0,), size=(side, side))
    tifffile.imwrite(tmp_path / "a.tif", GREY8, byteorder="<")
    raw = (tmp_path / "a.tif").read_bytes()
    for tag in (256, 257):
        old = struct.pack("<HHI", tag, 4, 1) + struct.pack("<I", 16)
        assert raw.count(old) == 1
        raw = raw.replace(old, old[:8] + struct.pack("<I", side))
    (tmp_path / "a.tif").write_bytes(raw)
    np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (side, side))
    for suffix in (".png", ".tif", ".npy"):
        with pytest.raises(ImageError, match="at most 80 million pixels"):
            read_image(tmp_path / f"a{suffix}")


def test_pages_are_refused(tmp_path):
    page = Image.fromarray(GREY8)
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    with pytest.raises(ImageError, match="one page, got 2"):
        read_image(tmp_path / "a.tif")


def test_a_moving_image_is_refused(tmp_path):
    frames = [Image.fromarray(GREY8), Image.fromarray(GREY8.T)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "b.gif").rename(tmp_path / "b.png")
    for name, message in (("a.png", "one page, got 2"), ("b.png", "got a GIF image; export the series")):
        with pytest.raises(ImageError, match=message):
            read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("keep", [40, 300, -100, -2000])
def test_cut_16_bit_colour_is_refused(tmp_path, suffix, keep):
    array = np.random.default_rng(0).integers(0, 65536, (40, 40, 3)).astype(np.uint16)
    path = tmp_path / f"a{suffix}"
    if suffix == ".tif":  # its header comes first, so that a cut takes pixels alone
        tifffile.imwrite(path, array, photometric="rgb")
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=True), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ImageError):
        read_image(path, color=True)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy", ".jpg", ".bmp"])
@pytest.mark.parametrize("keep", [0, 5, 60, -100])
def test_cut_file_is_refused(tmp_path, suffix, keep):
    path = store(tmp_path / f"a{suffix}", np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ImageError):
        read_image(path)


def test_header_that_lies_about_the_size_allocates_nothing(tmp_path):
    path = store(tmp_path / "a.npy", GREY8)
    path.write_bytes(path.read_bytes().replace(b"(16, 16)", b"(400000, 400000)").replace(b" " * 12, b"", 1))
    with pytest.raises(ImageError):
        read_image(path)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (np.full((3, 3), np.nan), ImageError, "finite"),
        (np.array([[0, np.inf]]), ImageError, "finite"),
        (np.array([[0, 1e300]]), ImageError, "finite"),
        (np.ones((3, 3), np.int64), ImageError, "uint8, uint16 or float"),
        (np.ones((3, 3), complex), ImageError, "uint8, uint16 or float"),
        (np.array([[object()]]), ImageError, "npy file of numbers"),
        (np.ones(3), GeometryError, r"\[H, W\]"),
        (np.ones((2, 3, 3, 3)), GeometryError, r"\[H, W\]"),
        (np.ones((0, 3)), GeometryError, r"\[H, W\]"),
    ],
)
def test_bad_array_is_refused(tmp_path, array, error, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(error, match=message):
        read_image(tmp_path / "a.npy")


def test_absent_file_and_other_formats(tmp_path):
    with pytest.raises(ImageError, match="none there"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ImageError, match="suffix"):
        read_image(tmp_path / "a.gif")
    (tmp_path / "b.png").write_bytes(b"not an image" * 20)
    with pytest.raises(ImageError, match="another file"):
        read_image(tmp_path / "b.png")
    store(tmp_path / "c.tif", np.full((4, 4), 70000, np.int32))
    with pytest.raises(ImageError, match="32-bit"):
        read_image(tmp_path / "c.tif")


def test_constant_image_is_refused_on_demand(tmp_path):
    path = store(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    assert read_image(path).array.max() == 0
    with pytest.raises(ImageError, match="one value everywhere"):
        read_image(path, allow_constant=False)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("shape", [(600, 7), (513, 5, 3)])
def test_every_row_of_a_high_image_is_written(tmp_path, bits, shape):
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    write_image(tmp_path / "a.png", array, bits=bits)
    stored = read_image(tmp_path / "a.png", color=len(shape) == 3).array
    assert np.abs(stored.astype(np.float64) - array).max() <= 0.500001 / (2**bits - 1)


def test_rounding_is_half_to_even_and_clips_integers_only(tmp_path):
    write_image(tmp_path / "a.png", np.array([[-1, 0.5 / 255, 1.5 / 255, 2.5 / 255, 2]]), bits=8)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), [[0, 0, 2, 2, 255]])


@pytest.mark.parametrize(
    ("name", "array", "bits", "error"),
    [
        ("a.png", np.full((2, 2), np.nan), 8, ImageError),
        ("a.png", np.ones((2, 2)), 32, ImageError),
        ("a.npy", np.ones((2, 2)), 8, ImageError),
        ("a.jpg", np.ones((2, 2)), 8, ImageError),
        ("a.tif", np.ones((2, 2)), 32, ImageError),
        ("a.png", np.ones((2, 2)), 12, ImageError),
        ("a.png", np.ones((2, 2, 4)), 16, GeometryError),
        ("a.png", np.ones((3, 2, 2)), 8, GeometryError),
        ("a.png", np.ones((0, 2)), 8, GeometryError),
    ],
)
def test_bad_output_is_refused_and_leaves_nothing(tmp_path, name, array, bits, error):
    with pytest.raises(error):
        write_image(tmp_path / name, array, bits=bits)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy", ".jpg", ".bmp"])
def test_any_broken_file_gives_an_error_of_ours(tmp_path, suffix):
    rng = np.random.default_rng(0)
    raw = store(tmp_path / f"a{suffix}", GREY8).read_bytes()
    for _ in range(200):
        broken = bytearray(raw)
        for place in rng.integers(0, min(len(raw), 400), 3):
            broken[place] = rng.integers(256)
        (tmp_path / f"a{suffix}").write_bytes(broken)
        with contextlib.suppress(ImageError, GeometryError):
            read_image(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("head", [b"\x89PNG\r\n\x1a\nxx", b"\xff\xd8\xff\xe0", b"II*\0\x08", b"MM\0*"])
def test_an_image_cut_within_its_header_is_called_cut_and_not_renamed(tmp_path, head):
    path = tmp_path / "a.png"
    path.write_bytes(head)
    with pytest.raises(ImageError, match=r"must be a whole image, got a cut or corrupt one; copy it again\.$"):
        read_image(path)
