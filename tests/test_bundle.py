"""The PET-MRI bundle as MONAI's own command runs it, in a process of its own."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigWorkflow, load, verify_net_in_out
from scipy.ndimage import gaussian_filter

from medfuse.bundles import bundle_dir, load_spec, preset_names, share_dir
from medfuse.physics import parse_degradation
from medfuse.training.degrade import degrade

BUNDLE = bundle_dir("pet_mri_fusion")
NOISE = "[{'noise': {'kind': 'gaussian', 'sigma': 0.03}}]"
OUTPUTS = ("fused", "mri_restored", "pet_restored", "weight", "fused_rgb")
OBLIQUE = np.array([[0.98, -0.19, 0.05, -20.0], [0.18, 0.97, 0.12, -25.0], [-0.07, -0.11, 2.1, -15.0], [0, 0, 0, 1]])


def write_case(folder: Path, *, shape=(41, 48, 12), aligned=True, seed=0, **fields) -> None:
    """Write a small pair: an MRI on an oblique, anisotropic grid with an odd size and a coarser PET in SUV."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    pet_affine = OBLIQUE @ np.diag([2.0, 2.0, 1.0, 1.0])
    for name, size, affine, top in (
        ("mri", shape, OBLIQUE, 900.0),
        ("pet", (21, 24, shape[2]), pet_affine, 7.5),
    ):
        grid = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"), -1)
        world = grid @ affine[:3, :3].T + affine[:3, 3]
        centre = OBLIQUE[:3, :3] @ (np.array(shape) / 2) + OBLIQUE[:3, 3]
        r = np.linalg.norm((world - centre) / (16.0, 18.0, 14.0), axis=-1)
        image = top * (0.6 * (r < 1) + 0.4 * (r < 0.4)) + rng.normal(0, 0.01 * top, size)
        nib.save(nib.Nifti1Image(np.abs(image).astype(np.float32), affine), folder / f"{name}.nii.gz")
    (folder / "case.json").write_text(json.dumps({"aligned": aligned, "pet_unit": "SUV", **fields}))


def write_degraded_case(folder: Path, preset: str) -> None:
    """Write a pair on one grid, each slice of it degraded as a preset says."""
    write_case(folder, shape=(40, 48, 12))
    mri = nib.load(folder / "mri.nii.gz")
    clean = gaussian_filter(mri.get_fdata() / 900.0, 0.7)
    pair = torch.from_numpy(np.stack([clean, np.roll(clean, 4, 0) ** 2])).float().movedim(3, 0)
    degradation = parse_degradation(load_spec(preset))
    degraded = degrade(pair, degradation, torch.Generator().manual_seed(0), stored=False).movedim(0, 3)
    for name, image, top in zip(("mri", "pet"), degraded, (900.0, 7.5), strict=True):
        nib.save(nib.Nifti1Image(top * image.numpy(), mri.affine), folder / f"{name}.nii.gz")


