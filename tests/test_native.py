"""A PET on its own grid, from files to the report: told by `grid: native`, restored before it is resampled."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage

from medfuse.bundles import bundle_dir
from medfuse.cli import main
from medfuse.errors import BundleError, DegradationError, GeometryError
from medfuse.physics import in_plane, native_of, parse_degradation
from medfuse.pipeline import PairSourcesd, RestoreNatived, fuse, load_workflow, sha256

NATIVE = {"version": 1, "source1": [], "source2": {"grid": "native", "psf": {"fwhm_mm": [6, 6, 6]}}}
SIGMA = 0.05


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A ball with a core, MRI of 2 mm, PET of 4 mm blurred by 6 mm, uptake 4 and 1 in kBq/ml."""
    folder = tmp_path_factory.mktemp("native")
    n = 40
    at = (np.indices((n, n, n)) - (n - 1) / 2) * 2.0
    r = np.sqrt((at**2).sum(0))
    truth = np.where(r < 14, 1.0, np.where(r < 28, 4.0, 0.0))
    rng = np.random.default_rng(0)
    mri = np.where(r < 14, 800.0, np.where(r < 28, 500.0, 0.0)) + rng.normal(0, 8, r.shape)
    pet = ndimage.gaussian_filter(truth, 6 / 2.3548 / 2).reshape(20, 2, 20, 2, 20, 2).mean((1, 3, 5))
    pet = pet + rng.normal(0, SIGMA, pet.shape)
    fine, coarse = np.diag([2.0, 2, 2, 1]), np.diag([4.0, 4, 4, 1])
    coarse[:3, 3] = 1.0
    paths = {}
    for name, image, affine in (("mri", mri.clip(0), fine), ("pet", pet, coarse)):
        paths[name] = folder / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), paths[name])
    return {**paths, "truth": truth, "r": r, "folder": folder}


@pytest.fixture(scope="module")
def written(files):
    out = files["folder"] / "out"
    given = ["--mri", str(files["mri"]), "--pet", str(files["pet"]), "--pet-unit", "kBq/ml", "--aligned"]
    assert main(["fuse", *given, "--psf", "6", "--out", str(out)]) in (0, None)
    return out / "case"


def test_what_is_written_is_the_restored_pet_in_its_unit(files, written):
    """Sharper than what was given, nearer to the truth, with the same total."""
    restored = nib.load(written / "case_pet_restored.nii.gz").get_fdata()
    record = json.loads((written / "case.json").read_text())
    given = ndimage.zoom(nib.load(files["pet"]).get_fdata(), 2, order=1, grid_mode=True, mode="nearest")
    ball = files["r"] < 28
    error = [np.sqrt(((x - files["truth"])[ball] ** 2).mean()) for x in (restored, given)]
    assert error[0] < 0.6 * error[1]
    assert restored[ball].sum() == pytest.approx(files["truth"][ball].sum(), rel=0.05)
    assert record["sources"]["pet"]["unit"] == "kBq/ml"
    assert record["degradation"]["source2"] == {"grid": "native", "psf": {"fwhm_mm": [6.0, 6.0, 6.0]}}


def test_record_and_report_tell_what_is_known_of_it(written):
    native = json.loads((written / "case.json").read_text())["sources"]["pet"]["native"]
    assert native["psf_fwhm_mm"] == [6.0, 6.0, 6.0]
    assert native["noise"]["origin"] == "measured"
    assert native["weights_sha256"] == sha256(bundle_dir("pet_mri_fusion") / "models" / "volumes.pt")
    assert {"gate", "null_space", "outside", "unmeasured"} <= set(native["shares"])
    page = (written / "case_report.html").read_text()
    assert "on its own grid" in page
    assert "Chi-square, corrected" in page


def test_weights_that_are_not_there_are_refused_before_work():
    with pytest.raises(BundleError, match="must be a file, got none"):
        RestoreNatived(NATIVE, weights="none.pt")


