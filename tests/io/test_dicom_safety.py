"""Hostile and broken files: an error of ours, soon, with little memory, and nothing of a header in it."""

from __future__ import annotations

import logging
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid

from medfuse.errors import DicomError
from medfuse.io import DicomReader, list_series, open_series, series_suv
from medfuse.io.dicom import header as header_module
from medfuse.io.dicom import load_volume
from medfuse.io.dicom.header import read_header


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack("<HH2sHI", group, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def raw(body: bytes, syntax: str = uid.ExplicitVRLittleEndian, *, meta: bytes | None = None) -> bytes:
    """A file as bytes, for what pydicom would not write."""
    return bytes(128) + b"DICM" + (element(2, 0x10, b"UI", syntax.encode() + b"\0") if meta is None else meta) + body


IDENTITY = element(8, 0x16, b"UI", uid.MRImageStorage.encode()) + element(8, 0x18, b"UI", b"1.2.3\0")


def refused(path) -> str:
    with pytest.raises(DicomError) as caught:
        read_header(path)
    return str(caught.value)


def test_a_deflated_bomb_is_not_inflated(tmp_path):
    path = tmp_path / "bomb.dcm"
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = IDENTITY + element(8, 0x60, b"CS", b"MR") + element(0x7FE0, 0x10, b"OW", bytes(64 << 20))
    path.write_bytes(raw(squeeze.compress(content) + squeeze.flush(), uid.DeflatedExplicitVRLittleEndian))
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    try:
        assert "must not be deflated" in refused(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(DicomError, match=r"Every DICOM file must be readable, got 1 .*must not be deflated"):
        open_series(tmp_path)


def test_a_second_transfer_syntax_cannot_hide_behind_the_first(tmp_path):
    path = tmp_path / "two.dcm"
    meta = b"".join(
        element(2, 0x10, b"UI", s.encode()) for s in (uid.ExplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian)
    )
    path.write_bytes(raw(zlib.compress(IDENTITY), meta=meta))
    assert "must name one transfer syntax, got none or several" in refused(path)


@pytest.mark.parametrize("meta", [b"", element(2, 0x10, b"UI", b"CANARY^NAME"), element(2, 0x12, b"UI", b"1.2")])
def test_no_transfer_syntax_is_guessed(tmp_path, meta):
    path = tmp_path / "none.dcm"
    path.write_bytes(raw(IDENTITY, meta=meta))
    assert "must name one transfer syntax" in refused(path)


@pytest.mark.parametrize(
    "syntax", [*("1.2.840.10008.1.2.4." + n for n in ("50", "51", "100")), "1.2.840.113619.5.2", "9.9"]
)
def test_other_transfer_syntaxes_are_named_where_they_are_known(tmp_path, mri, save, syntax):
    paths = save(mri.slices(), tmp_path)
    data = paths[1].read_bytes()
    old, new = element(2, 0x10, b"UI", b"1.2.840.10008.1.2.1\0"), element(2, 0x10, b"UI", syntax.encode())
    assert old in data
    paths[1].write_bytes(data.replace(old, new))
    (series,) = list_series(tmp_path).series
    assert "must be uncompressed, RLE, JPEG Lossless, JPEG-LS or JPEG 2000, got" in series.problem
    assert syntax not in series.problem


def test_a_length_beyond_the_file_allocates_nothing(tmp_path):
    path = tmp_path / "long.dcm"
    lie = struct.pack("<HH2sHI", 0x5200, 0x9230, b"SQ", 0, 0xFFFFFFF0)  # a sequence that is wanted
    path.write_bytes(raw(IDENTITY + lie + b"short"))
    assert "must have a header of at most" in refused(path)


def test_a_header_of_endless_items_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(header_module, "_MAX_READS", 1000)
    path = tmp_path / "items.dcm"
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 2000
    path.write_bytes(raw(IDENTITY + struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + items))
    assert "must have a header of at most 1000 parts, got more" in refused(path)
    monkeypatch.setattr(header_module, "_MAX_READS", 500_000)
    monkeypatch.setattr(header_module, "_MAX_HEADER", 10_000)
    assert "must have a header of at most 10000 bytes" in refused(path)


def test_sequences_in_sequences_without_end_are_refused(tmp_path):
    path = tmp_path / "deep.dcm"
    one = struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    path.write_bytes(raw(IDENTITY + one * 50_000))
    assert "must have a well-formed header" in refused(path)


@pytest.mark.parametrize(("rows", "columns"), [(60000, 60000), (32767, 32767), (2000, 2000)])
def test_absurd_dimensions_are_refused_by_the_size_of_the_file(tmp_path, mri, save, rows, columns):
    datasets = mri.slices()
    datasets[1].Rows, datasets[1].Columns = rows, columns
    save(datasets, tmp_path)
    (series,) = list_series(tmp_path).series
    assert ("must have 1 to 32767 rows" if rows > 32767 else "it is cut short, or its dimensions") in series.problem


def test_absurd_dimensions_of_compressed_images_are_refused_by_the_budget(tmp_path, mri, save):
    datasets = mri.slices()
    for dataset in datasets:
        dataset.Rows = dataset.Columns = 32767
        dataset.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
        dataset.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    save(datasets, tmp_path)
    with pytest.raises(DicomError, match=r"must decode to at most 1073741824 bytes, got 21473525780; crop it"):
        open_series(tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 131, 132, 140, 300, 600, 900, 1200, -2720, -2000, -1])
def test_a_file_cut_anywhere_is_refused(tmp_path, mri, save, keep):
    paths = save(mri.slices(), tmp_path)
    paths[2].write_bytes(paths[2].read_bytes()[:keep])
    with pytest.raises(DicomError, match=r"file 3 of 5 by name must|number 3 of 5 by name, which must"):
        open_series(tmp_path)


@pytest.mark.parametrize("name", ["a.dcm", "a.DCM", "a.ima", "a"])
@pytest.mark.parametrize("content", [b"", b"not an image at all" * 50, bytes(4000)])
def test_other_files_are_unreadable_if_they_are_called_dicom(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    folder = list_series(tmp_path)
    assert (len(folder.unreadable), folder.others) == ((0, 1) if name == "a" else (1, 0))


def test_a_pipe_is_left_alone(tmp_path, mri, save):
    import os

    save(mri.slices(), tmp_path)
    os.mkfifo(tmp_path / "pipe.dcm")
    assert open_series(tmp_path).shape == (40, 34, 5)


@pytest.mark.parametrize(
    "text", ["../../../../tmp/evil", "/etc/passwd", "1.2.3/../4", "CANARY^NAME", "1." * 40 + "1", "", "1..2", "$(x)"]
)
@pytest.mark.parametrize("name", ["SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"])
def test_hostile_uids_are_refused_and_not_repeated(tmp_path, mri, save, name, text):
    from pydicom import config

    datasets = mri.slices()
    for dataset in datasets:
        delattr(dataset, name)
        with config.disable_value_validation():
            setattr(dataset, name, text)
    save(datasets, tmp_path)
    if name == "FrameOfReferenceUID" and not text:
        assert DicomReader().get_data([tmp_path])[1].get("frame_of_reference") is None
        return
    with pytest.raises(DicomError, match=f"must have a valid {name}, got") as caught:
        open_series(tmp_path)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("number", ["Rows", "PixelSpacing", "PatientWeight", "RescaleSlope"])
def test_no_value_of_a_header_is_in_an_error_warning_or_log_line(tmp_path, pet, save, number, caplog, canaries):
    """pydicom repeats what it cannot read; here it is silenced, and no cause of an error is shown."""
    from pydicom.dataelem import DataElement

    datasets = pet.slices()
    tag = datasets[1][number].tag
    del datasets[1][number]
    datasets[1][tag] = DataElement(tag, "LO", "CANARY^NAME")
    save(datasets, tmp_path)
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        (series,) = list_series(tmp_path).series
        if number == "PatientWeight":  # no pixel depends on it
            assert not series.problem
            with pytest.raises(DicomError, match="PatientWeight") as caught:
                series_suv(series, "bw")
        else:
            assert series.problem
            with pytest.raises(DicomError) as caught:
                open_series(tmp_path)
    error = caught.value
    while error is not None:
        told = str(error) + series.describe() + caplog.text + "".join(str(w.message) for w in seen)
        assert not [c for c in canaries if c in told]
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_pydicom_speaks_again_afterwards(tmp_path, mri, save):
    logger = logging.getLogger("pydicom")
    level = logger.level
    save(mri.slices(), tmp_path)
    load_volume(open_series(tmp_path))
    assert logger.level == level
    assert not logger.disabled


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes_give_a_header_or_an_error_of_ours(tmp_path_factory, pet, save, data):
    folder = tmp_path_factory.mktemp("flip", numbered=True)
    small = pet.change(stored=np.ones((2, 3, 4), np.int16), slopes=(1.0, 2.0))
    paths = save(small.slices(), folder)
    content = bytearray(paths[0].read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(128, len(content) - 1))] = data.draw(st.integers(0, 255))
    paths[0].write_bytes(content)
    try:
        volume, meta = DicomReader(allow_constant=True).get_data([folder])
    except DicomError as error:
        assert "must" in str(error)
    else:
        assert np.isfinite(volume).all() and np.isfinite(meta["affine"]).all()
