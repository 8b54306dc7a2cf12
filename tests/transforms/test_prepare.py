from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, ConcatItemsd

import medfuse.diffusion
import medfuse.training
import medfuse.transforms
from medfuse.errors import DegradationError, GeometryError
from medfuse.physics import GaussianBlur, GaussianNoise, JointDegradation, RicianNoise
from medfuse.transforms import PrepareFusion, ResampleToReferenced, ScaleIntensityAffined, case_degradation

ROOT = Path(__file__).resolve().parents[2]
FWHM_PER_SIGMA = 2.354820045
SPACING = (1.0, 2.0, 4.0)


def spec(source1=(), source2=()) -> dict:
    return {"version": 1, "source1": list(source1), "source2": list(source2)}


def sigma(step: GaussianBlur) -> list[float]:
    return step.sigma.flatten().tolist()


# ---------------------------------------------------------------------------------------------------------- degradation
@pytest.mark.parametrize(("axis", "in_plane"), [(0, (2, 4)), (1, (1, 4)), (2, (1, 2))])
def test_a_blur_in_mm_acts_in_the_plane_of_the_slices(axis, in_plane):
    blurs = spec([{"blur": {"fwhm_mm": 6.0}}], [{"blur": {"fwhm_mm": [5.0, 8.0]}}])
    source1, source2 = case_degradation(blurs, spacing=SPACING, spatial_dim=axis)
    assert sigma(source1.steps[0]) == pytest.approx([6 / FWHM_PER_SIGMA / s for s in in_plane])
    widths = zip((5, 8), in_plane, strict=True)
    assert sigma(source2.steps[0]) == pytest.approx([w / FWHM_PER_SIGMA / s for w, s in widths])


def test_a_blur_in_pixels_knows_no_spacing():
    (source1, _) = case_degradation(spec([{"blur": {"sigma_px": 1.5}}]), spacing=SPACING)
    assert sigma(source1.steps[0]) == [1.5]


def test_images_have_two_spacings_or_none():
    blurs = spec([{"blur": {"fwhm_mm": 6.0}}])
    (source1, _) = case_degradation(blurs, spacing=(3.0, 2.0))
    assert sigma(source1.steps[0]) == pytest.approx([2 / FWHM_PER_SIGMA, 3 / FWHM_PER_SIGMA])
    with pytest.raises(DegradationError, match="must come with a pixel spacing"):
        case_degradation(blurs, spacing=None)


def test_noise_in_the_unit_of_the_input_is_divided_by_the_range_of_its_source():
    noises = spec(
        [{"noise": {"sigma": 12.0, "unit": "input"}}],
        [{"noise": {"kind": "rician", "sigma": 0.5, "unit": "input"}}, {"noise": {"sigma": 0.1}}],
    )
    source1, source2 = case_degradation(noises, spacing=None, scales=(300.0, 20.0))
    assert isinstance(source1.steps[0], GaussianNoise)
    assert isinstance(source2.steps[0], RicianNoise)
    found = [float(step.sigma) for step in (*source1.steps, *source2.steps)]
    assert found == pytest.approx([0.04, 0.025, 0.1])
    with pytest.raises(DegradationError, match="`unit: input` must come with the source's range"):
        case_degradation(noises, spacing=None)


def test_no_specification_is_no_degradation():
    assert all(part.steps == () for part in case_degradation(None, spacing=SPACING))


# ---------------------------------------------------------------------------------------------------------------- batch
def volume(high: float, *spacing: float) -> MetaTensor:
    data = torch.rand(1, 8, 7, 6, generator=torch.Generator().manual_seed(0))
    matrix = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    return MetaTensor(high * data / data.max(), affine=matrix)


def load(*cases: dict, batch_size: int = 1) -> DataLoader:
    transforms = Compose(
        [
            ResampleToReferenced("pet"),
            ScaleIntensityAffined(["mri", "pet"]),
            ConcatItemsd(["mri", "pet"], name="image"),
        ]
    )
    return DataLoader(Dataset(list(cases), transforms), batch_size=batch_size)


