"""Decoding: every transfer syntax, every way to store a volume, and streams that lie about their size."""

from __future__ import annotations

from base64 import b85decode

import numpy as np
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_encoder
from pydicom.sequence import Sequence

from medfuse.errors import DicomError
from medfuse.io import open_series, series_suv
from medfuse.io.dicom import load_volume

NATIVE = [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian]
LOSSLESS = [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless]
LOSSY = [(uid.JPEGLSNearLossless, {"jls_error": 2}, 2), (uid.JPEG2000, {"j2k_cr": [2]}, 60)]

HTJ2K = (
    b"|4;u>04YEK0000A0000C00000000000000A0000C0000000000009pH0sl|{2mk^A000U9QUDA90ssL30R#j<0smY82Ox-uh=~7W02crOPjF>!N>E53"
    b"R%LP^FfKASE;BCwkN^q*00000p8x^>lfVEkN&kQI|9Aga|3CjH|6~4l|5g8A|7ZVO|3Cjv{vZEa{%ikr|4sin|4;ux{}2CX{h$70|6~7c|408d0e|(E"
    b"fBMU)A3^{zz5u`gEyw@`qW}P{AA<b=yr4}0G=vbu51|SE08jLFPY!?&fF-;D8!^(zIP#%KiI$JRD@M^f01@LDr~n7>2=cH2IspIK"
)


def compress(dataset, syntax, **options):
    """Compress with the encoder itself, frame by frame, such that lossy syntaxes are possible too."""
    frames = int(dataset.get("NumberOfFrames", 1))
    size = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
    description = {
        "rows": dataset.Rows, "columns": dataset.Columns, "samples_per_pixel": 1, "number_of_frames": 1,
        "photometric_interpretation": "MONOCHROME2", "bits_allocated": dataset.BitsAllocated,
        "bits_stored": dataset.BitsStored, "pixel_representation": dataset.PixelRepresentation,
    }  # fmt: skip
    raw = [dataset.PixelData[k * size : (k + 1) * size] for k in range(frames)]
    return packed(dataset, syntax, [get_encoder(syntax).encode(r, **description, **options) for r in raw])


def packed(dataset, syntax, streams):
    dataset.PixelData = encapsulate(streams)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


def load(folder) -> np.ndarray:
    return load_volume(open_series(folder))


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda s: s.name)
def test_uncompressed(tmp_path, mri, save, syntax):
    datasets = mri.slices()
    for dataset in datasets:
        dataset.file_meta.TransferSyntaxUID = syntax
    save(datasets, tmp_path)
    volume = load(tmp_path)
    assert volume.dtype == np.float32
    np.testing.assert_array_equal(volume, mri.volume)


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda s: s.name)
def test_lossless(tmp_path, mri, save, syntax):
    save([compress(d, syntax) for d in mri.slices()], tmp_path)
    np.testing.assert_array_equal(load(tmp_path), mri.volume)


@pytest.mark.parametrize(("syntax", "options", "error"), LOSSY, ids=lambda s: getattr(s, "name", ""))
def test_lossy(tmp_path, mri, save, syntax, options, error):
    save([compress(d, syntax, **options) for d in mri.slices()], tmp_path)
    assert 0 < np.abs(load(tmp_path) - mri.volume).max() <= error


def test_high_throughput_jpeg_2000(tmp_path, mri, save):
    """No encoder is installed: a stream of `(x**2 + 3 * y) % 50` for 12 rows and 10 columns."""
    y, x = np.mgrid[:12, :10]
    datasets = mri.change(stored=np.zeros((3, 12, 10), np.uint16)).slices()
    save([packed(d, uid.HTJ2KLossless, [b85decode(HTJ2K)]) for d in datasets], tmp_path)
    np.testing.assert_array_equal(load(tmp_path)[..., 1].T, (x**2 + 3 * y) % 50)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int32, np.uint32])
def test_types_of_pixels(tmp_path, mri, save, dtype):
    info = np.iinfo(dtype)
    low, high = max(info.min, -(2**23)), min(info.max, 2**23)
    stored = np.random.default_rng(0).integers(low, high, mri.stored.shape, endpoint=True).astype(dtype)
    scan = mri.change(stored=stored)
    save(scan.slices(), tmp_path)
    np.testing.assert_array_equal(load(tmp_path), scan.volume)


