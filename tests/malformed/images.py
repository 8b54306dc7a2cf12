"""Malformed 2-D images. JPEG, BMP, TIFF and npy hold no checksum: their pixels are not flipped, PNG's are."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from malformed.corpus import Case, Way, Write, cut, drop, flip, put
from PIL import Image

H, W = 40, 48


def pixels(seed: int) -> np.ndarray:
    """Return a disc in noise, uint8."""
    y, x = np.mgrid[:H, :W]
    disc = 150 * ((y - H / 2) ** 2 + (x - W / 2) ** 2 < 200)
    return (disc + np.random.default_rng(seed).uniform(0, 90, (H, W))).astype(np.uint8)


def _folder(suffix: str, save: Callable[[np.ndarray, Path], Any]) -> Way:
    def sound(folder: Path) -> None:
        for n, source in enumerate(("one", "two")):
            (folder / source).mkdir()
            for k, name in enumerate("ab"):
                save(pixels(2 * n + k), folder / source / f"{name}{suffix}")

    call = ("images", "--source1", "IN/one", "--source2", "IN/two", "--out", "OUT", "--steps", "1")
    return Way(sound, (call,))


PNG = _folder(".png", lambda a, p: Image.fromarray(a).save(p))
TIFF = _folder(".tif", lambda a, p: Image.fromarray(a).save(p))
PACKED_TIFF = _folder(".tif", lambda a, p: Image.fromarray(a).save(p, compression="tiff_adobe_deflate"))
JPEG = _folder(".jpg", lambda a, p: Image.fromarray(a).save(p))
BMP = _folder(".bmp", lambda a, p: Image.fromarray(a).save(p))
NPY = _folder(".npy", lambda a, p: np.save(p, a / np.float32(255)))


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG with its checksum (PNG specification, 5.3)."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *, depth: int = 8, colour: int = 0, rows: bytes = b"", more: bytes = b"") -> bytes:
    """Return a PNG of any claim."""
    size = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _saved(array: np.ndarray, name: str = "one/a.npy", **options: Any) -> Write:
    def damage(folder: Path) -> None:
        np.save(folder / name, array, **options)

    return damage


def _npy(shape: str, descr: str = "'<f4'", order: str = "False", data: bytes = bytes(H * W * 4)) -> Write:
    head = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    head += b" " * (118 - len(head) - 1 if len(head) < 117 else 1) + b"\n"
    return put("one/a.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + data)


def _as(image: Image.Image, format: str = "PNG", name: str = "one/a.png", **options: Any) -> Write:
    stream = io.BytesIO()
    image.save(stream, format=format, **options)
    return put(name, stream.getvalue())


def cases() -> Iterator[Case]:
    """Give all cases."""
    for kind, way, suffix in (
        ("PNG", PNG, "png"),
        ("TIFF", TIFF, "tif"),
        ("TIFF", PACKED_TIFF, "tif"),
        ("JPEG", JPEG, "jpg"),
        ("BMP", BMP, "bmp"),
        ("npy", NPY, "npy"),
    ):
        for fraction in (0, 0.01, 0.1, 0.5, 0.9, 0.995):
            packed = ", packed" if way is PACKED_TIFF else ""
            yield Case("images cut", f"{kind}{packed} to {fraction:.1%}", way, cut(f"one/a.{suffix}", fraction))

    stream = io.BytesIO()
    Image.fromarray(pixels(0)).save(stream, format="PNG")
    size = len(stream.getvalue())
    for k, byte in enumerate([*range(33), *np.linspace(33, size - 13, 24).astype(int), *range(size - 12, size)]):
        yield Case("PNG bits", f"bit {k % 8} of byte {byte}", PNG, flip("one/a.png", int(byte), k % 8))
    for byte in range(8):
        yield Case("other bits", f"TIFF, byte {byte}", TIFF, flip("one/a.tif", byte, byte % 8))
        yield Case("other bits", f"npy, byte {byte}", NPY, flip("one/a.npy", byte, byte % 8))
    for byte in (0, 1, *range(10, 30)):
        yield Case("other bits", f"BMP, byte {byte}", BMP, flip("one/a.bmp", byte, 3))

    grey = Image.fromarray(pixels(0))
    palette = grey.convert("P")
    clear = Image.merge("LA", (grey, Image.new("L", grey.size, 100)))
    kinds: dict[str, Write] = {
        "empty": put("one/a.png", b""),
        "text": put("one/a.png", "no image" * 99),
        "absent": drop("one/a.png"),
        "a web page": put("one/a.png", "<!DOCTYPE html><html></html>"),
        "Git LFS": put("one/a.png", "version https://git-lfs.github.com/spec/v1\n"),
        "git-annex": put("one/a.png", "/annex/objects/MD5E-s4096--0.png\n"),
        "a folder": lambda f: ((f / "one/a.png").unlink(), (f / "one/a.png").mkdir()),
        "a link to nothing": lambda f: ((f / "one/a.png").unlink(), (f / "one/a.png").symlink_to("x")),
        "a pipe": lambda f: ((f / "one/a.png").unlink(), os.mkfifo(f / "one/a.png")),
        "a GIF": _as(palette, "GIF"),
        "a WebP": _as(grey.convert("RGB"), "WEBP"),
        "a PDF": put("one/a.png", b"%PDF-1.4\n"),
        "SVG": put("one/a.png", "<svg xmlns='http://www.w3.org/2000/svg'/>"),
        "EPS": put("one/a.png", "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        "colour": _as(Image.merge("RGB", (grey, grey.rotate(90), grey))),
        "transparent": _as(clear),
        "CMYK": _as(grey.convert("CMYK"), "TIFF"),
        "16 bit colour": put("one/a.png", png(W, H, depth=16, colour=2)),
        "two pages": _as(grey, "TIFF", save_all=True, append_images=[grey]),
        "32-bit integers": _as(Image.fromarray(pixels(0).astype(np.int32)), "TIFF"),
        "NaN in TIFF": _as(Image.fromarray(np.full((H, W), np.nan, np.float32)), "TIFF"),
        "another size": _as(grey.resize((W + 1, H))),
        "a third of the size": _as(grey.resize((W // 3, H // 3))),
        "transposed": _as(grey.transpose(Image.Transpose.ROTATE_90)),
        "one pixel": _as(grey.resize((1, 1))),
        "no pixel": put("one/a.png", png(0, 0)),
        "no image data": put("one/a.png", png(W, H)),
        "depth 3": put("one/a.png", png(W, H, depth=3)),
        "colour type 9": put("one/a.png", png(W, H, colour=9)),
        "too few rows": put("one/a.png", png(W, H, rows=zlib.compress(bytes((W + 1) * (H - 1))))),
        "filter 99": put("one/a.png", png(W, H, rows=zlib.compress(b"c" * ((W + 1) * H)))),
        "no palette": put("one/a.png", png(W, H, colour=3, rows=zlib.compress(bytes((W + 1) * H)))),
        "a text chunk": _as(grey, pnginfo=None),
        "constant both": lambda f: [Image.new("L", (W, H), 9).save(f / s / "a.png") for s in ("one", "two")],
    }
    for name, damage in kinds.items():
        yield Case("image kinds", name, PNG, damage)

    numbers = {
        "objects": _saved(np.array([{}], dtype=object), allow_pickle=True),
        "text": _saved(np.full((H, W), "a")),
        "complex": _saved(np.ones((H, W), complex)),
        "int64": _saved(np.ones((H, W), np.int64)),
        "booleans": _saved(np.ones((H, W), bool)),
        "times": _saved(np.ones((H, W), "M8[s]")),
        "records": _saved(np.ones((H, W), "f4,f4")),
        "NaN": _saved(np.full((H, W), np.nan, np.float32)),
        "inf": _saved(np.where(pixels(0) > 200, np.inf, 0.5).astype(np.float32)),
        "beyond float32": _saved(np.full((H, W), 1e300)),
        "1-D": _saved(np.ones(9)),
        "0-D": _saved(np.array(3.0)),
        "4-D": _saved(np.ones((1, 1, H, W))),
        "2 channels": _saved(np.ones((H, W, 2))),
        "empty": _saved(np.ones((0, W))),
        "a shape too large": _npy(f"({H}, {10**6})"),
        "a shape beyond all": _npy(f"({2**40}, {2**40})"),
        "a negative shape": _npy(f"(-{H}, {W})"),
        "a shape of text": _npy("'40'"),
        "a shape of floats": _npy("(40.0, 48.0)"),
        "a call in the header": _npy("__import__('os').getcwd()"),
        "a type of pickles": _npy(f"({H}, {W})", "'|O'"),
        "an unknown type": _npy(f"({H}, {W})", "'<q9'"),
        "a deep header": _npy("(" * 500 + ")" * 500),
        "a pickle": put("one/a.npy", b"\x80\x04cos\nsystem\n(S'true'\ntR."),
        "a zip": put("one/a.npy", b"PK\3\4" + bytes(99)),
        "version 9": lambda f: (f / "one/a.npy").write_bytes(b"\x93NUMPY\x09\0" + bytes(200)),
    }
    for name, damage in numbers.items():
        yield Case("npy kinds", name, NPY, damage)

    def tiff(change: Callable[[bytearray], Any]) -> Write:
        def damage(folder: Path) -> None:
            raw = bytearray((folder / "one/a.tif").read_bytes())
            change(raw)
            (folder / "one/a.tif").write_bytes(raw)

        return damage

    def entries(raw: bytearray) -> dict[int, int]:
        at = struct.unpack("<I", raw[4:8])[0]
        return {struct.unpack("<H", raw[p : p + 2])[0]: p for p in range(at + 2, at + 2 + 12 * raw[at], 12)}

    def entry(tag: int, value: int) -> Write:
        return tiff(
            lambda raw: raw.__setitem__(slice(entries(raw)[tag] + 8, entries(raw)[tag] + 12), struct.pack("<I", value))
        )

    def loop(raw: bytearray) -> None:
        at = struct.unpack("<I", raw[4:8])[0]
        end = at + 2 + 12 * raw[at]
        raw[end : end + 4] = struct.pack("<I", at)

    directories = {
        "a directory that follows itself": tiff(loop),
        "width 0": entry(256, 0),
        "width 60000": entry(256, 60000),
        "height 60000": entry(257, 60000),
        "height + 1": entry(257, H + 1),
        "12 bits": entry(258, 12),
        "64 bits": entry(258, 64),
        "compression 9": entry(259, 9),
        "compression LZW": entry(259, 5),
        "compression JPEG": entry(259, 7),
        "white is zero and 16": entry(258, 16),
        "colour": entry(262, 2),
        "offset beyond": entry(273, 1 << 30),
        "rows per strip 0": entry(278, 0),
        "bytes of a strip": entry(279, 3),
        "directory beyond": tiff(lambda raw: raw.__setitem__(slice(4, 8), b"\xff" * 4)),
        "65535 entries": tiff(
            lambda raw: raw.__setitem__(slice(struct.unpack("<I", raw[4:8])[0], None), b"\xff\xff" * 99)
        ),
    }
    for name, damage in directories.items():
        yield Case("TIFF directory", name, TIFF, damage)

    def zeros(width: int, height: int) -> Callable[[], bytes]:
        return lambda: png(width, height, rows=zlib.compress(bytes((width + 1) * height), 1))

    def padded(kind: bytes) -> Callable[[], bytes]:
        return lambda: png(W, H, more=chunk(kind, b"a\0\0" + zlib.compress(bytes(64 << 20), 1)))

    bombs = {
        "PNG of 60000 x 60000": png(60000, 60000),
        "PNG of 2^31": png(2**31 - 1, 2**31 - 1),
        "PNG of 900 megapixels": zeros(30000, 30000),
        "PNG of 100 megapixels": zeros(10000, 10000),
        "PNG, text of 64 MiB": padded(b"zTXt"),
        "PNG, profile of 64 MiB": padded(b"iCCP"),
        "PNG, a chunk of 2 GiB": png(W, H, more=struct.pack(">I", 2**31 - 1) + b"tEXt" + b"a\0b"),
    }
    for name, content in bombs.items():
        yield Case("image bombs", name, PNG, put("one/a.png", content))

    def renamed(name: str) -> Write:
        return lambda f: [(f / s / "a.png").rename(f / s / name) for s in ("one", "two")]

    names: dict[str, Write] = {
        "250 letters": renamed("x" * 246 + ".png"),
        "255 letters": renamed("x" * 251 + ".png"),
        "a new line": renamed("a\nb.png"),
        "an escape": renamed("\x1b[2J.png"),
        "no UTF-8": lambda f: (
            [(f / s / "a.png").rename(f / s / os.fsdecode(b"\xff\xfe.png")) for s in ("one", "two")]
        ),
        "dots": renamed("a...png"),
        "markup": renamed("<img src=x onerror=alert(1)>.png"),
        "a dollar": renamed("$(x) $x$.png"),
        "a formula": renamed("$\\frac{$.png"),
        "a partner in capitals": lambda f: (f / "two/a.png").rename(f / "two/A.png"),
        "the same name twice": lambda f: (f / "one/a.jpg").write_bytes((f / "one/a.png").read_bytes()),
        "no partner": drop("two/a.png"),
        "no folder": drop("two"),
        "a file for a folder": lambda f: (drop("two")(f), (f / "two").write_bytes(b"")),
        "an empty folder": lambda f: [p.unlink() for p in (f / "one").iterdir()],
    }
    for name, damage in names.items():
        yield Case("image names", name, PNG, damage)
