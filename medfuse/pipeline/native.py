"""A PET as its scanner measured it, restored before anything resamples it: the bundles' way to `medfuse.volumes`."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import ConcatItemsd, MapTransform, Transform
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.inferers.sensitivity import FACTORS, KINDS, changes
from medfuse.io.acquisition import ACQUISITION
from medfuse.io.modalities import MODALITIES, title
from medfuse.physics import Grid, NativeSource, ScannerNoise, native_of, parse_native
from medfuse.physics.operators.scanner import WIDEST_PSF
from medfuse.physics.specification import AUTO
from medfuse.pipeline.facts import sha256
from medfuse.pipeline.slices import slices_of
from medfuse.transforms.spatial import ResampleToReference
from medfuse.transforms.typed import affine_of, with_meta_of
from medfuse.volumes import (
    Estimator,
    Proposals,
    PsfEstimate,
    RestoredVolume,
    TrainedEstimator,
    by_rule,
    load_estimator,
    measure_psf,
    narrowest_psf,
    restore_volume,
)

NATIVE = "native"
"""`<key>_native` of a case: JSON of what is known of a source that was restored on its own grid."""
RESTORED = "restored"
"""`<key>_restored`: that source, restored, on the grid of the reference."""
DRAWS = 2
"""Restorations more that the interval of a region asks for; the probe of the degrees of freedom is another draw."""
FOUND = "found"
"""`<key>_found`: JSON of what is `stated` of a source on its own grid by what was found of it, and the `estimates`."""
SENSITIVITY = "sensitivity"
"""`<key>_sensitivity`: JSON of what changes of it, in its unit, see `medfuse.inferers.sensitivity`."""
_REMEDY = (
    "if you know the PSF, state it with --psf; the page `Which degradation is mine?` of the documentation tells where "
    "it is found"
)
_WHY_NOT = "the registration was not accepted, and a PSF is told by an MRI that is in its place"
_NOT_PLACED = PsfEstimate((), (), (), (), (), 0.0, 0.0, _WHY_NOT)
_NOT_BY_NETWORK = (
    "the network was not trained for such voxels, slices or PSF, or the MRI shows nothing where the uptake is: the "
    "rule made the estimate"
)
_WRONG = 1.3  # times that a PSF which is told wrong may leave what the network was trained for
_LEAST_NOISE = 1e-5  # of the highest value; below, float32 holds neither data nor what is left of them
_UNBOUNDED = (0.0, math.inf)
_STATED = 0.97  # of a width that is found: one that is too wide rings


class PairSourcesd(MapTransform):
    """Put the images that are fused into one, **[2, X, Y, Z]**: of a source on its own grid the restored one."""

    def __init__(self, keys: KeysCollection, *, name: str = "image") -> None:
        """Make the transform.

        Args:
            keys: Keys of both sources.
            name: Key of the pair.
        """
        super().__init__(keys)
        self.name = name

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the pair."""
        keys = [f"{key}_{RESTORED}" if f"{key}_{RESTORED}" in data else key for key in self.keys]
        return dict(ConcatItemsd(keys=keys, name=self.name)(data))