def test_python_takes_the_same_specification(files):
    spec = {**NATIVE, "source2": {**NATIVE["source2"], "noise": {"kind": "gaussian", "sigma": SIGMA, "unit": "input"}}}
    ball = files["pet"].parent / "ball.nii.gz"
    nib.save(nib.Nifti1Image((files["r"] < 13).astype(np.uint8), nib.load(files["mri"]).affine), ball)
    how = {"aligned": True, "pet_unit": "kBq/ml", "mask": ball, "uncertainty": "full"}
    result = fuse(files["pet"], files["mri"], degradation=spec, **how)
    native = result.record["sources"]["pet"]["native"]
    assert native["noise"]["sigma"] == pytest.approx(SIGMA)
    assert native["noise"]["origin"] == "given"
    core = files["r"] < 13  # 1, into which the uptake of 4 round it is blurred
    given, restored = (float(v[1][core].mean()) for v in (result.sources, result.restored))
    assert abs(restored - 1) < 0.4 * abs(given - 1)
    whole, region = result.record["sources"]["pet"]["regions"]
    assert region["interval"]["low"] < 1 < region["interval"]["high"]
    assert 0 <= region["invented"]["gate"] <= 1
    assert "interval" not in whole
    deviation = result.deviations[1][core]
    assert 0.2 < float((result.restored[1][core] - 1).abs().mean() / deviation.mean()) < 3
    assert result.deviations[0] is None  # nothing happened to the MRI
    assert result.fused_deviation is not None
    assert float(result.invented[1][core].mean()) == pytest.approx(region["invented"]["mean"], rel=1e-4)


def test_a_dry_run_counts_the_restoration(files, tmp_path, capsys):
    given = ["fuse", "--mri", str(files["mri"]), "--pet", str(files["pet"]), "--out", str(tmp_path), "--dry-run"]
    seconds = []
    for more in (["--degradation", "none"], ["--psf", "6"], []):
        assert main([*given, *more, "--json"]) == 0
        seconds.append(json.loads(capsys.readouterr().out)["seconds"])
    voxels = (40**3 + 20**3) / 1e6
    assert seconds[1] - seconds[0] == pytest.approx(21 * voxels)
    assert seconds[2] == seconds[1]  # `auto` restores it there, too, where the MRI tells the PSF


def test_what_is_fused_is_the_restored_source():
    one, two, three = (torch.full((1, 2, 2, 2), float(v)) for v in (1, 2, 3))
    pair = PairSourcesd(("mri", "pet"))
    assert pair({"mri": one, "pet": two, "pet_restored": three})["image"][:, 0, 0, 0].tolist() == [1, 3]
    assert pair({"mri": one, "pet": two})["image"][:, 0, 0, 0].tolist() == [1, 2]
    assert in_plane(NATIVE) == {**NATIVE, "source2": []}
    assert native_of("auto") is None


@pytest.mark.parametrize(
    ("source2", "words"),
    [
        ({"grid": "native", "psf": {}}, "missing"),
        ({"grid": "mri", "psf": {"fwhm_mm": 6}}, "must be `native`"),
        ({"grid": "native", "psf": {"fwhm_mm": 25}}, "at most 20 mm"),
        ({"grid": "native", "psf": {"fwhm_mm": 0}}, "above 0"),
        ({"grid": "native", "psf": {"fwhm_mm": [6, 6]}}, "one finite number or three"),
        ({"grid": "native", "psf": 6}, "must be a mapping"),
        ({"grid": "native", "psf": {"auto": {"sigma_px": [1, 2]}}}, "fwhm_mm: \\[least, most\\]"),
        ({"grid": "native", "psf": {"auto": {"fwhm_mm": [8, 4]}}}, "ascending, from 0 to 20"),
    ],
)
def test_nonsense_is_refused_before_work(source2, words):
    with pytest.raises(DegradationError, match=words):
        RestoreNatived({"version": 1, "source2": source2})


def test_the_grid_of_the_results_must_be_that_of_source_1():
    with pytest.raises(DegradationError, match="grid of source 1"):
        RestoreNatived(NATIVE, reference="pet")
    with pytest.raises(DegradationError, match="uptake"):
        RestoreNatived(NATIVE, source_keys=("mri", "ct"))


