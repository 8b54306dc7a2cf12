"""What the pipeline computes for records and pages, apart from the bundles."""

from __future__ import annotations

import json
import shutil
from functools import partialmethod

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import list_data_collate

from medfuse import fuse
from medfuse.bundles import bundle_dir, load_spec
from medfuse.errors import BundleError
from medfuse.inferers import FusionInferer, uses_bfloat16
from medfuse.physics import KrylovModel
from medfuse.pipeline import collate_case, load_fusion, write_group_page
from medfuse.pipeline.outputs.table import clear


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


def test_a_bundle_with_an_inferer_of_another_kind_is_refused(tmp_path):
    bundle = tmp_path / "b"
    shutil.copytree(bundle_dir("pet_mri_fusion"), bundle, ignore=shutil.ignore_patterns("demo"))
    config = bundle / "configs" / "inference.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"inferer": {"_target_": "SimpleInferer"}}))
    with pytest.raises(BundleError, match="must be a FusionInferer, got SimpleInferer"):
        load_fusion(str(bundle), device="cpu")


@pytest.mark.parametrize(("rounds", "solved"), [(60, True), (1, False)])
def test_the_record_tells_whether_conjugate_gradients_have_converged(rounds, solved, tmp_path, monkeypatch):
    monkeypatch.setattr(KrylovModel, "__init__", partialmethod(KrylovModel.__init__, max_iterations=rounds))
    motion = {"version": 1, "source1": [{"motion": {"length_px": 7, "angle_deg": 30}}, {"noise": {"sigma": 0.05}}]}
    wave = 0.5 + 0.4 * np.sin(np.arange(20) / 5)[:, None, None] * np.ones((20, 18, 3))
    values = (wave + np.random.default_rng(0).normal(0, 0.05, (2, 20, 18, 3))).astype(np.float32)
    for name, volume in zip(("mri", "pet"), values, strict=True):
        nib.save(nib.Nifti1Image(volume, np.diag([2.0, 2.0, 3.0, 1.0])), tmp_path / f"{name}.nii.gz")
    options = {"degradation": motion, "aligned": True, "steps": 1, "pet_unit": "SUV"}
    record = fuse(tmp_path / "pet.nii.gz", tmp_path / "mri.nii.gz", **options).record
    assert record["sources"]["mri"]["solve_converged"] is solved
    assert record["sources"]["pet"]["solve_converged"] is None  # nothing was stated of it
    told = [w for w in record["warnings"] if "conjugate gradients stopped at their limit" in w]
    assert len(told) == (not solved)


def test_the_denoiser_is_compiled_where_that_is_asked_for(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *args, **options: compiled.append(self))
    fusion = load_fusion(device="cpu", compiled=True)
    assert compiled == [fusion.network.denoiser]
    load_fusion(device="cpu")
    assert len(compiled) == 1


def test_a_batch_collated_key_by_key_is_what_monai_makes_of_it():
    volume = MetaTensor(torch.arange(24.0).reshape(1, 2, 3, 4), affine=torch.diag(torch.tensor([2.0, 2, 3, 1])))
    items = [{"mri": volume + k, "case": f"sub-{k}", "scale": {"unit": "SUV", "slope": 0.5 * k}} for k in range(2)]
    whole = list_data_collate([dict(item) for item in items])
    batch = collate_case(items)
    assert items == [{}, {}]  # a volume is gone once its copy is made
    assert list(batch) == list(whole) and batch["case"] == whole["case"] and batch["mri"].is_batch
    assert torch.equal(batch["mri"].as_tensor(), whole["mri"].as_tensor())
    assert torch.equal(batch["mri"].affine, whole["mri"].affine)
    assert torch.equal(batch["scale"]["slope"], whole["scale"]["slope"])
    assert [part["case"] for part in decollate_batch(batch)] == ["sub-0", "sub-1"]