def test_each_case_gets_the_degradation_in_its_own_pixels_and_unit():
    given = spec([{"blur": {"fwhm_mm": 6.0}}], [{"noise": {"sigma": 0.5, "unit": "input"}}])
    prepare = PrepareFusion(given, spatial_dim=1)
    cases = [
        {"mri": volume(300, *SPACING), "pet": volume(20, *SPACING)},
        {"mri": volume(9, 2, 2, 2), "pet": volume(5, 2, 2, 2)},
    ]
    found = []
    for batch in load(*cases):
        image, target, arguments, options = prepare(batch, torch.device("cpu"), non_blocking=True)
        assert image.shape == (1, 2, 8, 7, 6)
        assert (target, arguments, set(options)) == (None, (), {"degradation"})
        assert isinstance(options["degradation"], JointDegradation)
        found.append(options["degradation"])
    (blur1,), (blur2,) = (d.source1.steps for d in found)
    (noise1,), (noise2,) = (d.source2.steps for d in found)
    assert sigma(blur1) == pytest.approx([6 / FWHM_PER_SIGMA, 1.5 / FWHM_PER_SIGMA])
    assert sigma(blur2) == pytest.approx([3 / FWHM_PER_SIGMA] * 2)
    assert (float(noise1.sigma), float(noise2.sigma)) == pytest.approx((0.5 / 20, 0.5 / 5))


def test_tensors_without_a_grid_take_pixels_only():
    batch = {"image": torch.rand(1, 2, 8, 8), **{f"{key}_scale": {"scale": 3.0} for key in ("mri", "pet")}}
    given = spec(source2=[{"blur": {"sigma_px": 2.0}}, {"noise": {"sigma": 0.3, "unit": "input"}}])
    image, _, _, options = PrepareFusion(given)(batch)
    assert image is batch["image"]
    blur, noise = options["degradation"].source2.steps
    assert sigma(blur) == [2]
    assert float(noise.sigma) == pytest.approx(0.1)
    with pytest.raises(DegradationError, match="must come with a pixel spacing"):
        PrepareFusion(spec([{"blur": {"fwhm_mm": 6.0}}]))(batch)


def test_a_pair_that_no_loader_made_is_understood():
    scales = {f"{key}_scale": {"scale": torch.tensor([3.0])} for key in ("mri", "pet")}
    image = MetaTensor(torch.rand(1, 2, 8, 7, 6), affine=torch.diag(torch.tensor([*SPACING, 1.0])))
    _, _, _, options = PrepareFusion(spec([{"blur": {"fwhm_mm": 6.0}}]))({"image": image, **scales})
    assert sigma(options["degradation"].source1.steps[0]) == pytest.approx([6 / FWHM_PER_SIGMA, 3 / FWHM_PER_SIGMA])


def test_other_keys_may_be_named():
    batch = {"pair": torch.rand(1, 2, 8, 8), "ct_scale": {"scale": 2.0}, "spect_scale": {"scale": 4.0}}
    given = spec(source2=[{"noise": {"sigma": 1.0, "unit": "input"}}])
    _, _, _, options = PrepareFusion(given, key="pair", source_keys=("ct", "spect"))(batch)
    assert float(options["degradation"].source2.steps[0].sigma) == pytest.approx(0.25)


# --------------------------------------------------------------------------------------------------------------- errors
def test_a_batch_of_two_cases_is_refused():
    (batch,) = load(*[{"mri": volume(1, *SPACING), "pet": volume(1, *SPACING)}] * 2, batch_size=2)
    with pytest.raises(GeometryError, match="A batch must be one case, got 2; set the loader's batch_size to 1"):
        PrepareFusion()(batch)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"source1": []}, "`version` of a degradation must be 1"),
        ({"version": 1, "mri": []}, r"must have no other keys than version, .*, got 'mri'; remove it"),
        (spec([{"fog": {}}]), "a step of `source1` must be one of"),
        (spec([], [{"blur": {"fwhm_mm": -1.0}}]), "blur's FWHM|blur's sigma"),
        (spec([], [{"noise": {"unit": "input"}}]), "gaussian noise of `source2` must have `sigma`"),
    ],
)
def test_a_specification_that_makes_no_sense_is_refused_at_once(given, message):
    with pytest.raises(DegradationError, match=message):
        PrepareFusion(given)