def monai_run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "monai.bundle", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def inference(data: Path, out: Path, *extra: str, overlays: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    config = str([str(BUNDLE / "configs" / "inference.json"), *map(str, overlays)])
    return monai_run(
        "run", "inference", "--config_file", config, "--bundle_root", str(BUNDLE),
        "--dataset_dir", str(data), "--output_dir", str(out), *extra,
    )  # fmt: skip


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return what MONAI's command says last: our sentence, below its own errors."""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("medfuse: error: ")
    return last


def test_inference_fuses_every_case_on_the_reference_grid(tmp_path):
    for i, name in enumerate(("one", "two")):
        write_case(tmp_path / "data" / name, seed=i)
    done = inference(tmp_path / "data", tmp_path / "out", "--degradation#source1", "[]")
    assert done.returncode == 0, done.stderr[-2000:]
    for case in ("one", "two"):
        folder = tmp_path / "out" / case
        mri = nib.load(tmp_path / "data" / case / "mri.nii.gz")
        for kind in OUTPUTS:
            image = nib.load(folder / f"{case}_{kind}.nii.gz")
            assert image.shape == mri.shape
            assert np.abs(image.affine - mri.affine).max() < 1e-4
            assert np.array_equal(image.get_sform(), image.header.get_best_affine())
        record = json.loads((folder / f"{case}.json").read_text())
        assert record["sources"]["pet"]["unit"] == "SUV"
        assert record["degradation"]["origin"] == "estimated"  # of the PET, by default
        assert record["degradation"]["source2"] == [] and record["degradation"]["estimates"]["source1"] == []
        assert record["fused_unit"] == "normalised, dimensionless"
        assert record["notice"].startswith("Research use only")
        assert (folder / f"{case}_mosaic.png").stat().st_size > 50_000
        assert (folder / f"{case}_report.html").stat().st_size > 2_000_000
        assert f"./{case}/{case}_report.html" in (tmp_path / "out" / "index.html").read_text()
        # nothing happened to the MRI, nothing is known of the PET, so both come back as they were: SUV in, SUV out
        restored = nib.load(folder / f"{case}_mri_restored.nii.gz").get_fdata()
        assert np.abs(restored - mri.get_fdata()).max() < 1e-5 * mri.get_fdata().max()
        pet = nib.load(tmp_path / "data" / case / "pet.nii.gz").get_fdata()
        suv = nib.load(folder / f"{case}_pet_restored.nii.gz").get_fdata()
        assert 0.9 * pet.max() < suv.max() <= pet.max() * (1 + 1e-5)


def test_values_are_given_for_each_label_of_a_mask(tmp_path):
    write_case(tmp_path / "data" / "one")
    mri = nib.load(tmp_path / "data" / "one" / "mri.nii.gz")
    mask = np.zeros(mri.shape, np.uint8)
    mask[10:30, 10:30, 2:10], mask[18:22, 20:24, 5:7] = 1, 4
    nib.save(nib.Nifti1Image(mask, mri.affine), tmp_path / "data" / "one" / "mask.nii.gz")
    done = inference(tmp_path / "data", tmp_path / "out", "--steps", "1")
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "out" / "one"
    regions = json.loads((folder / "one.json").read_text())["sources"]["pet"]["regions"]
    assert [r["label"] for r in regions] == [None, 1, 4]
    pet = nib.load(folder / "one_pet_restored.nii.gz").get_fdata()
    assert regions[2]["restored"]["mean"] == pytest.approx(pet[mask == 4].mean(), rel=1e-4)
    assert regions[1]["volume_ml"] == pytest.approx((mask == 1).sum() * abs(np.linalg.det(mri.affine)) / 1000)
    assert "Label 4" in (folder / "one_report.html").read_text()


def test_the_brain_phantom_is_registered_and_measured_against_its_truth(tmp_path):
    demo, case = BUNDLE / "demo" / "brain_phantom", tmp_path / "data" / "head"
    shutil.copytree(demo, case)
    shutil.copy(case / "mri.nii.gz", case / "truth_mri.nii.gz")
    done = inference(tmp_path / "data", tmp_path / "out", "--steps", "1", "--degradation#source1", NOISE)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = tmp_path / "out" / "head"
    record = json.loads((folder / "head.json").read_text())
    assert record["registration"]["performed"] and record["registration"]["accepted"]
    assert record["registration"]["reasons"] == []
    found, truth = (sitk.ReadTransform(str(p)) for p in (folder / "head_pet_to_mri.tfm", *demo.glob("truth_*.tfm")))
    for point in ((-28.0, 22.0, 22.0), (44.0, -54.0, 40.0), (0.0, 0.0, 0.0)):
        there = truth.GetInverse().TransformPoint(point)
        assert np.linalg.norm(np.subtract(found.TransformPoint(there), point)) < 0.5
    assert record["sources"]["mri"]["residual_chi2"] > 0
    native = record["sources"]["pet"][
        "native"
    ]  # nobody told a width: the MRI tells it, 6 mm in truth, rather less than more
    assert native["guided"] and all(5.0 < width < 6.4 for width in native["psf_fwhm_mm"])
    values = record["sources"]["pet"]["regions"][0]
    assert values["restored"]["mean"] == pytest.approx(values["given"]["mean"], rel=0.01)
    against = record["sources"]["mri"]["against_truth"]
    restored, mri = (nib.load(p).get_fdata() for p in (folder / "head_mri_restored.nii.gz", demo / "mri.nii.gz"))
    expected = 10 * np.log10(mri.max() ** 2 / np.square(restored - mri).mean())
    assert against["psnr"] == pytest.approx(expected, abs=0.01)
    assert 0 < against["ssim"] <= 1


def test_everything_may_be_on_the_grid_of_the_pet(tmp_path):
    write_case(tmp_path / "data" / "one")
    overlay = share_dir() / "configs" / "run" / "pet_grid.yaml"
    done = inference(tmp_path / "data", tmp_path / "out", overlays=(overlay,))
    assert done.returncode == 0, done.stderr[-2000:]
    pet = nib.load(tmp_path / "data" / "one" / "pet.nii.gz")
    for kind in OUTPUTS:
        image = nib.load(tmp_path / "out" / "one" / f"one_{kind}.nii.gz")
        assert image.shape == pet.shape
        assert np.abs(image.affine - pet.affine).max() < 1e-4
    assert json.loads((tmp_path / "out" / "one" / "one.json").read_text())["reference"]["source"] == "pet"
    restored = nib.load(tmp_path / "out" / "one" / "one_pet_restored.nii.gz").get_fdata()
    assert np.abs(restored - pet.get_fdata()).max() < 1e-5 * pet.get_fdata().max()


@pytest.mark.full
@pytest.mark.parametrize("preset", [name for name in preset_names() if name != "auto"])
def test_every_degradation_overlay_explains_what_it_says_happened(tmp_path, preset):
    write_degraded_case(tmp_path / "data" / "one", preset)
    overlay = share_dir() / "configs" / "degradation" / f"{preset}.yaml"
    done = inference(tmp_path / "data", tmp_path / "out", overlays=(overlay,))
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "out" / "one" / "one.json").read_text())
    assert record["degradation"]["name"] == preset
    for source, steps in zip(("mri", "pet"), (load_spec(preset)[f"source{i}"] for i in (1, 2)), strict=True):
        chi2 = record["sources"][source]["residual_chi2"]
        assert chi2 is None if not steps else 0 < chi2 < 1.05


