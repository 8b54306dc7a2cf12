"""How sure a restoration is: deviations of voxels, intervals of regions, and where they are written."""

from __future__ import annotations

import json
from itertools import product

import nibabel as nib
import numpy as np
import pytest
import torch

from medfuse import cli
from medfuse.inferers.bootstrap import observed_again
from medfuse.physics import parse_degradation
from medfuse.pipeline.certainty import kind_of
from medfuse.regions import Draws, add_intervals, disagrees, region_values
from medfuse.regions.intervals import (
    KINDS,
    LEVELS,
    calibration,
    fused_deviation,
    level_of,
    maker_of,
    voxel_deviation,
    voxel_features,
)

NOISE = {"version": 1, "source2": [{"noise": {"sigma": 0.1}}]}


class TestIntervals:
    def test_a_region_whose_voxels_err_together_is_no_surer_for_its_size(self):
        rng = np.random.default_rng(0)
        labels = np.zeros((10, 10, 6), int)
        labels[:5], labels[5:, :5] = 1, 2
        draws = rng.normal(0, 1, (200, *labels.shape))
        draws[:, labels == 1] = rng.normal(0, 1, (200, 1))  # all of region 1 err as one
        regions = region_values(labels + 4.0, labels + 4.0, affine=np.eye(4), labels=labels)
        add_intervals(regions, labels, Draws(draws, 1.0, 0.0 * labels, 1))
        whole, one, two = regions
        assert "interval" not in whole
        own = calibration()["region"]["both"][1]
        factor = own["draws"] * own["factors"][LEVELS.index(0.95)] / 1.959964
        assert one["interval"]["sd"] == pytest.approx(factor, rel=0.15)
        assert two["interval"]["sd"] == pytest.approx(factor / np.sqrt((labels == 2).sum()), rel=0.15)
        low, high = one["interval"]["low"], one["interval"]["high"]
        assert (low + high) / 2 == pytest.approx(one["restored"]["mean"])
        assert (high - low) / 2 == pytest.approx(1.959964 * one["interval"]["sd"])

    def test_what_the_data_do_not_tell_of_a_region_widens_its_interval(self):
        """Noise moves it by 0.1, and the network put 0.5 of its mean there."""
        labels = np.ones((6, 6, 2), int)
        for source in (0, 1):
            own = calibration()["region"]["both"][source]
            for invented in (0.0, 0.5):
                regions = region_values(labels, labels, affine=np.eye(4), labels=labels)
                draws = 0.1 * np.array([1.0, -1.0])[:, None, None, None] * np.ones((2, *labels.shape))
                add_intervals(regions, labels, Draws(draws, 2.0, invented * np.ones(labels.shape), source))
                told = np.hypot(0.2 * own["draws"], invented * own["invented"]) * own["factors"][-1] / 1.959964
                assert regions[1]["interval"]["sd"] == pytest.approx(told, rel=1e-6)

    @pytest.mark.parametrize("kind", KINDS)
    def test_what_the_blur_took_from_a_region_widens_its_interval(self, kind):
        """Next to nothing moves, nothing was invented: the mean went from 1 to 1.5, and that is all that is known."""
        labels = np.ones((6, 6, 2), int)
        own = calibration()["region"][kind][1]
        regions = region_values(labels, 1.5 * labels, affine=np.eye(4), labels=labels)
        add_intervals(regions, labels, Draws(np.full((2, *labels.shape), 1e-9), 1.0, 0.0 * labels, 1, kind))
        told = 0.5 * own["corrected"] * own["factors"][-1] / 1.959964
        assert regions[1]["interval"]["sd"] == pytest.approx(told, rel=1e-6)

    def test_what_happened_to_a_source_chooses_the_calibration(self):
        """Noise alone, blur alone, both; a decimation is a blur, and what nothing happened to needs none."""
        blur, noise = {"blur": {"sigma_px": 2.0}}, {"noise": {"sigma": 0.1}}
        half = {"downsample": {"factor": 2, "kind": "bicubic"}}
        for steps, kind in (([noise], "noise"), ([blur], "blur"), ([half], "blur"), ([blur, noise, half], "both")):
            assert kind_of(parse_degradation({"version": 1, "source2": steps}).source2) == kind

    @pytest.mark.parametrize(
        ("native", "maker"),
        [({}, "native"), ({"weights_sha256": None}, "native"), ({"weights_sha256": "ab"}, "network")],
    )
    def test_who_made_the_estimate_chooses_the_calibration(self, native, maker):
        assert maker_of(native) == maker
        assert voxel_deviation(np.ones((4, 4, 4)), maker, np.ones((4, 4, 4)), np.zeros((4, 4, 4))).mean() > 0

    def test_small_regions_have_none(self):
        labels = np.zeros((8, 8, 2), int)
        labels[0, :8, :2], labels[1, :5, 0] = 1, 2  # 16 voxels, and 5
        regions = region_values(labels, labels, affine=np.eye(4), labels=labels)
        add_intervals(regions, labels, Draws(np.ones((3, *labels.shape)), 1.0, 0.0 * labels, 1))
        assert ["interval" in region for region in regions] == [False, True, False]

    def test_what_was_not_restored_has_none(self):
        """Air, or what lies too near a border: it came back as it was, so that nothing moves it but rounding."""
        labels = np.ones((8, 8, 4), int)
        labels[4:], labels[6:] = 2, 3
        draws = np.random.default_rng(0).normal(size=(2, *labels.shape))
        draws[:, labels == 1] *= 1e-9
        draws[:, 6, :4] = draws[:, 7, :, :1] = 0  # less than half of label 3
        regions = region_values(labels, labels, affine=np.eye(4), labels=labels)
        add_intervals(regions, labels, Draws(draws, 1.0, 0.0 * labels, 1))
        assert ["interval" in region for region in regions[1:]] == [False, True, True]

    def test_the_level_lifts_draws_that_know_less_than_the_network(self):
        head = np.ones((8, 8, 4), np.float32)
        assert level_of(0.3 * head, np.stack([0.1 * head] * 2), (head, head)) == pytest.approx(3.0)
        assert level_of(0.3 * head, np.stack([0 * head] * 2), (head, head)) == 1.0  # nothing was drawn

    def test_1_96_deviations_are_the_calibrated_half_width(self):
        """A flat image of which nothing was invented: both features are at the least that counts, 1/1000."""
        flat = torch.full((8, 8), 0.5)
        for source, kind in product((0, 1), KINDS):
            found = voxel_deviation(torch.full((8, 8), 0.1), source, flat, 0 * flat, kind=kind)
            own = calibration()["voxel"][kind][source]
            one, two, three = own["powers"]
            scale = 0.1**one * 1e-3**two * 1e-3**three
            assert 1.959964 * found[4, 4] == pytest.approx(scale * own["factors"][-1], rel=1e-3)

    def test_features_of_a_volume_are_those_of_its_slices(self):
        rng = np.random.default_rng(0)
        std, x, new = (rng.uniform(0.1, 1, (9, 4, 8)) for _ in range(3))
        found = voxel_features(std, x, new, across=1)
        for k in range(4):
            np.testing.assert_allclose(found[:, k], voxel_features(std[:, k], x[:, k], new[:, k]), rtol=1e-5)

    def test_the_fused_image_errs_as_both_sources_together(self):
        factor = calibration()["fused"]["factors"][-1] / 1.959964
        found = fused_deviation([torch.full((2, 2), 0.3), torch.full((2, 2), 0.4)])
        assert found == pytest.approx(0.5 * factor, rel=1e-5)

    @pytest.mark.parametrize(("gtm", "verdict"), [(1.5, False), (2.5, True), (None, None)])
    def test_a_correction_by_labels_is_held_against_the_interval(self, gtm, verdict):
        assert disagrees({"gtm": gtm, "interval": {"low": 1.0, "high": 2.0}}) is verdict


