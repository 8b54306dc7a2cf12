from __future__ import annotations

import contextlib
import gzip

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import LoadImage, LoadImaged
from nibabel.spatialimages import HeaderDataError

from medfuse.errors import GeometryError, ImageError
from medfuse.io import DicomReader, VolumeReader
from medfuse.io.nifti import NiftiReader, check_nifti, write_nifti, write_rgb_nifti

SHAPE = (5, 6, 7)


def rotation(x, y, z):
    (cx, cy, cz), (sx, sy, sz) = np.cos([x, y, z]), np.sin([x, y, z])
    return (
        np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
        @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        @ np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    )


def affine(angles=(0.3, -0.2, 0.5), zooms=(0.7, 1.3, 3.27), origin=(-91.3, 120.7, -61.1)):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(*angles) * zooms
    matrix[:3, 3] = origin
    return matrix


def ramp(shape=SHAPE):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def save(path, array=None, matrix=None, header=None):
    """Write with nibabel, then overwrite header fields with raw values."""
    image = nib.Nifti1Image(ramp() if array is None else array, affine() if matrix is None else matrix)
    raw = bytearray(image.to_bytes())
    if header:
        fields = nib.Nifti1Header(bytes(raw[:348]), check=False)
        for name, value in header.items():
            fields[name] = value
        raw[:348] = fields.binaryblock
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("array", [ramp(), ramp().astype(np.int16), ramp()[..., None]], ids=["f4", "i2", "singleton"])
def test_sound_file_passes(tmp_path, name, array):
    info = check_nifti(save(tmp_path / name, array))
    assert info.shape == SHAPE
    assert info.dtype == array.dtype
    np.testing.assert_allclose(info.affine, affine(), atol=1e-5)


def test_nifti2_passes(tmp_path):
    nib.save(nib.Nifti2Image(ramp(), affine()), tmp_path / "a.nii.gz")
    assert check_nifti(tmp_path / "a.nii.gz").shape == SHAPE
    assert LoadImage(reader=NiftiReader())(tmp_path / "a.nii.gz").shape == SHAPE


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("keep", [0, 100, 400, -40, -1])
def test_cut_file_is_refused(tmp_path, name, keep):
    path = save(tmp_path / name)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ImageError, match=r"cut short|part of one"):
        check_nifti(path)


def test_wrong_checksum_is_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz")
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ImageError, match="corrupt"):
        check_nifti(path)


def test_gzip_with_short_content_is_refused(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(save(tmp_path / "b.nii").read_bytes()[:-4]))
    with pytest.raises(ImageError, match="cut short"):
        check_nifti(path)


def test_bomb_is_stopped(tmp_path):
    path = tmp_path / "a.nii.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(save(tmp_path / "b.nii").read_bytes())
        for _ in range(8):
            file.write(bytes(1 << 20))
    with pytest.raises(ImageError, match="its header is wrong"):
        check_nifti(path)