def test_pairs_of_slices_have_no_grid_of_a_scanner():
    with pytest.raises(DegradationError, match="native"):
        parse_degradation(NATIVE)


@pytest.mark.parametrize("text", ["0", "-6", "six", "6,6", "21"])
def test_the_shorthand_refuses_what_is_no_psf(text, capsys):
    with pytest.raises(SystemExit):
        main(["fuse", "--mri", "a", "--pet", "b", "--psf", text, "--out", "c"])
    assert "--psf" in capsys.readouterr().err


def test_noise_that_float32_does_not_hold_is_refused_before_work(files, tmp_path, capsys):
    """It ended in NaN after results were written: a sigma in another unit than the file's is a likely slip."""
    stated = {**NATIVE, "source2": {**NATIVE["source2"], "noise": {"sigma": 1e-9, "unit": "input"}}}
    (tmp_path / "d.json").write_text(json.dumps(stated))
    given = ["--mri", str(files["mri"]), "--pet", str(files["pet"]), "--aligned"]
    assert main(["fuse", *given, "--degradation", str(tmp_path / "d.json"), "--out", str(tmp_path / "out")]) == 2
    assert "std of noise must be at least" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_a_pet_that_lies_elsewhere_is_refused(files, tmp_path):
    image = nib.load(files["pet"])
    affine = image.affine.copy()
    affine[:3, 3] += 500
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), affine), tmp_path / "far.nii.gz")
    with pytest.raises(GeometryError, match=r"field of view|overlap"):
        fuse(Path(tmp_path / "far.nii.gz"), files["mri"], degradation=NATIVE, aligned=True, pet_unit="kBq/ml")


def saved(folder, image, spacing, name):
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = -spacing * (np.array(image.shape) - 1) / 2
    nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / f"{name}.nii.gz")
    return folder / f"{name}.nii.gz"


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """A ball of 40 mm with folds of 8 mm of grey and white matter; PET of 3 mm with a PSF of 6 mm and 3 % of noise."""
    folder, rng, n = tmp_path_factory.mktemp("folded"), np.random.default_rng(1), 48
    at = (np.indices((n, n, n)) - (n - 1) / 2) * 2.0
    ball = np.sqrt((at**2).sum(0)) < 40
    grey = ndimage.gaussian_filter(rng.standard_normal((n, n, n)), 2) > 0
    mri = np.where(ball, np.where(grey, 500, 800), 0) + rng.normal(0, 8, ball.shape)
    pet = ndimage.gaussian_filter(np.where(ball, np.where(grey, 4.0, 1.0), 0), 6 / 2.3548 / 2)
    index = (np.indices((32, 32, 32)) - 15.5) * 1.5 + (n - 1) / 2
    pet = ndimage.map_coordinates(pet, index, order=3) + rng.normal(0, 0.1, (32, 32, 32))
    return saved(folder, mri.clip(0), 2.0, "mri"), saved(folder, pet, 3.0, "pet")


def test_who_states_nothing_has_the_psf_found_and_undone(folded):
    """`auto` is the default: the MRI tells the PSF, 6 mm, and the record says what was found and what was stated."""
    mri, pet = folded
    result = fuse(pet, mri, aligned=True, pet_unit="kBq/ml")
    psf, noise = result.record["degradation"]["estimates"]["source2"]
    assert psf["value"] == pytest.approx([6, 6, 6], abs=0.5)
    assert psf["refused"] == ""
    assert noise["stated"]["sigma"] == pytest.approx(0.1, rel=0.3)
    assert result.record["degradation"]["source2"]["psf"]["fwhm_mm"] == psf["stated"]["fwhm_mm"]
    assert max(a / b for a, b in zip(psf["stated"]["fwhm_mm"], psf["value"], strict=True)) < 1
    assert float(result.restored[1].std()) > 1.05 * float(result.sources[1].std())


