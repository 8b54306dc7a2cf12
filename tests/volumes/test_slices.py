"""Slices that are thick or overlap: the MRI is blurred across them already, and less of the PSF is left to undo."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy import ndimage
from volumes.test_restore import FWHM, positions

from medfuse.errors import GeometryError
from medfuse.physics import Grid, ScannerNoise, ScannerSampling
from medfuse.pipeline.slices import slices_of
from medfuse.volumes import restore_volume, slices_mm

NOISE, PSF = ScannerNoise(0.12), (6.0, 6.0, 6.0)


@pytest.mark.parametrize(
    ("spacing", "thickness", "axis", "expected"),
    [
        ((1, 1, 1), None, None, (0, 0, 0)),  # three-dimensional sequences: nothing is told apart
        ((2, 2, 2), 2.0, 1, (0, 0, 0)),
        ((0.9, 0.9, 1.2), 1.2, 2, (0, 0, 0)),
        ((0.9, 0.9, 5), None, None, (0, 0, 5)),  # of a file that says nothing, the distance
        ((0.9, 0.9, 6), 5.0, 2, (0, 0, 5)),  # with gaps
        ((0.9, 0.9, 3), 6.0, 2, (0, 0, 6)),  # they overlap
        ((1, 1, 1), 2.0, 0, (2, 0, 0)),  # interpolated to half the distance
        ((1, 1, 1), 2.0, None, (0, 0, 0)),  # across which axis, nobody said
        ((5, 0.9, 0.9), 5.0, None, (5, 0, 0)),
    ],
)
def test_what_counts_as_thick(spacing, thickness, axis, expected):
    assert slices_mm(Grid.of_spacing((20, 20, 20), spacing), thickness, axis) == expected


@pytest.mark.parametrize("thickness", [0.0, -3.0, 80.0, float("nan")])
def test_what_is_no_thickness_is_refused(thickness):
    with pytest.raises(GeometryError, match="thickness of slices"):
        slices_mm(Grid.of_spacing((20, 20, 20), (1, 1, 5)), thickness)


def image(spacing, **meta):
    return MetaTensor(torch.zeros(1, 4, 4, 4), torch.diag(torch.tensor([*spacing, 1.0])), meta)


def test_headers_and_sidecars_tell_the_thickness(tmp_path):
    """(0018,0050) of DICOM, SliceThickness of a BIDS sidecar; the axis is the third as it was read, turned or not."""
    grid = Grid.of_spacing((4, 4, 4), (3, 1, 1))
    turned = np.zeros((4, 4))
    turned[0, 2], turned[1, 0], turned[2, 1], turned[3, 3] = 3, 1, 1, 1
    dicom = image((3, 1, 1), acquisition=json.dumps({"thickness_mm": 4.0}), original_affine=turned)
    assert slices_of(dicom, grid) == (4.0, 0, 0)
    (tmp_path / "mri.json").write_text(json.dumps({"SliceThickness": 5}))
    assert slices_of(image((3, 1, 1), filename_or_obj=str(tmp_path / "mri.nii.gz")), grid) == (5.0, 0, 0)
    (tmp_path / "mri.json").write_text(json.dumps({"SliceThickness": "thick"}))
    assert slices_of(image((3, 1, 1), filename_or_obj=str(tmp_path / "mri.nii.gz")), grid) == (3.0, 0, 0)


def test_means_over_slices_are_seen_as_what_they_are_means_of():
    """A Gaussian averaged over 6 mm, seen with so much less of the PSF, is the Gaussian seen with all of it."""
    grid, data = Grid.of_spacing((40, 40, 40), (1.5, 1.5, 1.5)), Grid.of_spacing((20, 20, 20), (3, 3, 3))
    at = positions(grid) - np.array(grid.centre)
    wide = np.sqrt(16 + 6.0**2 / 12)
    blob = np.exp(-0.5 * ((at[..., :2] ** 2).sum(-1) / 16 + at[..., 2] ** 2 / wide**2)) * 4 / wide
    operator = ScannerSampling(grid, data, 6.0, None, (0, 0, 6.0))
    seen = operator.forward(torch.from_numpy(blob)[None, None])[0, 0].numpy()
    var = 16 + (6.0 / FWHM) ** 2
    expected = np.exp(-0.5 * ((positions(data) - np.array(grid.centre)) ** 2).sum(-1) / var) * (16 / var) ** 1.5
    inside = operator.inside.numpy()
    assert np.abs(seen - expected)[inside].max() < 0.01 * expected.max()


def test_slices_that_overlap_restore_a_better_pet_where_that_is_known():
    """8 mm at a distance of 4: the RMSE against the means over slices falls by more than 5 %."""
    shape, thick, distance = (44, 46, 96), 8, 4
    fine = Grid.of_spacing(shape, (2.0, 2.0, 1.0))
    at = positions(fine) - np.array(fine.centre)
    radius = np.sqrt((at**2 / np.array([36, 38, 40]) ** 2).sum(-1))
    folds = 0.14 * np.sin(at[..., 0] / 3.5) * np.sin(at[..., 1] / 4.0) * np.sin(at[..., 2] / 4.5 + 1)
    brain = radius < 0.8
    white = brain & (radius + folds < 0.58)

    def sliced(v):
        return np.stack([v[..., k : k + thick].mean(-1) for k in range(0, shape[2] - thick + 1, distance)], -1)

    truth = np.where(white, 1.0, np.where(brain, 4.0, 0.0))
    mri = sliced(np.where(white, 0.85, np.where(brain, 0.6, 0.0)) * 900.0)
    mri = np.abs(mri + 18.0 * np.random.default_rng(0).normal(size=mri.shape))
    affine = np.diag([2.0, 2.0, distance, 1.0])
    affine[2, 3] = (thick - 1) / 2
    blurred = ndimage.gaussian_filter(truth, [w / FWHM / s for w, s in zip(PSF, fine.spacing, strict=True)], truncate=6)
    where = np.diag([3.0, 3.0, 3.0, 1.0])
    where[:3, 3] = 3.1, 2.4, 4.3
    data = Grid((28, 29, 29), where.tolist())
    index = np.moveaxis(positions(data) / np.array(fine.spacing), -1, 0)
    clean = torch.from_numpy(ndimage.map_coordinates(blurred, index, order=3).clip(0)).float()
    pet = NOISE.sample(clean, (3, 3, 3), torch.Generator().manual_seed(0))
    given = (pet, data, torch.from_numpy(mri).float(), Grid(mri.shape, affine.tolist()), None, PSF, NOISE)
    errors, mask = [], sliced(brain.astype(float)) > 0.5
    for slices in ((0.0, 0.0, 0.0), (0.0, 0.0, 8.0)):
        found = restore_volume(*given, refine=False, slices=slices)
        errors.append(float(np.sqrt(((found.restored.numpy() - sliced(truth))[mask] ** 2).mean())))
        assert any("8.0 mm thick" in note for note in found.notes) == any(slices)
    assert errors[1] < 0.95 * errors[0]