def test_size_is_judged_before_decoding(tmp_path):
    path = save(tmp_path / "a.nii.gz", header={"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]})
    with pytest.raises(ImageError, match="decode to at most"):
        check_nifti(path)
    with pytest.raises(ImageError, match="decode to at most 100 bytes"):
        check_nifti(save(tmp_path / "b.nii"), max_bytes=100)


@pytest.mark.parametrize("content", [b"not an image at all" * 50, b"", bytes(400)])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_other_format_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError):
        check_nifti(tmp_path / name)


def test_header_of_a_pair_is_refused(tmp_path):
    with pytest.raises(ImageError, match="single-file"):
        check_nifti(save(tmp_path / "a.nii", header={"magic": b"ni1"}))


def test_absent_file_folder_and_suffix(tmp_path):
    with pytest.raises(ImageError, match="none there"):
        check_nifti(tmp_path / "a.nii")
    (tmp_path / "b.nii").mkdir()
    with pytest.raises(ImageError, match="none there"):
        check_nifti(tmp_path / "b.nii")
    (tmp_path / "c.img").write_bytes(b"")
    with pytest.raises(ImageError, match="suffix"):
        check_nifti(tmp_path / "c.img")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"srow_x": [np.nan, 0, 0, 0]}, "finite"),
        ({"srow_x": [0, 0, 0, 0], "srow_y": [0, 1, 0, 0], "srow_z": [0, 0, 1, 0]}, "singular"),
        ({"srow_x": [1, 1, 0, 0], "srow_y": [1, 1, 0, 0], "srow_z": [0, 0, 1, 0]}, "singular"),
        ({"srow_x": [5e4, 0, 0, 0], "srow_y": [0, 1, 0, 0], "srow_z": [0, 0, 1, 0]}, "0.001 to 1000 mm"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 3, "quatern_c": 3}, "qform"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": np.nan}, "finite"),
        ({"dim": [3, 5, -6, 7, 1, 1, 1, 1]}, "dimensions"),
        ({"dim": [3, 5, 0, 7, 1, 1, 1, 1]}, "dimensions"),
        ({"dim": [4, 5, 6, 7, 2, 1, 1, 1]}, "3-D"),
        ({"dim": [5, 5, 6, 7, 1, 3, 1, 1]}, "3-D"),
        ({"dim": [2, 5, 42, 1, 1, 1, 1, 1]}, "3-D"),
        ({"xyzt_units": 1}, "mm"),
        ({"sform_code": 0, "qform_code": 0}, "left and right are unknown"),
        ({"srow_x": [2, 4, 0, 0], "srow_y": [0, 2, 0, 0], "srow_z": [0, 0, 3, 0]}, "near right angles"),
    ],
)
def test_bad_geometry_is_refused(tmp_path, header, message):
    path = save(tmp_path / "a.nii", header=header)
    with pytest.raises(GeometryError, match=message):
        check_nifti(path)


@pytest.mark.parametrize("header", [{"datatype": 128}, {"datatype": 32}, {"datatype": 1}, {"datatype": 777}])
def test_bad_type_is_refused(tmp_path, header):
    with pytest.raises(ImageError, match=r"real numbers|known data type"):
        check_nifti(save(tmp_path / "a.nii", header=header))


@pytest.mark.parametrize("offset", [0, 100, 1e9, np.nan])
def test_bad_offset_is_refused(tmp_path, offset):
    with pytest.raises(ImageError, match="behind its header"):
        check_nifti(save(tmp_path / "a.nii", header={"vox_offset": offset}))


def test_message_holds_folder_and_name_only(tmp_path):
    path = save(tmp_path / "a.nii", header={"descrip": b"CANARY^NAME", "dim": [4, 5, 6, 7, 2, 1, 1, 1]})
    with pytest.raises(GeometryError) as caught:
        check_nifti(path)
    assert str(caught.value).startswith(f"{tmp_path.name}/a.nii must be 3-D, got shape (5, 6, 7, 2);")
    assert "CANARY" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_reader_gives_scaled_float32_and_geometry(tmp_path):
    image = nib.Nifti1Image(ramp().astype(np.int16), affine())
    image.header["descrip"] = b"CANARY^NAME"
    image.header.set_slope_inter(0.5, -3)
    nib.save(image, tmp_path / "mri.nii.gz")
    # Going through the dotted name, as a bundle's configuration does
    loaded = LoadImaged(keys="mri", reader="medfuse.io.nifti.NiftiReader", ensure_channel_first=True)(
        {"mri": str(tmp_path / "mri.nii.gz")}
    )["mri"]
    assert loaded.shape == (1, *SHAPE)
    assert loaded.dtype == torch.float32
    stored = np.asarray(nib.load(tmp_path / "mri.nii.gz").dataobj)
    np.testing.assert_array_equal(loaded[0].numpy(), stored.astype(np.float32))
    np.testing.assert_allclose(loaded.affine.numpy(), affine(), atol=1e-5)
    assert "CANARY" not in str(loaded.meta)


def test_reader_squeezes_trailing_axes_and_reads_big_endian(tmp_path):
    nib.save(nib.Nifti1Image(ramp()[..., None], affine(), nib.Nifti1Header(endianness=">")), tmp_path / "a.nii")
    loaded = LoadImage(reader=NiftiReader())(tmp_path / "a.nii")
    np.testing.assert_array_equal(loaded.numpy(), ramp())