def test_what_was_not_degraded_is_observed_as_it_was_and_limits_are_kept():
    generator = torch.Generator().manual_seed(0)
    given, restored = torch.rand(1, 2, 32, 32), torch.full((1, 2, 32, 32), 0.5)
    found = observed_again(restored, given, parse_degradation(NOISE), generator)
    assert torch.equal(found[:, 0], given[:, 0])
    assert float(found[:, 1].std()) == pytest.approx(0.1, rel=0.1)
    low = observed_again(restored, given.clamp(0.45, 0.55), parse_degradation(NOISE), generator)[:, 1]
    assert 0.45 - 1e-6 <= float(low.min()) <= float(low.max()) <= 0.55 + 1e-6


def check_a_batch(root):
    """A batch computes it as well, of the same images."""
    (root / "cases/a").mkdir(parents=True)
    for name in ("mri", "pet"):
        (root / f"cases/a/{name}.nii.gz").write_bytes((root / f"{name}.nii.gz").read_bytes())
    call = ["batch", "cases", "many", "participant", "--degradation", "noise.yaml", "--uncertainty", "fast"]
    assert cli.main(call) == 0
    assert json.loads((root / "many/a/a.json").read_text())["uncertainty"] == "fast"
    assert (root / "many/a/a_pet_std.nii.gz").exists()