class RestoreNatived(Transform):
    """Restore source 2 on the grid of source 1 from its own grid, where the degradation says `grid: native`.

    Where it states no PSF, and where source 2 is `auto` and shows uptake beside an MRI, the PSF is measured by the MRI,
    see `medfuse.volumes.measure_psf`; if the MRI does not tell it, or does not guide the restoration by it, source 2
    passes as it is, and that is said.

    It comes after the registration, which corrects the affine of source 2 and interpolates nothing, and before the
    resampling for display. Where the data place source 2 better than the registration did, its affine and the record of
    the registration follow. Without `grid: native` or `auto` a case passes as it is.
    """

    def __init__(
        self,
        degradation: Mapping[str, Any] | str | None = None,
        *,
        source_keys: tuple[str, str] = ("mri", "pet"),
        reference: str = "mri",
        uncertainty: str = "off",
        sensitivity: bool = False,
        weights: str | Path | None = None,
    ) -> None:
        """Make the transform.

        Args:
            degradation: The specification.
            source_keys: Keys of the sources **[1, X, Y, Z]**.
            reference: Which of them the grid of the results belongs to.
            uncertainty: `off`, `fast` or `full`, see `medfuse.pipeline.SaveFusiond`.
            sensitivity: Restore four times more, PSF and then noise 20 % less and more, and note what that changes.
            weights: Those of the network that mends the rule's estimate, see `medfuse.volumes.network`; None: the rule
                makes it alone.

        Raises:
            BundleError: There are no such weights, or they are of another network.
            DegradationError: What is said of source 2 makes no sense, or the grid of the results is its own.
        """
        self.estimator = by_rule if weights is None else load_estimator(weights)
        self.weights_sha256 = None if weights is None else sha256(Path(weights))
        self.source_keys, self.sensitivity = source_keys, sensitivity
        self.given, self.uncertainty = native_of(degradation), uncertainty
        row = MODALITIES.get(source_keys[1])
        if self.given is None:
            first = MODALITIES.get(source_keys[0])
            unknown = degradation == AUTO or (isinstance(degradation, Mapping) and degradation.get("source2") == AUTO)
            told = first is not None and first.has_bias_field and row is not None and row.has_uptake  # an MRI, a PET
            if unknown and told and reference == source_keys[0]:
                self.given = {"grid": "native"}
            return
        noise = self.given.get("noise")
        unit = noise.get("unit", "fraction") if isinstance(noise, Mapping) else ""
        parse_native(self.given, scale=1.0 if unit == "fraction" else None)  # what depends on the range comes later
        if row is not None and not row.has_uptake:
            raise DegradationError(
                f"`grid: native` must be of a source that shows uptake, such as a PET or SPECT, got {title(row.key)}; "
                "leave it out."
            )
        if reference != source_keys[0]:
            raise DegradationError(
                f"`grid: native` of source 2 must come with the grid of source 1 as reference, got {reference!r}; "
                "leave out `grid: native`, or the reference."
            )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with `<key>_restored`, `<key>_native` and `<key>_residual` of source 2.

        Where its PSF was measured, also `<key>_found`.

        With an uncertainty `<key>_alone`, `<key>_gate` and `<key>_draws` **[n, X, Y, Z]**, too: what its data alone
        say, which share of it they decided, and by how much it comes out otherwise.

        Raises:
            MedfuseError: As `medfuse.volumes.restore_volume`.
        """
        result = dict(data)
        if self.given is None:
            return result
        one, two = self.source_keys
        mri, pet = result[one], result[two]
        values = _plain(pet)
        said = parse_native(self.given, scale=float(values.max()))
        if said.noise is not None:
            _check_noise(said.noise, values)
        registration = dict(result.get(f"{two}_registration") or {})
        placed = not registration.get("performed", False)  # by the user, or by the scanner
        if said.psf_fwhm_mm is not None:
            return self._restored(result, said, said.psf_fwhm_mm, None, placed, registration)
        if not registration.get("accepted", True):  # nothing that the MRI says there would be used
            found = _NOT_PLACED
        else:
            found = bounded(_measured(values, pet, mri, refine=not placed), _acquired(pet), said.psf_bounds_mm)
        if not found.refused:
            psf = stated_psf(found, grid_of(pet), grid_of(mri), said.psf_bounds_mm)
            try:
                restored = self._restored(dict(result), said, psf, _shares(found, psf), placed, dict(registration))
            except DegradationError as error:  # of the noise: too little tissue, or none
                found = found._replace(refused=str(error))
            else:
                doubt = _not_guided(restored[f"{two}_{NATIVE}"])
                found, result = (found._replace(refused=doubt), result) if doubt else (found, restored)
        native = json.loads(result[f"{two}_{NATIVE}"]) if f"{two}_{NATIVE}" in result else None
        stated: dict[str, Any] | list[Any] = []
        if native is not None:
            noise = {k: v for k, v in native["noise"].items() if k != "origin"}
            stated = {"grid": "native", "psf": {"fwhm_mm": native["psf_fwhm_mm"]}, "noise": noise}
        records = [psf_record(found, native, _acquired(pet), said.psf_bounds_mm)]
        records += [] if said.noise else [_noise_record(native)]
        result[f"{two}_{FOUND}"] = json.dumps({"stated": stated, "estimates": records})
        return result

    def _restored(
        self,
        result: dict[Hashable, Any],
        said: NativeSource,
        psf: Sequence[float],
        known: tuple[float, float] | None,
        placed: bool,
        registration: dict[str, Any],
    ) -> dict[Hashable, Any]:
        one, two = self.source_keys
        mri, pet = result[one], result[two]
        values = _plain(pet)
        guide, name = bool(registration.get("accepted", True)), title(two)
        slices = slices_of(mri, grid_of(mri))

        by_network: list[bool] = []

        def estimated(given: Proposals) -> Tensor:
            by_network.append(isinstance(self.estimator, TrainedEstimator) and self.estimator.has_say(given))
            return self.estimator(given)

        def restored(
            widths: Sequence[float], noise: ScannerNoise | None, estimator: Estimator, draws: int = 0
        ) -> RestoredVolume:
            grids = (grid_of(pet), _plain(mri), grid_of(mri))
            how: dict[str, Any] = {"refine": not placed, "guide": guide, "name": name, "draws": draws}
            how |= {"estimator": estimator, "slices": slices, "known": known}
            return restore_volume(values, *grids, None, widths, noise, **how)

        found = restored(psf, said.noise, estimated, DRAWS if self.uncertainty == "full" else 0)
        trained = self.estimator if any(by_network) and found.guided else None
        if self.weights_sha256 is not None and trained is None and found.guided:
            found = replace(found, notes=(*found.notes, _NOT_BY_NETWORK))
        if self.sensitivity:
            least, top, told = narrowest_psf(grid_of(pet), grid_of(mri)), float(found.restored.max()), []
            same = (
                TrainedEstimator(trained.network, beyond=_WRONG) if isinstance(trained, TrainedEstimator) else by_rule
            )
            for kind, factor in product(KINDS, FACTORS.values()):
                wide, strong = (factor if kind == each else 1.0 for each in KINDS)
                widths = [min(max(wide * width, low), WIDEST_PSF) for width, low in zip(psf, least, strict=True)]
                other = restored(widths, replace(found.noise, sigma=strong * found.noise.sigma), same)
                told.append(changes(found.restored[None], other.restored[None], top)[0].tolist())
            result[f"{two}_{SENSITIVITY}"] = json.dumps(told)
        if found.guided and found.alignment is not None and found.alignment.moved_mm > 0:
            matrix = found.alignment.transform.numpy()
            result[two] = with_meta_of(pet, values[None])
            result[two].affine = torch.as_tensor(matrix @ np.asarray(pet.affine, np.float64))
            registration["matrix"] = (matrix @ np.asarray(registration["matrix"])).tolist()
            registration["refined_mm"] = found.alignment.moved_mm
            result[f"{two}_registration"] = registration
        as_given = ResampleToReference()(result[two], mri).as_tensor()
        result[f"{two}_{RESTORED}"] = with_meta_of(mri, torch.where(found.measured, found.restored, as_given))
        origin = "measured" if said.noise is None else "given"
        stated = {
            "psf_fwhm_mm": list(psf),
            "noise": _noise(found.noise, origin),
            "weights_sha256": self.weights_sha256 if trained else None,
        }
        result[f"{two}_{NATIVE}"] = json.dumps(stated | described(found))
        result[f"{two}_residual"] = found.residual[None].half()
        if self.uncertainty != "off":
            result[f"{two}_alone"] = torch.where(found.measured, found.alone, as_given[0])[None]
            result[f"{two}_gate"], result[f"{two}_draws"] = found.gate[None].half(), found.draws
        return result


def _shares(found: PsfEstimate, psf: Sequence[float]) -> tuple[float, float]:
    """Return between which shares of what is stated the intervals of all axes lie."""
    shares = [[end / width for end, width in zip(ends, psf, strict=True)] for ends in (found.low, found.high)]
    return max(shares[0]), min(shares[1])


def _not_guided(native: str) -> str:
    """Return why a PSF that the MRI told should not be used: the MRI did not guide the restoration by it either."""
    known = json.loads(native)
    return "" if known["guided"] else f"{'; '.join(known['findings'])}; then it does not tell the PSF either"


def _acquired(image: MetaTensor) -> dict[str, Any]:
    """Return what headers or sidecars say of how it was made, see `medfuse.io.acquisition`."""
    return dict(json.loads(str(image.meta.get(ACQUISITION, "{}"))))


def bounded(
    found: PsfEstimate, acquired: Mapping[str, Any], bounds_mm: tuple[float, float] = _UNBOUNDED
) -> PsfEstimate:
    """Return a PSF that is nowhere narrower than the filter of the reconstruction, which is a part of it.

    What the user says of its least and its most width comes before.
    """
    filter_mm = acquired.get("filter_mm", 0.0)
    least, most = bounds_mm
    if not found.fwhm_mm:
        return found
    parts = (
        (min(max(v, filter_mm, least), most) for v in several) for several in (found.fwhm_mm, found.low, found.high)
    )
    value, low, high = (tuple(part) for part in parts)
    return found._replace(fwhm_mm=value, low=low, high=high)


def psf_record(
    found: PsfEstimate,
    native: Mapping[str, Any] | None,
    acquired: Mapping[str, Any] = MappingProxyType({}),
    bounds_mm: tuple[float, float] = _UNBOUNDED,
) -> dict[str, Any]:
    """Return what was found of a PSF as the record of an estimate, see `medfuse.estimation.Estimate`; values are mm.

    Args:
        found: What was found.
        native: What is known of the source that was restored by it; None where it was not.
        acquired: What its headers or sidecars say of how it was made.
        bounds_mm: Between which widths it was said to be.
    """
    known = bool(found.fwhm_mm)
    rests = (
        "how far the MRI must be blurred to explain the data; it explains "
        f"{found.explained:.0%} of what is faster than 14 mm; in the place that was given the widths are "
        f"{_times(found.given)} mm, in the one that fits best, {found.moved_mm:.1f} mm away, {_times(found.refined)} mm"
    )
    if "filter_mm" in acquired:
        rests += f"; it is at least the filter of {acquired['filter_mm']:g} mm that the header names"
    if bounds_mm != _UNBOUNDED:
        rests += f"; it was said to be {bounds_mm[0]:g} to {bounds_mm[1]:g} mm"
    if acquired.get("models_psf"):
        rests += "; the reconstruction models the PSF, so edges may overshoot, which no Gaussian describes"
    return {
        "step": "psf",
        "value": list(found.fwhm_mm) if known else None,
        "interval": [list(found.low), list(found.high)] if known else None,
        "kind": None,
        "stated": None if native is None else {"fwhm_mm": native["psf_fwhm_mm"]},
        "rests_on": rests if known else "",
        "refused": f"{found.refused}; {_REMEDY}" if found.refused else "",
    }


def _noise_record(native: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what was found of the noise of a source on its own grid, in its unit."""
    if native is None:
        refused = "without a PSF, noise that neighbours share cannot be told from the image"
        return {"step": "noise", "value": None, "interval": None, "stated": None, "rests_on": "", "refused": refused}
    stated = {k: v for k, v in native["noise"].items() if k != "origin"}
    return {
        "step": "noise",
        "value": stated["sigma"],
        "interval": None,
        "kind": stated["kind"],
        "stated": stated,
        "rests_on": "what an estimate of the data alone leaves of them, on their own grid",
        "refused": "",
    }