def test_a_psf_that_is_measured_lies_within_what_was_said_of_it(folded):
    mri, pet = folded
    spec = {"version": 1, "source1": [], "source2": {"grid": "native", "psf": {"auto": {"fwhm_mm": [3, 5]}}}}
    result = fuse(pet, mri, degradation=spec, aligned=True, pet_unit="kBq/ml")
    psf, _ = result.record["degradation"]["estimates"]["source2"]
    assert psf["value"] == [5, 5, 5]  # the images say 6
    assert all(3 <= width <= 5 for width in psf["stated"]["fwhm_mm"])
    assert "said to be 3 to 5 mm" in psf["rests_on"]


def test_where_the_mri_does_not_tell_the_psf_the_pet_comes_back_as_it_was(files):
    """A ball of 28 mm has too few voxels: refused, said, with the way to state it; nothing is changed."""
    spec = {"version": 1, "source1": [], "source2": {"grid": "native"}}
    result = fuse(files["pet"], files["mri"], degradation=spec, aligned=True, pet_unit="kBq/ml")
    psf, noise = result.record["degradation"]["estimates"]["source2"]
    assert psf["stated"] is None
    assert "--psf" in psf["refused"]
    assert "Which degradation is mine?" in psf["refused"]
    assert noise["stated"] is None
    assert result.record["degradation"]["source2"] == []
    assert torch.allclose(result.restored[1], result.sources[1], atol=1e-5)


def test_an_mri_that_does_not_guide_the_restoration_tells_no_psf(folded):
    """A registration that was not accepted: the place is in doubt, and so is what the MRI says of the PSF by it."""
    mri, pet = (MetaTensor(nib.load(p).get_fdata(dtype=np.float32)[None], nib.load(p).affine) for p in folded)
    registration = {"performed": True, "accepted": False, "matrix": np.eye(4).tolist()}
    given = {"mri": mri, "pet": pet, "pet_registration": registration}
    result = RestoreNatived("auto")(given)
    found = json.loads(result["pet_found"])
    assert found["stated"] == []
    assert found["estimates"][0]["value"] is None  # decided before the work
    assert "registration was not accepted" in found["estimates"][0]["refused"]
    assert set(result) == {*given, "pet_found"}
    assert torch.equal(result["pet"], pet)
    assert "pet_restored" in RestoreNatived("auto")({**given, "pet_registration": registration | {"accepted": True}})


def test_the_network_mends_the_estimate_and_is_named(folded):
    """Another estimate, the same total, the data believed as much; the record names the weights."""
    mri, pet = (MetaTensor(nib.load(p).get_fdata(dtype=np.float32)[None], nib.load(p).affine) for p in folded)
    registration = {"performed": False, "accepted": True, "matrix": np.eye(4).tolist()}
    given = {"mri": mri, "pet": pet, "pet_registration": registration}
    weights = bundle_dir("pet_mri_fusion") / "models" / "volumes.pt"
    rule, network = (RestoreNatived(NATIVE, weights=path)(dict(given)) for path in (None, weights))
    known = [json.loads(result["pet_native"]) for result in (rule, network)]
    assert [k["weights_sha256"] for k in known] == [None, sha256(weights)]
    assert all(k["guided"] for k in known)
    one, two = (result["pet_restored"].as_tensor() for result in (rule, network))
    assert float((one - two).abs().max()) > 0.02 * float(one.max())
    assert float(two.sum()) == pytest.approx(float(one.sum()), rel=0.01)
    assert known[1]["corrected_chi2"] == pytest.approx(known[0]["corrected_chi2"], abs=0.1)
    assert not any("network" in note for note in known[1]["notes"])


def test_weights_of_the_network_that_are_not_there_end_a_run_before_work(tmp_path):
    overlay = tmp_path / "weights.yaml"
    overlay.write_text(f"volume_ckpt_path: {tmp_path / 'volumes.pt'}")
    with pytest.raises(BundleError, match=r"got none at .*volume_network: false"):
        load_workflow("pet_mri_fusion", device="cpu", overlays=[overlay])


