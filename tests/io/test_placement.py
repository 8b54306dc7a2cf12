"""Where readers place a NIfTI: the sform, the qform, and whether they agree.

The rules are held against nibabel and SimpleITK themselves. That of niivue, as in the script that
reports carry (the qform where its code is larger, else the sform), is restated here: it runs in a browser.
"""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from medfuse.errors import GeometryError
from medfuse.io import NiftiReader, check_nifti, check_nifti_header, write_nifti, write_rgb_nifti
from medfuse.io.placement import describe_disagreement, sheared

SHAPE = (6, 5, 4)
PLAIN = np.array([[2.0, 0, 0, -5], [0, 2, 0, -4], [0, 0, 3, -6], [0, 0, 0, 1]])


def oblique(x, y, z):
    """Return a grid that is turned about three axes, degrees."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", [x, y, z], degrees=True).as_matrix() * (0.7, 1.3, 3.27)
    matrix[:3, 3] = (-91.3, 120.7, -61.1)
    return matrix


def moved(x=0.0, y=0.0, z=0.0):
    matrix = PLAIN.copy()
    matrix[:3, 3] += (x, y, z)
    return matrix


def save(path, sform, qform, codes=(1, 1), **fields):
    """Write a NIfTI with two geometries, then overwrite fields of its header."""
    image = nib.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE), None)
    header = image.header
    header.set_xyzt_units("mm")
    header.set_qform(qform, 1, strip_shears=True)
    header.set_sform(sform, 1)
    header["sform_code"], header["qform_code"] = codes
    raw = bytearray(image.to_bytes())
    written = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        written[name] = value
    raw[:348] = written.binaryblock
    path.write_bytes(raw)
    return path


def by_itk(path):
    """Return the affine **[4, 4]** by which SimpleITK places a file, RAS mm."""
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def by_niivue(path):
    header = nib.load(path).header
    return header.get_qform() if header["qform_code"] > header["sform_code"] else header.get_sform()


@pytest.mark.parametrize(("sform_code", "qform_code"), list(itertools.product((1, 2, 4), (1, 2, 3))))
def test_the_record_says_which_form_each_program_takes(tmp_path, sform_code, qform_code):
    path = save(tmp_path / "a.nii", moved(x=30), PLAIN, (sform_code, qform_code))
    info = check_nifti(path)
    found, forms = info.placement, {"sform": moved(x=30), "qform": PLAIN}
    assert (found["agree"], found["sform_code"], found["qform_code"]) == (False, sform_code, qform_code)
    np.testing.assert_allclose(info.affine, nib.load(path).affine)
    np.testing.assert_allclose(info.affine, forms[found["used"]])
    np.testing.assert_allclose(by_itk(path), forms[found["itk"]], atol=1e-6)
    np.testing.assert_allclose(by_niivue(path), forms[found["niivue"]])
    assert found["apart_mm"] == pytest.approx(30, abs=1e-4)
    assert found["sform"] == {"first_voxel_mm": [25, -4, -6], "centre_mm": [30, 0, -1.5]}
    assert found["qform"] == {"first_voxel_mm": [-5, -4, -6], "centre_mm": [0, 0, -1.5]}


def test_itk_takes_the_qform_where_the_sform_is_sheared(tmp_path):
    matrix = moved(x=30)
    matrix[0, 1] = 0.1
    path = save(tmp_path / "a.nii", matrix, PLAIN)
    assert check_nifti(path).placement["itk"] == "qform"
    np.testing.assert_allclose(by_itk(path), PLAIN, atol=1e-6)


SCALED, TURNED = PLAIN @ np.diag([1.3, 1, 1, 1]), PLAIN.copy()
TURNED[:3, :3] = Rotation.from_euler("z", 17, degrees=True).as_matrix() @ PLAIN[:3, :3]


@pytest.mark.parametrize(
    ("sform", "agree"),
    [
        (PLAIN, True),
        (moved(x=0.98), True),  # 0.49 of a voxel of 2 mm
        (moved(x=1.02), False),
        (moved(z=1.45), True),  # 0.48 of one of 3 mm
        (moved(z=1.55), False),
        (SCALED, False),  # the same first voxel; 0.3 x 5.5 voxels at the other end
        (TURNED, False),
        (PLAIN @ np.diag([-1.0, 1, 1, 1]), False),
    ],
)
def test_half_a_voxel_anywhere_is_the_limit(tmp_path, sform, agree):
    path = save(tmp_path / "a.nii", sform, PLAIN)
    assert check_nifti(path).placement["agree"] is agree
    if agree:
        check_nifti(path, strict=True)
    for read in (check_nifti, check_nifti_header, lambda p, strict: NiftiReader(strict=strict).get_data(p)):
        read(path, strict=False)
        if not agree:
            with pytest.raises(GeometryError, match="an sform and a qform that agree"):
                read(path, strict=True)


def test_a_mirrored_form_is_told_with_both_places(tmp_path):
    mirrored = PLAIN.copy()
    mirrored[0] *= -1
    found = check_nifti(save(tmp_path / "a.nii", mirrored, PLAIN)).placement
    assert found["mirrored"] is True
    text = describe_disagreement(found)
    assert "mirrored" in text
    assert "sform (code 1) puts the first voxel at (5.0, -4.0, -6.0) mm and the centre at (0.0, 0.0, -1.5) mm" in text
    assert "qform (code 1) puts the first voxel at (-5.0, -4.0, -6.0) mm" in text
    assert "medfuse, nibabel, ITK, niivue take the sform" in text


@pytest.mark.parametrize(
    ("codes", "used"), [((1, 0), "sform"), ((4, 0), "sform"), ((0, 1), "qform"), ((0, 2), "qform")]
)
def test_one_form_alone_is_no_disagreement(tmp_path, codes, used):
    path = save(tmp_path / "a.nii", moved(x=30), PLAIN, codes)
    info = check_nifti(path, strict=True)
    assert info.placement == {"used": used, "sform_code": codes[0], "qform_code": codes[1], "agree": True}
    np.testing.assert_allclose(info.affine, by_itk(path), atol=1e-6)
    np.testing.assert_allclose(info.affine, by_niivue(path), atol=1e-6)


def test_a_file_without_form_is_refused(tmp_path):
    with pytest.raises(GeometryError, match="must have a qform or an sform, got neither"):
        check_nifti(save(tmp_path / "a.nii", PLAIN, PLAIN, (0, 0)))


def test_a_handedness_of_zero_counts_as_one(tmp_path):
    """NIfTI-1, method 2: pixdim[0] is -1 or 1, and any other value means 1; nibabel's header refuses it."""
    path = save(tmp_path / "a.nii", PLAIN, PLAIN, (0, 1), pixdim=[0, 2, 2, 3, 1, 1, 1, 1])
    np.testing.assert_allclose(check_nifti(path).affine, PLAIN, atol=1e-6)
    np.testing.assert_allclose(by_itk(path), PLAIN, atol=1e-6)