def measured_psf(pet: MetaTensor, mri: MetaTensor, *, refine: bool) -> dict[str, Any]:
    """Return the record of the PSF of a PET **[1, X, Y, Z]** as its MRI tells it, and what would be stated of it."""
    found = bounded(_measured(_plain(pet), pet, mri, refine=refine), _acquired(pet))
    said = None if found.refused else {"psf_fwhm_mm": stated_psf(found, grid_of(pet), grid_of(mri))}
    return psf_record(found, said, _acquired(pet))


def _measured(values: Tensor, pet: MetaTensor, mri: MetaTensor, *, refine: bool) -> PsfEstimate:
    grid = grid_of(mri)
    return measure_psf(values, grid_of(pet), _plain(mri), grid, refine=refine, slices=slices_of(mri, grid))


def stated_psf(found: PsfEstimate, pet: Grid, mri: Grid, bounds_mm: tuple[float, float] = _UNBOUNDED) -> list[float]:
    """Return the PSF that is stated: a little less than what was found, and not below what the grids can hold."""
    least, most = bounds_mm
    low = narrowest_psf(pet, mri)
    return [max(min(max(_STATED * width, least), most), v) for width, v in zip(found.fwhm_mm, low, strict=True)]


def _times(values: Sequence[float]) -> str:
    return " x ".join(f"{v:.1f}" for v in values)


