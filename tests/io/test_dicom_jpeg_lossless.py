"""JPEG Lossless: exact against the uncompressed series, and refused where the stream is not whole."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate, generate_frames

from medfuse.errors import DicomError
from medfuse.io import DicomReader


def encode(frame: np.ndarray, precision: int, *, predictor: int = 1, interval: int = 0, shift: int = 0) -> bytes:
    """Return a frame [rows, columns] as a JPEG Lossless stream, by T.81 annex H, with codes of 5 bits."""
    rows, columns = frame.shape
    values, bits = frame.astype(int), []
    for y in range(rows):
        first = y % interval == 0 if interval else y == 0
        if first and y:
            bits += ["1"] * (-sum(isinstance(b, str) for b in bits) % 8) + [("restart", (y // interval - 1) % 8)]
        for x in range(columns):
            a, b, c = (
                (values[y, x - 1] if x else 0),
                (values[y - 1, x] if y else 0),
                (values[y - 1, x - 1] if x and y else 0),
            )
            if first:
                guess = a if x else 1 << (precision - 1)
            elif not x:
                guess = b
            else:
                guess = (a, b, c, a + b - c, a + ((b - c) >> 1), b + ((a - c) >> 1), (a + b) >> 1)[predictor - 1]
            difference = (int(values[y, x]) - int(guess) + (1 << 15)) % (1 << 16) - (1 << 15)
            size = abs(difference).bit_length()
            if difference == -(1 << 15):
                bits += list(f"{16:05b}")
                continue
            bits += list(f"{size:05b}")
            if size:
                bits += list(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    coded, run = bytearray(), []
    for bit in [*bits, *["1"] * (-sum(isinstance(b, str) for b in bits) % 8)]:
        if isinstance(bit, tuple):
            coded += bytes((0xFF, 0xD0 + bit[1]))
            continue
        run.append(bit)
        if len(run) == 8:
            byte, run = int("".join(run), 2), []
            coded += bytes((byte, 0)) if byte == 0xFF else bytes((byte,))
    counts, codes = bytes([0, 0, 0, 0, 17, *[0] * 11]), bytes(range(17))
    head = b"\xff\xd8\xff\xc3" + (11).to_bytes(2, "big") + bytes((precision,))
    head += rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + bytes((1, 1, 0x11, 0))
    head += b"\xff\xc4" + (2 + 17 + 17).to_bytes(2, "big") + b"\0" + counts + codes
    if interval:
        head += b"\xff\xdd" + (4).to_bytes(2, "big") + (interval * columns).to_bytes(2, "big")
    head += b"\xff\xda" + (8).to_bytes(2, "big") + bytes((1, 1, 0, predictor, 0, shift))
    return head + bytes(coded) + b"\xff\xd9"


@pytest.fixture
def compressed(pet, save, tmp_path):
    """Return the function that writes a series with streams in place of its pixels, and the values to be found."""

    def write(stream=encode, *, dtype=np.int16, bits=16, syntax=uid.JPEGLosslessSV1, **options):
        span = 1 << (bits - (dtype == np.int16))
        low = -span if dtype == np.int16 else 0
        stored = np.random.default_rng(1).integers(low, span, (5, 14, 17)).astype(dtype)
        stored[:, 3:9] = stored[:, 3:4, :1] // 3 + np.arange(17, dtype=dtype)  # smooth as well
        scan = pet.change(stored=stored)
        datasets = scan.slices()
        for dataset, frame in zip(datasets, stored, strict=True):
            dataset.BitsStored, dataset.HighBit = bits, bits - 1
            raw = frame.astype(int) & ((1 << bits) - 1)
            dataset.PixelData = encapsulate([stream(raw, bits, **options)])
            dataset["PixelData"].VR = "OB"
            dataset.file_meta.TransferSyntaxUID = syntax
        return save(datasets, tmp_path / "compressed")[0].parent, scan.volume

    return write


def load(folder):
    return DicomReader(suv="none").get_data((folder,))[0]


@pytest.mark.parametrize(("dtype", "bits"), [(np.int16, 16), (np.uint16, 16), (np.uint16, 12), (np.uint8, 8)])
def test_every_value_is_exact(compressed, dtype, bits):
    folder, expected = compressed(dtype=dtype, bits=bits)
    assert np.array_equal(load(folder), expected.astype(np.float32))


@pytest.mark.parametrize("predictor", range(1, 8))
def test_every_predictor(compressed, predictor):
    folder, expected = compressed(predictor=predictor, syntax=uid.JPEGLossless)
    assert np.array_equal(load(folder), expected.astype(np.float32))


def test_a_code_that_restarts(compressed):
    folder, expected = compressed(interval=5)
    assert np.array_equal(load(folder), expected.astype(np.float32))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s[: len(s) // 2] + b"\xff\xd9", "cut short or corrupt"),
        (lambda s: s[:-12] + b"\xff\xd9", "cut short or corrupt"),
        (lambda s: s[:-2] + b"\x55\x55\xff\xd9", "cut short or corrupt"),
        (lambda s: s[:-2], "cut short"),
        (lambda s: s.replace(b"\xff\xc3", b"\xff\xc0", 1), "another process"),
        (lambda s: s[:7] + b"\x7f\xff" + s[9:], "got one that says otherwise"),
        (lambda s: s[:6] + b"\x08" + s[7:], "must hold frames of 16 bits, got 8"),
        (lambda s: b"\0\0" + s[2:], "another beginning"),
        (lambda s: s[:2] + b"\xff\xd9", "without its scan|that can be decoded"),
    ],
)
def test_what_is_no_whole_frame_is_refused(compressed, spoil, message):
    folder, _ = compressed(lambda *args: spoil(encode(*args)))
    with pytest.raises(DicomError, match=message):
        load(folder)


def test_a_shift_of_the_values_is_refused(compressed):
    """A point transform drops bits (T.81 H.1.2.1): the process is then lossless no more."""
    folder, _ = compressed(shift=1)
    with pytest.raises(DicomError, match="one lossless scan"):
        load(folder)


@pytest.mark.full
@pytest.mark.parametrize("process", ["+e1", "+el"])
def test_what_dcmtk_compresses(pet, save, tmp_path, process):
    tool = shutil.which("dcmcjpeg")
    if tool is None:
        pytest.skip("dcmcjpeg of dcmtk is not installed")
    plain = save(pet.slices(), tmp_path / "plain")
    (tmp_path / "packed").mkdir()
    for path in plain:
        subprocess.run([tool, process, str(path), str(tmp_path / "packed" / path.name)], check=True)
    assert np.array_equal(load(tmp_path / "packed"), load(plain[0].parent))
    cut = dcmread(tmp_path / "packed" / plain[2].name)
    stream = next(generate_frames(cut.PixelData, number_of_frames=1))
    cut.PixelData = encapsulate([stream[:-200] + b"\xff\xd9"])
    cut.save_as(tmp_path / "packed" / plain[2].name)
    with pytest.raises(DicomError, match="must hold whole frames"):
        load(tmp_path / "packed")
