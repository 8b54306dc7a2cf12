"""What is measured in regions: against reference values, corrected by labels, and where a field of view ends."""

from __future__ import annotations

import json

import numpy as np
import pytest
from drawn_regions import image
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter

from medfuse.physics import Degradation, Downsample, GaussianBlur, GaussianNoise
from medfuse.pipeline.measured import measure_regions, psf_mm, unmeasured
from medfuse.regions import add_invented, correct_by_labels, dictionary, region_rows, region_values

IBSI = """
14411 14611 41641 44641
14411 11611 .1311 44611
144.. 11111 11.11 11611
144.. 11111 11111 11611
"""
"""The digital phantom of the Image Biomarker Standardisation Initiative: slices, rows, columns; a point is outside."""


class TestReferenceValues:
    def test_ibsi_has_the_same_values_of_its_phantom(self):
        """Zwanenburg et al. (Radiology 2020), reference manual, digital phantom, voxels of 2 mm, in three digits."""
        slices = [[list(row) for row in line.split()] for line in IBSI.split("\n") if line]
        marks = np.array(slices).transpose(2, 1, 0)
        values = np.where(marks == ".", "0", marks).astype(float)
        _, region = region_values(values, values, affine=np.diag([2.0, 2, 2, 1]), labels=(marks != ".").astype(int))
        found = region["given"]
        assert found["mean"] == pytest.approx(2.15, abs=0.005)
        assert found["sd"] ** 2 == pytest.approx(3.05, abs=0.005)
        assert found["max"] == 6
        assert region["volume_ml"] == pytest.approx(0.592)  # by counting voxels

    def test_the_sphere_of_a_peak_at_the_border_counts_what_was_measured(self):
        """By an own computation, as MITK does for IBSI (0F91): the voxels of the sphere that are in the image.

        Label 1 lies in a corner of the image, label 2 where the field of view of the PET ends, beyond which there are
        zeros that nobody measured. With these as values, a uniform 5 would have a peak of 2.
        """
        rng = np.random.default_rng(4)
        spacing, values = np.array([2.0, 2.0, 3.0]), rng.gamma(2.0, 1.0, (14, 13, 9))
        inside = np.zeros(values.shape, bool)
        inside[:10] = True
        values[~inside] = 0.0
        labels = np.zeros(values.shape, int)
        labels[:2, :2, :1], labels[8:10, 6:8, 4:6] = 1, 2
        places = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij"), -1) * spacing
        radius = (3000 / (4 * np.pi)) ** (1 / 3)

        def peak(label):
            near = [((places - centre) ** 2).sum(-1) <= radius**2 for centre in places[labels == label]]
            return max(values[ball & inside].mean() for ball in near)

        affine = np.diag([*spacing, 1])
        regions = region_values(values, 5.0 * inside, affine=affine, labels=labels, inside=inside)
        assert [r["given"]["peak"] for r in regions[1:]] == pytest.approx([peak(1), peak(2)], rel=1e-5)
        assert [r["restored"]["peak"] for r in regions] == pytest.approx([5.0] * 3)

    def test_the_peak_is_the_highest_mean_over_a_ball_of_1_ml(self):
        """By an own computation: every voxel within 6.2 mm of every centre in the region."""
        rng = np.random.default_rng(3)
        spacing, values = np.array([1.5, 2.0, 2.5]), rng.gamma(2.0, 1.0, (16, 14, 12))
        labels = np.zeros(values.shape, int)
        labels[6:9, 5:8, 5:7] = 1
        places = np.stack(np.meshgrid(*map(np.arange, values.shape), indexing="ij"), -1) * spacing
        radius = (3000 / (4 * np.pi)) ** (1 / 3)
        means = [values[((places - centre) ** 2).sum(-1) <= radius**2].mean() for centre in places[labels == 1]]
        _, region = region_values(values, values, affine=np.diag([*spacing, 1]), labels=labels)
        assert region["given"]["peak"] == pytest.approx(max(means), rel=1e-5)


