from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image

from medfuse.errors import BundleError, GeometryError, ImageError
from medfuse.io.images import Image2D, check_pair, match_folders, read_image, write_image

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


def test_16_bit_colour_is_refused_rather_than_halved(tmp_path):
    # One pixel of 16-bit RGB, which Pillow reads as 8-bit without a word
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" + struct.pack(">HHH", 1, 2, 3)))
        + chunk(b"IEND", b"")
    )
    with pytest.raises(ImageError, match="16-bit kind"):
        read_image(tmp_path / "a.png", color=True)


def test_pages_are_refused(tmp_path):
    page = Image.fromarray(GREY8)
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    with pytest.raises(ImageError, match="one page, got 2"):
        read_image(tmp_path / "a.tif")


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


def test_rounding_is_half_to_even_and_clips_integers_only(tmp_path):
    write_image(tmp_path / "a.png", np.array([[-1, 0.5 / 255, 1.5 / 255, 2.5 / 255, 2]]), bits=8)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), [[0, 0, 2, 2, 255]])


@pytest.mark.parametrize(
    ("name", "array", "bits", "error"),
    [
        ("a.png", np.full((2, 2), np.nan), 8, ImageError),
        ("a.png", np.ones((2, 2)), 32, ImageError),
        ("a.npy", np.ones((2, 2)), 8, ImageError),
        ("a.tif", np.ones((2, 2)), 8, ImageError),
        ("a.png", np.ones((2, 2)), 12, ImageError),
        ("a.png", np.ones((2, 2, 3)), 16, GeometryError),
        ("a.png", np.ones((3, 2, 2)), 8, GeometryError),
        ("a.png", np.ones((0, 2)), 8, GeometryError),
    ],
)
def test_bad_output_is_refused_and_leaves_nothing(tmp_path, name, array, bits, error):
    with pytest.raises(error):
        write_image(tmp_path / name, array, bits=bits)
    assert not list(tmp_path.iterdir())


def image(*shape, value=None):
    array = np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    return Image2D(array if value is None else np.full(shape, value, np.float32), 8, "png")


@pytest.mark.parametrize(("small", "factor"), [((9, 12), 1), ((5, 6), 2), ((3, 3), 4)])
def test_pair_gives_the_factor(small, factor):
    assert check_pair(image(9, 12), image(*small)) == factor


def test_unfit_pairs_are_refused():
    for shape in ((9, 11), (4, 6), (18, 24), (9, 6)):
        with pytest.raises(GeometryError, match=r"smaller by 2 or 4, got"):
            check_pair(image(9, 12), image(*shape))
    assert check_pair(image(9, 12), image(9, 12, value=0)) == 1
    with pytest.raises(ImageError, match="two constant"):
        check_pair(image(9, 12, value=1), image(9, 12, value=0))


def folders(tmp_path, first, second):
    for folder, names in (("one", first), ("two", second)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_bytes(b"")
    return tmp_path / "one", tmp_path / "two"


def test_folders_match_by_stem(tmp_path):
    one, two = folders(tmp_path, ("b.png", "a.tif", "notes.txt", ".c.png"), ("a.npy", "b.PNG"))
    assert match_folders(one, str(two)) == [("a", one / "a.tif", two / "a.npy"), ("b", one / "b.png", two / "b.PNG")]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (("a.png", "b.png"), ("a.png",), "got 1 without one in source2: b;"),
        (("a.png",), ("a.png", "b.png"), "got 1 without one in source1: b;"),
        (tuple("abcde.png"[i] + ".png" for i in range(5)), ("a.png",), r"got 4 .* b, c, d, \.\.\."),
        (("a.png", "a.tif"), ("a.png",), "a.png and a.tif"),
        ((), ("a.png",), "source1 must hold images"),
        (("a.png",), ("a.txt",), "source2 must hold images"),
    ],
)
def test_unmatched_folders_are_refused(tmp_path, first, second, message):
    with pytest.raises(BundleError, match=message):
        match_folders(*folders(tmp_path, first, second))


def test_absent_folder_is_refused(tmp_path):
    with pytest.raises(BundleError, match="source1 must be a folder"):
        match_folders(tmp_path / "absent", tmp_path)


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