def test_a_network_that_has_no_say_is_not_named(folded):
    """A PSF beyond its training: the rule makes the estimate, bit for bit, and a note says so."""
    mri, pet = (MetaTensor(nib.load(p).get_fdata(dtype=np.float32)[None], nib.load(p).affine) for p in folded)
    registration = {"performed": False, "accepted": True, "matrix": np.eye(4).tolist()}
    given = {"mri": mri, "pet": pet, "pet_registration": registration}
    wide = {"source2": {**NATIVE["source2"], "psf": {"fwhm_mm": 9.5}}}
    weights = bundle_dir("pet_mri_fusion") / "models" / "volumes.pt"
    rule, network = (RestoreNatived(wide, weights=path)(dict(given)) for path in (None, weights))
    known = json.loads(network["pet_native"])
    assert torch.equal(rule["pet_restored"].as_tensor(), network["pet_restored"].as_tensor())
    assert known["weights_sha256"] is None
    assert any("the rule" in note for note in known["notes"])


def test_a_psf_at_the_end_of_what_may_be_has_a_sensitivity(folded):
    """20 % more of 18 mm are more than a PSF may have: it is told with the widest."""
    mri, pet = (MetaTensor(nib.load(p).get_fdata(dtype=np.float32)[None], nib.load(p).affine) for p in folded)
    registration = {"performed": False, "accepted": True, "matrix": np.eye(4).tolist()}
    wide = {"source2": {**NATIVE["source2"], "psf": {"fwhm_mm": 18}}}
    given = {"mri": mri, "pet": pet, "pet_registration": registration}
    found = json.loads(RestoreNatived(wide, sensitivity=True)(given)["pet_sensitivity"])
    assert np.shape(found) == (4, 3)
    assert np.isfinite(found).all()


def test_what_changes_where_what_was_stated_is_wrong_is_told_on_request(files):
    """A PSF and noise 20 % off move the restored PET by more than nothing and less than the blur did."""
    out = files["folder"] / "sensitivity"
    given = ["--mri", str(files["mri"]), "--pet", str(files["pet"]), "--pet-unit", "kBq/ml", "--aligned"]
    assert main(["fuse", *given, "--psf", "6", "--sensitivity", "--out", str(out)]) in (0, None)
    record = json.loads((out / "case" / "case.json").read_text())
    pet = record["sources"]["pet"]["sensitivity"]
    restored = nib.load(out / "case" / "case_pet_restored.nii.gz").get_fdata()
    given = ndimage.zoom(nib.load(files["pet"]).get_fdata(), 2, order=1, grid_mode=True, mode="nearest")
    most = np.sqrt(((given - restored)[restored > 0.1] ** 2).mean())
    assert set(pet) == {"widths", "levels"}
    for ways in pet.values():
        assert all(0 < ways[way]["rms"] < most and ways[way]["rms"] < ways[way]["largest"] for way in ("less", "more"))
    assert pet["widths"]["more"] != pet["levels"]["more"]
    assert record["sources"]["mri"]["sensitivity"] == {}  # nothing was stated of it
    page = (out / "case" / "case_report.html").read_text()
    assert "widths 20 % less" in page and "levels 20 % more" in page


def test_estimate_says_the_psf_with_its_mri_and_what_a_phantom_measures(folded, tmp_path, capsys):
    mri, pet = folded
    assert main(["estimate", str(pet), "--kind", "function", "--mri", str(mri), "--aligned"]) in (0, None)
    said = capsys.readouterr().out
    assert "The PSF of the image was estimated as" in said
    assert "was stated" in said
    assert main(["estimate", str(mri), "--kind", "anatomy"]) in (0, None)
    assert "blur across slices of the image was estimated as 2 mm" in capsys.readouterr().out
    assert main(["estimate", str(pet), "--kind", "function", "--phantom", "repeat", "--second", str(pet)]) in (0, None)
    assert "standard deviation of 0 " in capsys.readouterr().out
    assert main(["estimate", str(pet), "--kind", "function", "--phantom", "repeat"]) == 2
    assert main(["estimate", str(mri), "--kind", "anatomy", "--mri", str(mri)]) == 2
    assert "leave out --mri" in capsys.readouterr().err