class TestPartialVolume:
    def test_the_gtm_gives_back_uniform_regions(self):
        """y is blurred by an own computation; the values of a model that is true must come back."""
        rng = np.random.default_rng(1)
        labels = np.kron(rng.integers(0, 5, (5, 6, 4)), np.ones((5, 5, 6))).astype(int)
        true = np.array([0.5, 4.0, 1.0, 9.0, 2.0])
        spacing, fwhm = np.array([1.0, 1.5, 2.0]), (5.0, 6.0, 0.0)
        sigma = np.array(fwhm) / 2.3548200450309493 / spacing
        given = gaussian_filter(true[labels], sigma, mode="reflect", truncate=8)
        found = correct_by_labels(given, labels, affine=np.diag([*spacing, 1]), fwhm_mm=fwhm)
        for k in range(1, 5):
            assert abs(given[labels == k].mean() / true[k] - 1) > 0.02  # there is something to correct
            assert found.gtm[k] == pytest.approx(true[k], rel=2e-3)
            assert found.rbv[k] == pytest.approx(true[k], rel=5e-3)

    def test_a_lesion_within_a_region_is_not_seen_by_it(self):
        labels = np.zeros((30, 30, 3), int)
        labels[8:22, 8:22] = 1
        true = np.where(labels == 1, 2.0, 0.0)
        true[13:17, 13:17] = 8.0
        found = correct_by_labels(gaussian_filter(true, (2, 2, 0)), labels, affine=np.eye(4), fwhm_mm=(4.7, 4.7, 0))
        assert found.gtm[1] != pytest.approx(true[labels == 1].mean(), rel=5e-3)

    def test_zeros_beyond_the_end_of_the_pet_are_no_background(self):
        """Rods of 4 and 2 on a background of 1 that go on beyond the end of the PET: all three are told exactly."""
        labels = np.zeros((24, 20, 20), int)
        labels[:, 4:10, 4:10], labels[:, 11:16, 10:16] = 1, 2
        inside = np.zeros(labels.shape, bool)
        inside[:11] = True
        truth = np.array([1.0, 4.0, 2.0])[labels]
        given = gaussian_filter(truth, 6 / 2.3548200450309493 / 2, mode="reflect") * inside
        found = correct_by_labels(
            given, labels * inside, affine=np.diag([2.0, 2, 2, 1]), fwhm_mm=(6,) * 3, inside=inside
        )
        assert found.gtm == pytest.approx({1: 4.0, 2: 2.0}, rel=1e-6)
        assert found.rbv == pytest.approx({1: 4.0, 2: 2.0}, rel=1e-6)

    def test_regions_that_cannot_be_told_apart_have_none(self):
        labels = np.zeros((12, 12, 2), int)
        labels[3:9, 3:9] = 1
        layers = np.stack([labels, labels * 2])
        assert correct_by_labels(np.ones(labels.shape), layers, affine=np.eye(4), fwhm_mm=(3, 3, 0)) is None

    def test_the_psf_is_that_of_the_steps(self):
        part = Degradation((GaussianBlur((2.0, 1.0)), Downsample(2), GaussianNoise(0.1)))
        width = 2.3548200450309493
        expected = (1.5 * width * np.sqrt(4 + 3 / 12), 0.0, 3.0 * width * np.sqrt(1 + 3 / 12))
        assert psf_mm(part, (1.5, 9.0, 3.0), spatial_dim=1) == pytest.approx(expected)
        assert psf_mm(Degradation((GaussianNoise(0.1),)), (1, 1, 1), spatial_dim=2) is None