def described(found: RestoredVolume) -> dict[str, Any]:
    """Return what a restored volume is known by, as JSON."""
    at = found.alignment
    place = at and {k: getattr(at, k) for k in ("moved_mm", "std_mm", "psf_share", "psf_std", "psf_doubted")}
    return {
        "guided": found.guided,
        "chi2": found.chi2,
        "degrees_of_freedom": found.df,
        "corrected_chi2": found.corrected_chi2,
        "shares": found.shares,
        "alignment": place,
        **({"slices_mm": list(found.slices_mm)} if any(found.slices_mm) else {}),
        "findings": list(found.findings),
        "notes": list(found.notes),
    }


def _check_noise(noise: ScannerNoise, values: Tensor) -> None:
    """Refuse noise that is too little to be reckoned with in the precision of the voxels, float32.

    Raises:
        DegradationError: Its std at the highest value is less than a hundred-thousandth of it.
    """
    top = values.max()
    std = float(noise.std(top))
    if std < _LEAST_NOISE * float(top):
        raise DegradationError(
            f"the std of noise must be at least {_LEAST_NOISE:g} of the highest value, {float(top):.3g}, got {std:.3g} "
            "there; check its unit, or leave it out to have it measured."
        )


def _noise(noise: ScannerNoise, origin: str) -> dict[str, Any]:
    """Return noise as a specification says it, and whence it is known."""
    said = {"kind": noise.kind, "sigma": noise.sigma, "unit": "input", "fwhm_mm": list(noise.fwhm_mm)}
    said |= {"growth": noise.growth} if noise.kind == "poisson" else {}
    if noise.kind == "table":
        said |= {"signal": [s for s, _ in noise.table], "sigma": [noise.sigma * std for _, std in noise.table]}
    return said | {"origin": origin}


def grid_of(image: MetaTensor) -> Grid:
    """Return the grid of a volume **[1, X, Y, Z]**.

    Raises:
        GeometryError: An affine that is singular or not finite.
    """
    rows = affine_of(image).tolist()
    return Grid(tuple(image.shape[1:]), tuple(tuple(float(v) for v in row) for row in rows))


def _plain(image: MetaTensor) -> Tensor:
    return image.as_tensor()[0].detach().cpu().float()