@pytest.mark.full
def test_the_overlay_that_states_nothing_tells_what_it_found(tmp_path):
    write_degraded_case(tmp_path / "data" / "one", "noise")
    overlay = share_dir() / "configs" / "degradation" / "auto.yaml"
    done = inference(tmp_path / "data", tmp_path / "out", overlays=(overlay,))
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads((tmp_path / "out" / "one" / "one.json").read_text())["degradation"]
    assert told["origin"] == "estimated"
    assert {found["step"] for found in told["estimates"]["source1"]} == {"blur", "noise"}
    assert all(found["stated"] is not None or found["refused"] for found in told["estimates"]["source1"])


@pytest.mark.full
@pytest.mark.parametrize("overlay", sorted((share_dir() / "configs" / "run").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_run_overlay_runs(tmp_path, overlay):
    if overlay.stem == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    write_case(tmp_path / "data" / "one")
    done = inference(tmp_path / "data", tmp_path / "out", overlays=(overlay,))
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda data: data.mkdir(), "must hold"),
        (lambda data: (write_case(data / "one"), (data / "one" / "pet.nii.gz").unlink()), "add pet"),
        (lambda data: write_case(data / "one", aligend=True), "got 'aligend'; write aligned"),
        (lambda data: write_case(data / "index"), "no reserved name, got 'index'"),
    ],
    ids=["empty folder", "missing partner", "a field", "an id"],
)
def test_a_folder_without_whole_cases_is_an_error(tmp_path, prepare, message):
    prepare(tmp_path / "data")
    done = inference(tmp_path / "data", tmp_path / "out")
    assert done.returncode != 0
    assert message in last_line(done)
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_an_error(tmp_path):
    write_case(tmp_path / "data" / "one")
    done = inference(tmp_path / "data", tmp_path / "out", "--ckpt_path", str(tmp_path / "model.pt"))
    assert done.returncode != 0
    assert "the weights must be a file" in last_line(done)
    assert not (tmp_path / "out").exists()


def test_a_call_without_config_file_is_an_error(tmp_path):
    assert monai_run("run", "inference", cwd=tmp_path).returncode != 0


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(path: Path, change) -> None:
    image = nib.load(path)
    data, affine = change(np.asarray(image.dataobj), image.affine.copy())
    nib.save(nib.Nifti1Image(data, affine), path)


def nan_affine(data, affine):
    affine[0, 3] = np.nan
    return data, affine


def singular(data, affine):
    affine[:3, 1] = affine[:3, 0]
    return data, affine