@pytest.mark.parametrize("above", [0x5000, 0x0000])
def test_bits_above_those_stored_count_only_for_overlays(tmp_path, mri, save, above):
    """12 bits of 16, signed and not extended; with an overlay above, which the header must tell."""
    stored = (mri.stored % 4096) - 2048
    datasets = mri.slices()
    for dataset, plane in zip(datasets, stored, strict=True):
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.PixelData = ((plane & 0x0FFF) | above).astype(np.uint16).tobytes()
    save(datasets, tmp_path)
    if above:
        with pytest.raises(DicomError, match="must hold values of 12 bits"):
            load(tmp_path)
        for dataset in datasets:
            dataset.add_new(0x60020102, "US", 12)  # Overlay Bit Position
        save(datasets, tmp_path)
    np.testing.assert_array_equal(load(tmp_path), stored.transpose(2, 1, 0))


def test_each_slice_scales_by_itself_whatever_the_order_of_the_files(tmp_path, pet, save):
    scan = pet.change(slopes=(1.7e-8, 0.3e-8, 2.9e-8, 11e-8, 0.01e-8))
    save(scan.slices()[::-1], tmp_path)
    np.testing.assert_allclose(load(tmp_path), scan.volume, rtol=1e-7)


def test_slope_and_intercept(tmp_path, mri, save):
    scan = mri.change(slopes=(2.0, 0.5, 3.0, 1.0, 4.0), intercept=-1024.0)
    save(scan.slices(), tmp_path)
    np.testing.assert_allclose(load(tmp_path), scan.volume, rtol=1e-6)


def test_values_beyond_float32_are_refused(tmp_path, mri, save):
    save(mri.change(slopes=(1.0, 1.0, 1e38, 1.0, 1.0)).slices(), tmp_path)
    with pytest.raises(DicomError, match="must be finite, got values beyond float32; check RescaleSlope"):
        load(tmp_path)


@pytest.mark.parametrize("modality", ["MR", "PT", "CT"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.RLELossless, uid.JPEG2000Lossless])
def test_enhanced_multi_frame(tmp_path, pet, save, modality, syntax):
    scan = pet.change(modality=modality)
    dataset = scan.enhanced()
    save(compress(dataset, syntax) if syntax != uid.ExplicitVRLittleEndian else dataset, tmp_path)
    series = open_series(tmp_path, modality=modality)
    np.testing.assert_allclose(series.affine, scan.affine, atol=1e-7)
    np.testing.assert_allclose(load_volume(series), scan.volume, rtol=1e-7)


def test_enhanced_frames_in_another_order(tmp_path, mri, save):
    dataset = mri.enhanced()
    order = [3, 0, 4, 1, 2]
    dataset.PerFrameFunctionalGroupsSequence = Sequence([dataset.PerFrameFunctionalGroupsSequence[k] for k in order])
    dataset.PixelData = mri.stored[order].tobytes()
    save(dataset, tmp_path)
    np.testing.assert_array_equal(load(tmp_path), mri.volume)


def test_suv_of_an_enhanced_pet(tmp_path, pet, save):
    """Units by real world value mapping; corrections and their time in attributes of their own (PS3.3 C.8.22)."""
    dataset = pet.enhanced()
    for name in ("Units", "DecayCorrection", "CorrectedImage", "SeriesTime", "AcquisitionTime"):
        delattr(dataset, name)
    dataset.DecayCorrected = dataset.AttenuationCorrected = "YES"
    dataset.DecayCorrectionDateTime = "20240301003000.00"
    (agent,) = dataset.RadiopharmaceuticalInformationSequence
    agent.RadiopharmaceuticalStartDateTime = "20240229233000"
    for frame, slope in zip(dataset.PerFrameFunctionalGroupsSequence, pet.slopes, strict=True):
        code, mapping = type(frame)(), type(frame)()
        code.CodeValue = "Bq/ml"
        mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = slope, 0.0
        mapping.MeasurementUnitsCodeSequence = Sequence([code])
        frame.RealWorldValueMappingSequence = Sequence([mapping])
    save(dataset, tmp_path)
    found = series_suv(open_series(tmp_path), "bw")
    assert found.factor == pytest.approx(2.7633668e-4, rel=1e-7)
    assert found.record["seconds_after_injection"]["DecayCorrectionDateTime"] == 3600

    mapping.RealWorldValueSlope = 7.0  # now the mapping says something else than the rescaling
    save(dataset, tmp_path)
    assert series_suv(open_series(tmp_path)).record["kind"] == "none"