@pytest.mark.parametrize(
    ("noise", "level"),
    [
        ({"sigma": 30.0}, 30 / 1869),  # grey levels of an MRI
        ({"kind": "rician", "sigma": 30.0}, 30 / 1869),
        (
            {"kind": "poisson", "counts": 0.5},
            0.5 * 1869,
        ),  # events of one Bq/ml: those at full range are as many times more
    ],
)
def test_noise_in_the_unit_of_the_input_waits_for_the_range_of_the_case(noise, level):
    given = spec([{"noise": {**noise, "unit": "input"}}])
    assert PrepareFusion(given).degradation == given
    (step,) = case_degradation(given, spacing=None, scales=(1869.0, 1.0)).source1.steps
    assert float(getattr(step, "counts", getattr(step, "sigma", None))) == pytest.approx(level)


@pytest.mark.parametrize("kind", ["gaussian", "rician"])
def test_noise_above_the_range_of_the_case_is_refused_with_the_case(kind):
    given = spec([{"noise": {"kind": kind, "sigma": 30.0, "unit": "input"}}])
    with pytest.raises(DegradationError, match=r"at most the full range of its source, 7\.5 in its unit, got 30 with"):
        case_degradation(given, spacing=None, scales=(7.5, 1.0))


@pytest.mark.parametrize("unit", ["input", "fraction"])
@pytest.mark.parametrize("value", [-30.0, float("nan"), float("inf")])
def test_noise_that_is_none_is_refused_at_once_whatever_its_unit(value, unit):
    for noise in ({"sigma": value}, {"kind": "rician", "sigma": value}, {"kind": "poisson", "counts": value}):
        with pytest.raises(DegradationError, match="must be finite and not negative"):
            PrepareFusion(spec([], [{"noise": {**noise, "unit": unit}}]))


@pytest.mark.parametrize("axis", [-1, 3])
def test_an_axis_that_no_volume_has_is_refused_at_once(axis):
    with pytest.raises(GeometryError, match=f"spatial_dim must be 0, 1 or 2, got {axis}; choose an axis"):
        PrepareFusion(spatial_dim=axis)
    with pytest.raises(GeometryError, match="spatial_dim must be 0, 1 or 2"):
        case_degradation(None, spacing=None, spatial_dim=axis)


# -------------------------------------------------------------------------------------------------------------- exports
def names(node) -> set[str]:
    """Return the transforms of this package that a configuration names."""
    if isinstance(node, dict):
        return set().union({node.get("_target_", "")}, *map(names, node.values()))
    return set().union(*map(names, node)) if isinstance(node, list) else set()


@pytest.mark.parametrize(
    ("package", "some"),
    [
        (medfuse.transforms, {"CheckVolumesd", "PrepareFusion"}),
        (medfuse.training, {"DegradeBatch", "FusionLoss", "GradientClip"}),
        (medfuse.diffusion, {"FusionModel", "FusionUNet"}),
    ],
)
def test_what_a_configuration_names_is_exported_by_its_package(package, some):
    prefix = f"{package.__name__}."
    files = sorted(ROOT.glob("bundles/*/configs/*.json"))
    wanted = {n.removeprefix(prefix) for f in files for n in names(json.loads(f.read_text())) if n.startswith(prefix)}
    assert some <= wanted <= set(package.__all__)


def test_every_exported_name_is_there():
    assert all(hasattr(medfuse.transforms, name) for name in medfuse.transforms.__all__)