class TestTable:
    """Of a case with two regions, and intervals of both sources."""

    @staticmethod
    def region(label, mean):
        figures = {"given": {"mean": mean}, "restored": {"mean": mean + 1}}
        interval = {"sd": 0.1, "low": mean + 0.8, "high": mean + 1.2}
        return {"label": label, "volume_ml": 2.0, **figures, **({} if label is None else {"interval": interval})}

    def test_the_other_source_has_its_mean_and_interval_beside(self):
        """Rows follow labels, whatever the order of the record; each column has the unit of its source."""
        pet = [self.region(None, 2.0), self.region(1, 3.0), self.region(7, 5.0)]
        mri = [self.region(7, 500.0), self.region(None, 200.0)]
        columns, rows = region_rows(pet, mri, key="mri")
        names = [column.name for column in columns]
        table = [dict(zip(names, row, strict=True)) for row in rows]
        keys = ["index", "restored_mean_low", "mri_given_mean", "mri_restored_mean", "mri_restored_mean_high"]
        assert [[row[key] for key in keys] for row in table] == [
            [None, None, 200.0, 201.0, None], [1, 3.8, None, None, None], [7, 5.8, 500.0, 501.0, 501.2],
        ]  # fmt: skip
        told = dictionary(columns, titles=("MRI", "PET"), units=("a.u.", "SUV"))
        assert set(told) == set(names)
        assert told["mri_restored_mean_low"]["Units"] == "a.u."
        assert "MRI" in told["mri_restored_mean"]["Description"]
        assert told["restored_mean_low"]["Units"] == "SUV"

    def test_without_regions_of_the_other_source_there_are_none(self):
        columns, rows = region_rows([self.region(None, 2.0), self.region(1, 3.0)])
        assert not any(column.first for column in columns)
        assert len(rows) == 2


class TestFieldOfView:
    def test_zeros_outside_of_the_pet_count_in_no_region(self):
        """Half of label 2, and of the image, lie beyond the end of the PET."""
        labels = np.zeros((1, 8, 4, 4), np.float32)
        labels[0, :2], labels[0, 2:6] = 1, 2
        grid, pet = np.eye(4), np.zeros((8, 4, 4))
        pet[:4] = 3.0
        fov = json.dumps([np.eye(4).tolist(), [4, 4, 4]])
        data = {"mask": MetaTensor(labels), "mri": image(affine=grid, shape=(8, 4, 4))}
        data["pet"] = MetaTensor(pet[None], affine=grid, meta={"field_of_view": fov})
        found = measure_regions(data, pet, pet, affine=grid, keys=("mri", "pet"))
        assert [(r["label"], r["given"]["mean"], r["volume_ml"]) for r in found] == [
            (None, 3.0, pytest.approx(0.064)), (1, 3.0, pytest.approx(0.032)), (2, 3.0, pytest.approx(0.032)),
        ]  # fmt: skip
        assert unmeasured(data, pet.shape, ("mri", "pet")) == {2: 0.5}

    def test_what_was_invented_of_the_whole_image_is_of_what_was_measured(self):
        """The data end after half of the image: 0.3 of 3 was invented where there are any."""
        inside = np.zeros((4, 3, 2), bool)
        inside[:2] = True
        regions = region_values(3.0 * inside, 3.0 * inside, affine=np.eye(4), inside=inside)
        add_invented(regions, None, 0.3 * inside, gate=0.5 * inside, inside=inside)
        assert regions[0]["invented"] == pytest.approx({"mean": 0.3, "share": 0.1, "gate": 0.5})

    def test_the_peak_of_the_whole_image_is_one_that_was_measured(self):
        """What lies beyond is 9, what was measured 3: a sphere of 1 ml (radius 6.2 mm) that ends before it has 3."""
        volume, inside = np.full((32, 12, 12), 3.0), np.zeros((32, 12, 12), bool)
        volume[20:], inside[:12] = 9.0, True
        whole = region_values(volume, volume, affine=np.diag([2.0, 2.0, 2.0, 1.0]), inside=inside)[0]
        assert [whole["given"][name] for name in ("mean", "max", "peak")] == pytest.approx([3.0, 3.0, 3.0], rel=1e-6)