@pytest.mark.parametrize("how", ["off", "fast", "full"])
def test_what_is_asked_for_is_written(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    affine = np.diag([2.0, 2.0, 4.0, 1.0])
    labels = np.zeros((32, 32, 2), np.uint8)
    labels[6:26, 6:26], labels[12:18, 12:18] = 1, 2
    nib.save(nib.Nifti1Image(labels, affine), "atlas.nii.gz")
    for name, values in (("mri", (0.0, 2.0, 1.0)), ("pet", (0.0, 30.0, 80.0))):
        clean = np.array(values)[labels]
        noisy = clean + rng.normal(0, 0.05 * clean.max(), clean.shape)
        nib.save(nib.Nifti1Image(noisy.astype(np.float32), affine), f"{name}.nii.gz")
    (tmp_path / "noise.yaml").write_text("{version: 1, source2: [{noise: {sigma: 0.05}}]}")
    call = ["fuse", "--pet", "pet.nii.gz", "--mri", "mri.nii.gz", "--aligned", "--atlas", "atlas.nii.gz"]
    call += ["--degradation", "noise.yaml", "--uncertainty", how, "--pet-unit", "SUV", "--out", "out"]
    assert cli.main(call) == 0
    record = json.loads((tmp_path / "out/case/case.json").read_text())
    assert record["uncertainty"] == how
    if how == "fast":
        check_a_batch(tmp_path)
    folder = tmp_path / "out/case"
    assert not (folder / "case_mri_std.nii.gz").exists()  # nothing happened to it
    assert (folder / "case_pet_std.nii.gz").exists() == (how != "off")
    assert (folder / "case_fused_std.nii.gz").exists() == (how != "off")
    regions = record["sources"]["pet"]["regions"]
    assert ["interval" in region for region in regions] == [False, how == "full", how == "full"]
    assert (folder / "case_pet_invented.nii.gz").exists() == (how != "off")
    assert all(("invented" in region) == (how != "off") for region in regions)
    if how == "off":
        return
    invented = nib.load(folder / "case_pet_invented.nii.gz").get_fdata()
    assert regions[2]["invented"]["mean"] == pytest.approx(invented[labels == 2].mean(), rel=1e-3, abs=1e-5)
    share = np.sqrt((invented[labels == 2] ** 2).mean()) / regions[2]["restored"]["mean"]
    assert regions[2]["invented"]["share"] == pytest.approx(share, rel=1e-3)
    std = nib.load(folder / "case_pet_std.nii.gz")
    assert std.header["descrip"].item().decode() == "std, SUV"
    error = nib.load(folder / "case_pet_restored.nii.gz").get_fdata() - np.array([0.0, 30.0, 80.0])[labels]
    typical = std.get_fdata()[labels > 0].mean()
    assert 0.3 < np.sqrt((error[labels > 0] ** 2).mean()) / typical < 3  # in the unit of the PET, of the right size
    if how == "full":
        report = (folder / "case_report.html").read_text()
        assert "SUV with 95 %" in report
        sd = regions[1]["interval"]["sd"]
        assert 0 < sd < typical