@pytest.mark.parametrize("size", [0, -2, np.nan, np.inf])
def test_voxel_sizes_that_readers_repair_differently_are_refused(tmp_path, size):
    with pytest.raises(GeometryError, match="positive voxel sizes"):
        check_nifti(save(tmp_path / "a.nii", PLAIN, PLAIN, (0, 1), pixdim=[1, size, 2, 3, 1, 1, 1, 1]))


@pytest.mark.parametrize("fields", [{"quatern_b": 0.9, "quatern_c": 0.9}, {"pixdim": [1, -2, 2, 3, 1, 1, 1, 1]}])
def test_a_broken_qform_beside_a_sform_is_told_as_itk_repairs_it(tmp_path, fields):
    found = check_nifti(save(tmp_path / "a.nii", PLAIN, PLAIN, (2, 1), **fields)).placement
    assert (found["agree"], found["used"], found["itk"]) == (False, "sform", "qform")
    assert np.allclose(by_itk(tmp_path / "a.nii")[:3, 3], found["qform"]["first_voxel_mm"], atol=1e-3)
    assert not np.allclose(by_itk(tmp_path / "a.nii"), PLAIN, atol=0.1)


def test_a_qform_that_is_not_finite_is_told(tmp_path):
    found = check_nifti(save(tmp_path / "a.nii", PLAIN, PLAIN, qoffset_x=np.nan)).placement
    assert (found["agree"], found["apart_mm"]) == (False, None)
    assert "not finite" in describe_disagreement(found)


LEFT_HANDED = oblique(20, -10, 30) @ np.diag([-1.0, 1, 1, 1])


@pytest.mark.parametrize("matrix", [PLAIN, oblique(20, -10, 30), LEFT_HANDED, oblique(1, -2, 178)])
def test_what_is_written_is_read_alike_by_all(tmp_path, matrix):
    write_nifti(tmp_path / "a.nii", np.zeros(SHAPE), matrix)
    write_rgb_nifti(tmp_path / "b.nii.gz", np.zeros((*SHAPE, 3), np.uint8), matrix)
    for path in (tmp_path / "a.nii", tmp_path / "b.nii.gz"):
        assert nib.load(path).header.get_xyzt_units()[0] == "mm"
        np.testing.assert_allclose(nib.load(path).affine, matrix, atol=1e-5)
        np.testing.assert_allclose(by_itk(path), matrix, atol=1e-3)
        np.testing.assert_allclose(by_niivue(path), matrix, atol=1e-5)


def test_a_sheared_grid_is_placed_rightly_or_not_read(tmp_path):
    """A qform, and ITK, know no shear. ITK refuses the file rather than place it elsewhere."""
    matrix = PLAIN.copy()
    matrix[0, 1] = 0.1
    assert sheared(matrix) and not sheared(oblique(20, -10, 30))
    write_nifti(tmp_path / "a.nii", np.zeros(SHAPE), matrix)
    np.testing.assert_allclose(nib.load(tmp_path / "a.nii").affine, matrix, atol=1e-5)
    np.testing.assert_allclose(by_niivue(tmp_path / "a.nii"), matrix, atol=1e-5)
    with pytest.raises(RuntimeError, match="orthonormal"):
        sitk.ReadImage(str(tmp_path / "a.nii"))