def test_reader_error_reaches_the_caller_unchanged(tmp_path):
    """MONAI hides errors of `read`; those of `get_data` pass."""
    with pytest.raises(ImageError, match="none there"):
        LoadImage(reader=NiftiReader())(tmp_path / "absent.nii.gz")


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "finite, got 210 of 210"), (np.inf, "finite"), (4, "4 everywhere")]
)
def test_reader_refuses_empty_content(tmp_path, value, message):
    save(tmp_path / "a.nii", np.full(SHAPE, value, np.float32))
    with pytest.raises(ImageError, match=message):
        NiftiReader(nonfinite="zero").get_data(tmp_path / "a.nii")


class TestHoles:
    """NaN inside of what a volume shows are holes; those outside of a head are how SPM writes."""

    GRID = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (20, 24, 9)], indexing="ij"))
    HEAD = np.linalg.norm(GRID / np.array([0.8, 0.9, 0.95]).reshape(3, 1, 1, 1), axis=0) < 1

    def inside(self, tmp_path, hole, background=np.nan):
        """Return the part of the voxels that is said to be inside."""
        volume = np.where(self.HEAD, 5.0, background).astype(np.float32)
        volume[0, 0, 0] += 1
        volume[10, 12, 1] = 6
        volume[hole] = np.nan
        path = save(tmp_path / "a.nii", volume)
        return NiftiReader(nonfinite="zero").get_data(path)[1].get("nonfinite_inside_fraction", 0.0) * volume.size

    @pytest.mark.parametrize("hole", [np.s_[0:0], np.s_[:, :, 8], np.s_[:, :2], np.s_[15:, 18:, 6:], np.s_[0, 0, 0]])
    def test_outside(self, tmp_path, hole):
        assert self.inside(tmp_path, hole) == 0
        assert hole == np.s_[0, 0, 0] or self.inside(tmp_path, hole, background=0.0) == 0

    @pytest.mark.parametrize("background", [np.nan, 0.0])
    @pytest.mark.parametrize(
        ("hole", "count"), [(np.s_[9:11, 11:13, 4], 4), (np.s_[9, 11, 4], 1), (np.s_[9:11, 11:13, 2:7], 20)]
    )
    def test_inside(self, tmp_path, hole, count, background):
        assert self.inside(tmp_path, hole, background) == pytest.approx(count)

    @pytest.mark.parametrize("background", [np.nan, 0.0])
    def test_a_column_through_all_slices_and_a_lost_slice(self, tmp_path, background):
        assert self.inside(tmp_path, np.s_[9, 11, :], background) >= self.HEAD[9, 11].sum() - 2
        lost = self.HEAD[..., 4] & self.HEAD[..., 3] & self.HEAD[..., 5]
        assert self.inside(tmp_path, np.s_[:, :, 4], background) >= lost.sum()


def test_reader_options(tmp_path):
    array = ramp()
    array[1, 2, 3] = np.nan
    path = save(tmp_path / "a.nii", array)
    with pytest.raises(ImageError, match="1 of 210"):
        NiftiReader().get_data(path)
    volume, _ = NiftiReader(nonfinite="zero").get_data(path)
    assert volume[1, 2, 3] == 0
    constant = save(tmp_path / "b.nii", np.zeros(SHAPE, np.uint8))
    assert NiftiReader(allow_constant=True).get_data(constant)[0].shape == SHAPE
    with pytest.raises(ImageError, match="nonfinite"):
        NiftiReader(nonfinite="mean")
    with pytest.raises(ImageError, match="one path"):
        NiftiReader().read(["a.nii", "b.nii"])
    assert NiftiReader().verify_suffix(["a.nii", "b.NII.GZ"])
    assert not NiftiReader().verify_suffix("a.png")