@pytest.mark.parametrize(
    ("key", "spoil"),
    [
        ("pet", truncate),
        ("mri", lambda p: rewrite(p, nan_affine)),
        ("mri", lambda p: rewrite(p, singular)),
        ("pet", lambda p: rewrite(p, lambda d, a: (np.stack([d, d], -1), a))),
        ("pet", lambda p: rewrite(p, lambda d, a: (np.full_like(d, 3.0), a))),
        ("mri", lambda p: rewrite(p, lambda d, a: (np.full_like(d, np.nan), a))),
        ("pet", lambda p: rewrite(p, lambda d, a: (d, a + np.array([[0, 0, 0, 900.0], *[[0] * 4] * 3])))),
        ("pet", lambda p: p.unlink()),
    ],
    ids=["truncated", "nan affine", "singular affine", "4-D", "constant", "all NaN", "no overlap", "absent"],
)
def test_bad_input_is_a_clear_error_with_nothing_written(tmp_path, capsys, key, spoil):
    from medfuse import cli

    write_case(tmp_path / "data" / "one")
    path = tmp_path / "data" / "one" / f"{key}.nii.gz"
    spoil(path)
    files = {k: str(tmp_path / "data" / "one" / f"{k}.nii.gz") for k in ("mri", "pet")}
    code = cli.main(["fuse", "--pet", files["pet"], "--mri", files["mri"], "--out", str(tmp_path / "out"), "--aligned"])
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert error[-1].startswith("medfuse: error: ")
    assert not list((tmp_path / "out").rglob("*")) if (tmp_path / "out").exists() else True


def test_network_data_format_holds():
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        config_file=str(BUNDLE / "configs" / "inference.json"),
        device="cpu",
        n=2,
    )


@pytest.mark.full
@pytest.mark.parametrize("trace", [False, True])
def test_torchscript_export_equals_the_network(tmp_path, trace):
    """A script serves the inferer in the network's place; a trace holds the one call that it was made of."""
    extra = ("--use_trace", "True", "--input_shape", "[1,12,32,32]") if trace else ()
    done = monai_run(
        "ckpt_export", "--net_id", "network_def", "--filepath", str(tmp_path / "model.ts"),
        "--bundle_root", str(BUNDLE),
        "--ckpt_file", str(BUNDLE / "models" / "model.pt"), "--meta_file", str(BUNDLE / "configs" / "metadata.json"),
        "--config_file", str(BUNDLE / "configs" / "inference.json"), *extra,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    from medfuse.inferers import FusionInferer
    from medfuse.pipeline import load_fusion

    fusion, exported = load_fusion(device="cpu"), torch.jit.load(tmp_path / "model.ts")
    x = torch.rand(2, 2, 48, 40, generator=torch.Generator().manual_seed(0))
    inferer = FusionInferer(steps=2, amp=False)
    image = torch.rand(1, 12, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        networks = (fusion.network, exported)
        ours, theirs = (n(image) if trace else inferer(inputs=x, network=n)["fused"] for n in networks)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")  # MONAI's own, at every load
def test_monai_loads_the_network_with_its_weights():
    network = load("pet_mri_fusion", bundle_dir=str(BUNDLE.parent), workflow_type="inference", source="monaihosting")
    state = torch.load(BUNDLE / "models" / "model.pt", weights_only=True)
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype))


def test_inference_config_has_the_properties_of_a_monai_bundle():
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "inference.json"),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=None,
        workflow_type="inference",
        bundle_root=str(BUNDLE),
    )
    workflow.initialize()
    assert not workflow.check_properties()


@pytest.mark.full
@pytest.mark.skipif(find_spec("onnxscript") is None, reason="medfuse[onnx] is not installed")
def test_onnx_export_of_monai_equals_the_network(tmp_path):
    done = monai_run(
        "onnx_export", "--net_id", "network_def", "--filepath", str(tmp_path / "model.onnx"),
        "--input_shape", "[1,12,64,64]", "--bundle_root", str(BUNDLE),
        "--ckpt_file", str(BUNDLE / "models" / "model.pt"), "--meta_file", str(BUNDLE / "configs" / "metadata.json"),
        "--config_file", str(BUNDLE / "configs" / "inference.json"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    import onnxruntime

    from medfuse.pipeline import load_fusion

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    image = torch.rand(1, 12, 64, 64, generator=torch.Generator().manual_seed(0))
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.inference_mode():
        expected = load_fusion(device="cpu").network(image)
    assert float((torch.from_numpy(found) - expected).abs().max() / expected.abs().max()) < 1e-4


@pytest.mark.full
def test_the_warning_about_code_is_silenced_as_the_page_says(tmp_path):
    config = str(BUNDLE / "configs" / "inference.json")
    rest = ["-m", "monai.bundle", "run", "inference", "--config_file", config, "--ckpt_path", str(tmp_path / "none.pt")]
    said = {}
    for name, flags in (("as it is", []), ("silenced", ["-W", "ignore:parsing config_file:UserWarning"])):
        command = [sys.executable, *flags, *rest, "--bundle_root", str(BUNDLE), "--output_dir", str(tmp_path / "out")]
        said[name] = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "parsing config_file" in said["as it is"] and "parsing config_file" not in said["silenced"]
