"""Gzip streams that are written: the same content by each library, nothing of name or time, equal bytes each time."""

import gzip
from importlib.util import find_spec
from io import BytesIO

import numpy as np
import pytest

from medfuse.io import packing, write_nifti

CONTENT = np.random.default_rng(0).integers(0, 9, 100_000, dtype=np.int16).tobytes()


def _packed():
    file = BytesIO()
    with packing.packed(file) as stream:
        stream.write(CONTENT)
    return file.getvalue()


@pytest.mark.parametrize("installed", [False, pytest.param(True, marks=pytest.mark.skipif(
    find_spec("isal") is None, reason="medfuse[fast] is not installed"
))])  # fmt: skip
def test_a_stream_holds_the_content_and_neither_name_nor_time(installed, monkeypatch):
    if not installed:
        monkeypatch.setattr(packing, "igzip", None)
    assert packing.packer() == ("isal" if installed else "zlib")
    bytes_ = _packed()
    assert gzip.decompress(bytes_) == CONTENT
    assert bytes_ == _packed()
    assert bytes_[:4] == b"\x1f\x8b\x08\x00"  # RFC 1952: deflate, and no flag: no name follows
    assert bytes_[4:8] == bytes(4)  # of no time


def test_a_nifti_is_read_back_bit_by_bit_whoever_packed_it(tmp_path, monkeypatch):
    nib = pytest.importorskip("nibabel")
    volume = np.random.default_rng(1).normal(size=(7, 6, 5)).astype(np.float32)
    write_nifti(tmp_path / "one.nii.gz", volume, np.eye(4))
    monkeypatch.setattr(packing, "igzip", None)
    write_nifti(tmp_path / "two.nii.gz", volume, np.eye(4))
    one, two = (nib.load(tmp_path / f"{name}.nii.gz").get_fdata(dtype=np.float32) for name in ("one", "two"))
    assert np.array_equal(one, volume) and np.array_equal(two, volume)
