"""What the header and the voxels of a NIfTI may say, by every way in: `fuse`, `batch`, the bundle and Python."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from medfuse import cli
from medfuse.errors import GeometryError, ImageError, known_error
from medfuse.io import check_nifti
from medfuse.pipeline import fuse, run_batch
from medfuse.pipeline.bundle import run_bundle
from medfuse.report import findings

SHAPE, AFFINE = (20, 24, 4), np.diag([2.0, 2, 3, 1])


def write(path, array, *, qform=AFFINE):
    image = nib.Nifti1Image(array.astype(np.float32), AFFINE)
    image.header.set_xyzt_units("mm")
    image.set_sform(AFFINE, 1)
    image.set_qform(qform, 1)
    nib.save(image, path)
    return str(path)


@pytest.fixture
def case(tmp_path):
    """A PET whose qform lies 30 mm beside its sform, and which is NaN outside of the head, as SPM writes."""
    rng = np.random.default_rng(0)
    head = np.linalg.norm(np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")), axis=0) < 0.9
    noise = rng.uniform(0, 0.5, SHAPE)
    beside = AFFINE.copy()
    beside[0, 3] = 30
    return {
        "case": "one",
        "mri": write(tmp_path / "mri.nii.gz", 900 * head + noise),
        "pet": write(tmp_path / "pet.nii.gz", np.where(head, 5 + noise, np.nan), qform=beside),
        "pet_unit": "SUV",
        "aligned": True,
    }


def by_command(case, out, **options):
    words = [word for name, value in options.items() for word in (f"--{name}", value) if word is not True]
    sources = ["--pet", case["pet"], "--mri", case["mri"], "--case", "one", "--pet-unit", "SUV", "--aligned"]
    return cli.main(["fuse", *sources, "--out", str(out), "--steps", "1", *words])


def by_batch(case, out, **options):
    summary = run_batch([case], out, steps=1, device="cpu", **options)
    if summary.failed:
        raise ImageError(summary.failed["one"])


def by_bundle(case, out, **options):
    try:
        run_bundle("pet_mri_fusion", datalist=[case], output_dir=str(out), steps=1, device="cpu", **options)
    except Exception as error:  # MONAI wraps ours
        raise known_error(error) from None


WAYS = [by_batch, by_bundle]


@pytest.mark.parametrize("way", WAYS)
def test_nan_counts_as_zero_where_asked_for_and_two_places_are_told(quick, case, tmp_path, way):
    with pytest.raises(ImageError, match="NaN or infinite; repair it, or let them count as 0"):
        way(case, tmp_path / "no")
    way(case, tmp_path / "out", nonfinite="zero")
    record = json.loads((tmp_path / "out" / "one" / "one.json").read_text())
    given = np.asarray(nib.load(case["pet"]).dataobj)
    outside = np.isnan(given)
    assert record["sources"]["pet"]["nonfinite_fraction"] == pytest.approx(outside.mean())
    assert "nonfinite_fraction" not in record["sources"]["mri"]
    restored = np.asarray(nib.load(tmp_path / "out" / "one" / "one_pet_restored.nii.gz").dataobj)
    np.testing.assert_allclose(restored, np.nan_to_num(given), atol=1e-5)  # as it lay, by the sform

    assert record["sources"]["mri"]["placement"] == {"used": "sform", "sform_code": 1, "qform_code": 1, "agree": True}
    placement = record["sources"]["pet"]["placement"]
    assert (placement["agree"], placement["apart_mm"]) == (False, pytest.approx(30))
    texts = {level: " ".join(f.text for f in findings(record) if f.level == level) for level in ("warning", "note")}
    assert "The header of the PET gives two places, up to 30.0 mm apart" in texts["warning"]
    assert "(0.0, 0.0, 0.0) mm" in texts["warning"] and "(30.0, 0.0, 0.0) mm" in texts["warning"]
    assert f"{outside.mean():.1%} of the voxels of the PET were NaN or infinite" in texts["note"]


@pytest.mark.parametrize("way", WAYS)
def test_two_places_are_refused_where_asked_for(case, tmp_path, way):
    with pytest.raises((ImageError, GeometryError), match="an sform and a qform that agree, got two"):
        way(case, tmp_path / "out", nonfinite="zero", strict=True)
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_the_command_line_takes_both(quick, case, tmp_path, capsys):
    assert by_command(case, tmp_path / "no") == 2
    assert "--nonfinite zero" in capsys.readouterr().err
    assert by_command(case, tmp_path / "no", nonfinite="zero", strict=True) == 2
    assert "leave out --strict" in capsys.readouterr().err
    assert not (tmp_path / "no").exists() or not list((tmp_path / "no").rglob("*.nii.gz"))
    assert by_command(case, tmp_path / "out", nonfinite="zero") == 0


def test_so_does_python_and_a_mask_is_held_to_the_same(case, tmp_path):
    with pytest.raises(GeometryError, match="that agree"):
        fuse(case["pet"], case["mri"], steps=1, aligned=True, strict=True)
    result = fuse(case["pet"], case["mri"], steps=1, aligned=True, nonfinite="zero")
    assert result.record["sources"]["pet"]["nonfinite_fraction"] > 0
    beside = AFFINE.copy()
    beside[1, 3] = 30
    mask = write(tmp_path / "mask.nii.gz", np.ones(SHAPE), qform=beside)
    with pytest.raises(ImageError, match="mask must have an sform and a qform that agree"):
        by_batch({**case, "pet": case["mri"], "mask": mask}, tmp_path / "out", strict=True)


def test_the_line_that_resamples_by_simpleitk_is_right_for_two_places(tmp_path):
    """The lines of the page, run on a PET of which ITK takes the qform (code 1, the sform has 2), 30 mm off."""
    page = (Path(__file__).parents[1] / "docs" / "reference" / "outputs.md").read_text(encoding="utf-8")
    resample = re.search(r"`(SimpleITK\.Resample\(.*?GetInverse\(\)\))`", page)[1]
    rewrite = re.search(r"`(image = nibabel\.load.*?one_place\))`", page)[1]
    hot = np.zeros(SHAPE)
    hot[10, 12, 2] = 1
    beside = AFFINE.copy()
    beside[0, 3] = 30
    given = nib.load(write(tmp_path / "pet.nii.gz", hot, qform=beside))
    given.header["sform_code"] = 2
    nib.save(given, tmp_path / "two.nii.gz")
    assert check_nifti(tmp_path / "two.nii.gz").placement["itk"] == "qform"

    to_mri = sitk.Euler3DTransform()
    to_mri.SetTranslation((-4.0, -6.0, 3.0))  # LPS: by 2, 3 and 1 voxels in RAS
    sitk.WriteTransform(to_mri, str(tmp_path / "a.tfm"))
    names = {
        "nibabel": nib,
        "SimpleITK": sitk,
        "path": str(tmp_path / "two.nii.gz"),
        "one_place": str(tmp_path / "o.nii"),
    }
    exec(rewrite, names)
    moved = {}
    for name in ("two.nii.gz", "o.nii"):
        names |= {"pet": sitk.ReadImage(str(tmp_path / name)), "mri": sitk.ReadImage(str(tmp_path / "pet.nii.gz"))}
        names["path"] = str(tmp_path / "a.tfm")
        moved[name] = sitk.GetArrayFromImage(eval(resample, names)).T
    assert moved["o.nii"][12, 15, 3] == pytest.approx(1, abs=1e-3)
    assert moved["two.nii.gz"].max() == 0  # as it stands, it lies outside