def test_the_volume_agrees_with_another_reader(tmp_path, pet, save):
    sitk = pytest.importorskip("SimpleITK")
    scan = pet.change(slopes=())
    paths = save(scan.slices()[::-1], tmp_path)
    series = open_series(tmp_path)
    image = sitk.ReadImage([str(p) for p in paths[::-1]])
    np.testing.assert_allclose(sitk.GetArrayFromImage(image).transpose(2, 1, 0), load_volume(series), rtol=1e-6)
    for index in ((0, 0, 0), (39, 33, 4), (7, 3, 2)):
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        ras = series.affine @ (*index, 1)
        np.testing.assert_allclose(ras[:3], lps * (-1, -1, 1), atol=1e-4)


class TestStreamsThatLie:
    @pytest.fixture(params=[uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless], ids=lambda s: s.name)
    def stream(self, request, mri):
        """A compressed slice, its syntax, and the data set it belongs to."""
        dataset = compress(mri.slices()[0], request.param)
        return next(generate_frames(dataset.PixelData, number_of_frames=1)), request.param

    def spoilt(self, folder, mri, save, stream, syntax) -> None:
        datasets = [compress(d, syntax) for d in mri.slices()]
        packed(datasets[2], syntax, [stream])
        save(datasets, folder)

    @pytest.mark.parametrize("keep", [0.0, 0.2, 0.9])
    def test_a_cut_stream_is_refused(self, tmp_path, mri, save, stream, keep):
        self.spoilt(tmp_path, mri, save, stream[0][: int(keep * len(stream[0])) // 2 * 2] or b"\0\0", stream[1])
        with pytest.raises(DicomError, match=r"^File 3 of 5 by name of series 1.2.826.0.1.7.1 must hold"):
            load(tmp_path)

    def test_dimensions_are_compared_before_decoding(self, tmp_path, mri, save, stream, monkeypatch):
        data, syntax = bytearray(stream[0]), stream[1]
        if syntax == uid.RLELossless:
            pytest.skip("RLE has no dimensions of its own")
        at = 8 if syntax == uid.JPEG2000Lossless else data.index(b"\xff\xf7") + 5
        data[at : at + 4] = b"\0\0\xea\x60" if syntax == uid.JPEG2000Lossless else b"\xea\x60\xea\x60"
        self.spoilt(tmp_path, mri, save, bytes(data), syntax)
        with pytest.raises(DicomError, match="grey frames of 34 x 40, got one that says otherwise"):
            load(tmp_path)

    @pytest.mark.parametrize(("at", "bit"), [(42, 2), (42, 7), (43, 1), (44, 1)])
    def test_depth_sign_and_steps_are_compared_too(self, tmp_path, mri, save, at, bit):
        """They would only change values (ISO/IEC 15444-1 A.5.1: Ssiz, XRsiz, YRsiz)."""
        dataset = compress(mri.slices()[0], uid.JPEG2000Lossless)
        data = bytearray(next(generate_frames(dataset.PixelData, number_of_frames=1)))
        data[at] ^= 1 << bit
        self.spoilt(tmp_path, mri, save, bytes(data), uid.JPEG2000Lossless)
        with pytest.raises(DicomError, match=r"File 3 of 5 .* must hold frames of 16 bits"):
            load(tmp_path)

    def test_noise_is_refused(self, tmp_path, mri, save, stream):
        noise = np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8).tobytes()
        self.spoilt(tmp_path, mri, save, noise + b"\xff\xd9", stream[1])
        with pytest.raises(DicomError, match="File 3 of 5"):
            load(tmp_path)

    def test_an_endless_stream_is_refused(self, tmp_path, mri, save, stream):
        self.spoilt(tmp_path, mri, save, stream[0] + bytes(1 << 20), stream[1])
        with pytest.raises(DicomError, match="must hold frames of about 2720 bytes, got one of"):
            load(tmp_path)

    @pytest.mark.parametrize("cut", [8, 100, 1000])
    def test_a_cut_file_is_refused(self, tmp_path, mri, save, stream, cut):
        save([compress(d, stream[1]) for d in mri.slices()], tmp_path)
        path = tmp_path / "CANARY_2.dcm"
        path.write_bytes(path.read_bytes()[:-cut])
        if cut > 8:  # 8 bytes are the delimiter of the sequence, without which the frame is still whole
            with pytest.raises(DicomError, match="File 3 of 5"):
                load(tmp_path)
        else:
            np.testing.assert_array_equal(load(tmp_path), mri.volume)

    def test_a_wrong_number_of_frames_is_refused(self, tmp_path, mri, save, stream):
        dataset = compress(mri.enhanced(), stream[1])
        frames = list(generate_frames(dataset.PixelData, number_of_frames=5))
        save(packed(dataset, stream[1], frames[:4]), tmp_path)
        with pytest.raises(DicomError, match="File 1 of 1"):
            load(tmp_path)