def test_a_reader_takes_all_that_python_calls_a_path(tmp_path):
    class Scan:  # os.PathLike, which MONAI names as what a reader is given
        def __fspath__(self):
            return str(save(tmp_path / "a.nii"))

    for reader in (NiftiReader(), VolumeReader()):
        assert reader.verify_suffix(Scan())
        assert reader.get_data(reader.read(Scan()))[0].shape == SHAPE
    assert DicomReader().read(Scan()) == (tmp_path / "a.nii",)
    assert not DicomReader().verify_suffix(Scan())


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (ramp() / 7, "whole numbers from 0 on, got others"),
        (-np.ones(SHAPE), "whole numbers from 0 on"),
        (np.arange(1100.0).reshape(11, 10, 10), "at most 1000 labels, got 1100"),
    ],
)
def test_what_is_no_mask_is_refused_as_one(tmp_path, values, fault):
    path = save(tmp_path / "mask.nii", values.astype(np.float32))
    with pytest.raises(ImageError, match=fault):
        NiftiReader(labels=True, allow_constant=True).get_data(path)


def test_a_mask_may_miss_whole_numbers_by_rounding(tmp_path):
    path = save(
        tmp_path / "mask.nii", 255 * (ramp() > 100).astype(np.int16), header={"scl_slope": 1 / 255, "scl_inter": 0}
    )
    assert set(np.rint(NiftiReader(labels=True).get_data(path)[0]).ravel()) == {0, 1}


@pytest.mark.parametrize(("slope", "intercept"), [(np.nan, 0), (np.inf, 0), (-1, 0), (0, 5), (1, np.nan), (1, np.inf)])
def test_a_scaling_that_makes_no_sense_is_refused(tmp_path, slope, intercept):
    path = save(tmp_path / "a.nii", ramp().astype(np.int16), header={"scl_slope": slope, "scl_inter": intercept})
    with pytest.raises(ImageError, match="positive scl_slope and a finite scl_inter"):
        check_nifti(path)


def test_a_slope_beyond_float32_gives_no_infinity(tmp_path):
    path = save(tmp_path / "a.nii", (1000 * ramp()).astype(np.int16), header={"scl_slope": 3e38})
    with pytest.raises(ImageError, match="finite"):
        NiftiReader().get_data(path)


@pytest.mark.parametrize("dim", [(3, 5, 6, 6), (3, 4, 6, 7), (3, 1, 6, 7)])
def test_a_header_that_claims_less_than_there_is_is_refused(tmp_path, dim):
    path = save(tmp_path / "a.nii", header={"dim": [*dim, 1, 1, 1, 1]})
    with pytest.raises(ImageError, match="its header is wrong"):
        check_nifti(path)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("angles", [(0, 0, 0), (0.3, -0.2, 0.5), (0, 0, np.pi), (np.pi, 0, 0.02)])
def test_written_affine_is_exact(tmp_path, name, angles):
    matrix = affine(angles)
    shape = (40, 50, 60)
    write_nifti(tmp_path / name, torch.rand(shape), matrix, unit_description="SUV")
    image = nib.load(tmp_path / name)
    corners = np.array([(x, y, z, 1) for x in (0, 39) for y in (0, 49) for z in (0, 59)])
    assert np.abs(corners @ (image.affine - matrix).T).max() < 1e-4
    assert np.abs(corners @ (image.header.get_qform() - matrix).T).max() < 1e-3 or image.header["qform_code"] == 0
    assert image.header["sform_code"] == 1
    np.testing.assert_allclose(image.header.get_zooms(), [0.7, 1.3, 3.27], rtol=1e-6)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.get_data_dtype() == np.float32
    assert bytes(image.header["descrip"]).rstrip(b"\0") == b"SUV"


