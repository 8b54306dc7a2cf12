"""What the pipeline computes for records and pages, apart from the bundles."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from medfuse.bundles import load_spec
from medfuse.diffusion import FusionModel
from medfuse.diffusion.unet import FusionUNet
from medfuse.inferers import FusionInferer, uses_bfloat16
from medfuse.physics import GaussianBlur, parse_degradation, replicate
from medfuse.pipeline import agreements, load_fusion, write_group_page
from medfuse.pipeline.outputs.table import clear

NOISE = {"noise": {"kind": "gaussian", "sigma": 0.05}}
STEPS = {
    "noise": [NOISE],
    "blur, noise": [{"blur": {"sigma_px": 1.5}}, NOISE],
    "decimation, noise": [{"downsample": {"factor": 2}}, NOISE],
    "noise, decimation": [NOISE, {"downsample": {"factor": 2}}],
}


def findings(*shares: float) -> dict[str, torch.Tensor]:
    return {"blur": torch.tensor(shares), "noise": torch.ones(2), "converged": torch.ones(2, dtype=torch.bool)}


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
def test_residuals_of_the_truth_are_the_noise(steps, generator):
    joint = parse_degradation({"version": 1, "source2": steps})
    truth = torch.rand(6, 1, 32, 48, generator=generator)
    y = replicate(joint.source2.simulate(truth, generator), joint.source2.operator, truth.shape[2:])
    pair, restored = torch.cat([truth, y], 1), torch.cat([truth, truth], 1)
    first, second = agreements(pair, restored, joint, findings(1.0, 1.0), batch=4)
    assert first is None
    assert second.narrowed_blur is None
    assert second.residual.shape == (6, 32, 48)
    assert float(second.residual.mean()) == pytest.approx(0, abs=0.05)
    assert float(second.residual.square().mean()) == pytest.approx(1, rel=0.06)
    assert float(second.residual.square().mean()) == pytest.approx(second.chi2, rel=0.05)


@pytest.mark.parametrize("side", [192, 191])
def test_a_blur_is_told_of_as_the_sampler_narrowed_it_at_any_size(side, generator):
    told = [{"blur": {"sigma_px": 2.5}}, {"downsample": {"factor": 2}}]
    joint = parse_degradation({"version": 1, "source1": told})
    truth = GaussianBlur(0.7).forward(torch.rand(1, 2, side, side, generator=generator))
    given = parse_degradation({"version": 1, "source1": [{"blur": {"sigma_px": 1.2}}, told[1]]})
    y = truth.clone()
    y[:, :1] = replicate(given.source1.simulate(truth[:, :1], generator), given.source1.operator, truth.shape[2:])
    with torch.no_grad():
        found = FusionInferer(joint, steps=1)(y, FusionModel(FusionUNet()))
    share = found["proven_blur"][0].flatten()
    proven = {"blur": share, "converged": found["converged"][0].flatten()}
    agreement, _ = agreements(y, torch.cat([found["source1"], found["source2"]], 1), joint, proven)
    assert float(share[0]) < 0.7
    assert agreement.narrowed_blur == float(share[0])
    assert agreement.chi2 < 10  # by the blur as stated it is 800


def test_residuals_are_those_of_the_blur_that_was_undone(generator):
    truth = GaussianBlur(0.7).forward(torch.rand(3, 2, 96, 96, generator=generator))
    blurred = GaussianBlur(1.0).forward(truth)
    told = parse_degradation({"version": 1, "source1": [{"blur": {"sigma_px": 2.0}}], "source2": [NOISE]})
    first, second = agreements(blurred, truth, told, findings(0.5, 1.0), batch=2)
    assert first.narrowed_blur == 0.5 and second.narrowed_blur is None
    as_stated, _ = agreements(blurred, truth, told, findings(1.0, 1.0))
    assert as_stated.narrowed_blur is None
    assert float(first.residual.abs().max()) < 0.01 < float(as_stated.residual.abs().max())


def test_group_page_lists_records_and_passes_other_files(tmp_path):
    record = {"case": "one", "sources": {"mri": {}, "pet": {"unit": "SUV"}}}
    contents = {"one": json.dumps(record), "two": json.dumps(record), "three": "{", "four": "[]"}
    for name, content in contents.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.json").write_text(content)
    (tmp_path / "five").mkdir()
    (tmp_path / "six.json").write_text(json.dumps(record))
    page = write_group_page(tmp_path)
    assert page == tmp_path / "index.html"
    assert page.read_text().count("_report.html") == 1
    assert "1 case<" in page.read_text()


def test_what_an_earlier_run_wrote_of_a_case_goes_and_nothing_else(tmp_path):
    ours = (
        "c.json",
        "c_fused.nii.gz",
        "c_pet_restored.nii.gz",
        "c_pet_to_mri.tfm",
        "c_from-pet_to-mri_mode-image_xfm.txt",
        "c_report.html",
        "dicom/fused/1.dcm",
    )
    others = ("c_notes.txt", "d_fused.nii.gz", "mri.nii.gz", "dicom/mine/1.dcm")
    for name in (*ours, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    clear(tmp_path, "c")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(others)
    clear(tmp_path / "nowhere", "c")


@pytest.mark.parametrize(("amp", "sources", "weight"), [(True, 5e-3, 2e-2), (False, 1e-5, 1e-5)])
def test_threads_change_a_result_no_more_than_the_limits_say(amp, sources, weight):
    if amp and not uses_bfloat16("auto", torch.device("cpu")):
        pytest.skip("a CPU that computes bfloat16 slowly")
    fusion, before, results = load_fusion(), torch.get_num_threads(), []
    coarse = torch.rand(1, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    image = F.interpolate(coarse, (256, 256), mode="bicubic").clamp(0, 1)
    inferer = FusionInferer(load_spec("blur"), steps=1, amp=amp, settle=(None, 0.3))
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch.inference_mode():
                results.append(inferer(image, fusion.network))
    finally:
        torch.set_num_threads(before)
    one, two = results
    for kind, most in (("source1", sources), ("source2", sources), ("fused", sources), ("weight", weight)):
        assert float((one[kind] - two[kind]).abs().max()) < most, kind