def test_qform_is_set_for_a_plain_grid_and_unset_for_shear(tmp_path):
    write_nifti(tmp_path / "a.nii", ramp(), affine())
    assert nib.load(tmp_path / "a.nii").header["qform_code"] == 1
    sheared = affine() @ np.array([[1, 0.2, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    write_nifti(tmp_path / "b.nii", ramp(), sheared)
    image = nib.load(tmp_path / "b.nii")
    assert image.header["qform_code"] == 0
    np.testing.assert_allclose(image.affine, sheared, atol=1e-5)


def test_values_survive_and_bytes_repeat(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_nifti(tmp_path / name, ramp(), affine(), intent_name="fused", cal_min=0, cal_max=2.5)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    image = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), ramp())
    assert (float(image.header["cal_min"]), float(image.header["cal_max"])) == (0, 2.5)
    assert image.header["intent_name"].item() == b"fused"
    assert check_nifti(tmp_path / "a.nii.gz").shape == SHAPE


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"array": np.full(SHAPE, np.nan)}, ImageError),
        ({"array": ramp()[0]}, GeometryError),
        ({"array": np.zeros((0, 3, 3))}, GeometryError),
        ({"affine": np.zeros((4, 4))}, GeometryError),
        ({"affine": np.full((4, 4), np.nan)}, GeometryError),
        ({"affine": np.eye(3)}, GeometryError),
        ({"unit_description": "x" * 80}, ImageError),
        ({"intent_name": "é"}, ImageError),
        ({"cal_max": 1.0}, ImageError),
        ({"path": "a.mha"}, ImageError),
    ],
)
def test_bad_output_is_refused_and_leaves_nothing(tmp_path, arguments, error):
    call = {"path": "a.nii.gz", "array": ramp(), "affine": affine(), **arguments}
    with pytest.raises(error):
        write_nifti(tmp_path / call.pop("path"), call.pop("array"), call.pop("affine"), **call)
    assert not list(tmp_path.iterdir())


def test_rgb_round_trip(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    write_rgb_nifti(tmp_path / "a.nii.gz", rgb, affine())
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.header["datatype"] == 128
    assert image.shape == SHAPE
    voxels = np.asarray(image.dataobj)
    np.testing.assert_array_equal(np.stack([voxels[c] for c in "RGB"], -1), rgb)
    np.testing.assert_allclose(image.affine, affine(), atol=1e-5)
    with pytest.raises(ImageError, match="colours"):
        check_nifti(tmp_path / "a.nii.gz")


def test_bad_rgb_is_refused(tmp_path):
    with pytest.raises(ImageError, match="uint8"):
        write_rgb_nifti(tmp_path / "a.nii", np.zeros((*SHAPE, 3), np.float32), affine())
    with pytest.raises(GeometryError, match="colour last"):
        write_rgb_nifti(tmp_path / "a.nii", np.zeros((3, *SHAPE), np.uint8), affine())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["sts/STS_008/PET_image", "sirf_reg/standard", "sirf_reg/test", "mni_sim/t1_2mm"])
def test_real_volumes_read_as_nibabel_does(shared_data, name):
    path = shared_data / "volumes" / f"{name}.nii.gz"
    loaded = LoadImage(reader=NiftiReader())(path)
    image = nib.load(path)
    np.testing.assert_array_equal(loaded.numpy(), image.get_fdata().astype(np.float32))
    np.testing.assert_array_equal(loaded.affine.numpy(), image.affine)


def test_invalid_quaternion_is_what_nibabel_refuses():
    """The error that `check_nifti` turns into its own."""
    header = nib.Nifti1Header()
    header["qform_code"], header["quatern_b"], header["quatern_c"] = 1, 3, 3
    with pytest.raises((HeaderDataError, ValueError)):
        header.get_best_affine()


@pytest.mark.parametrize("name", ["a.nii", "b.nii.gz"])
def test_any_broken_header_gives_an_error_of_ours(tmp_path, name):
    """Random bytes in the header: read, or refused with one of our errors, never with another one or a warning."""
    rng = np.random.default_rng(0)
    for kind, size in ((nib.Nifti1Image, 348), (nib.Nifti2Image, 540)):
        raw = kind(ramp().astype(np.int16), affine(), dtype=np.int16).to_bytes()
        for _ in range(150):
            broken = bytearray(raw)
            for place in rng.integers(0, size, 3):
                broken[place] = rng.integers(256)
            (tmp_path / name).write_bytes(gzip.compress(broken, 1) if name.endswith("gz") else broken)
            with contextlib.suppress(ImageError, GeometryError):
                NiftiReader().get_data(tmp_path / name)
