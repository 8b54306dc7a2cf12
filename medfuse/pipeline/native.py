"""A PET as its scanner measured it, restored before anything resamples it: the bundles' way to `medfuse.volumes`."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.io.modalities import MODALITIES, title
from medfuse.physics import Grid, ScannerNoise, native_of, parse_native
from medfuse.transforms.spatial import ResampleToReference
from medfuse.transforms.typed import with_meta_of
from medfuse.volumes import RestoredVolume, restore_volume

NATIVE = "native"
"""`<key>_native` of a case: JSON of what is known of a source that was restored on its own grid."""
RESTORED = "restored"
"""`<key>_restored`: that source, restored, on the grid of the reference."""
DRAWS = 2
"""Restorations more that the interval of a region asks for; the probe of the degrees of freedom is another draw."""


def pair_keys(keys: Sequence[str], degradation: Any) -> list[str]:
    """Return the keys of the images that are fused: of a source on its own grid the restored one."""
    first, second = keys
    return [first, second if native_of(degradation) is None else f"{second}_{RESTORED}"]


class RestoreNatived(Transform):
    """Restore source 2 on the grid of source 1 from its own grid, where the degradation says `grid: native`.

    It comes after the registration, which corrects the affine of source 2 and interpolates nothing, and before the
    resampling for display. Where the data place source 2 better than the registration did, its affine and the record of
    the registration follow. Without `grid: native` a case passes as it is.
    """

    def __init__(
        self,
        degradation: Mapping[str, Any] | str | None = None,
        *,
        source_keys: tuple[str, str] = ("mri", "pet"),
        reference: str = "mri",
        uncertainty: str = "off",
    ) -> None:
        """Make the transform.

        Args:
            degradation: The specification.
            source_keys: Keys of the sources **[1, X, Y, Z]**.
            reference: Which of them the grid of the results belongs to.
            uncertainty: `off`, `fast` or `full`, see `medfuse.pipeline.SaveFusiond`.

        Raises:
            DegradationError: What is said of source 2 makes no sense, or the grid of the results is its own.
        """
        self.source_keys = source_keys
        self.given, self.uncertainty = native_of(degradation), uncertainty
        if self.given is None:
            return
        noise = self.given.get("noise")
        unit = noise.get("unit", "fraction") if isinstance(noise, Mapping) else ""
        parse_native(self.given, scale=1.0 if unit == "fraction" else None)  # what depends on the range comes later
        row = MODALITIES.get(source_keys[1])
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
        registration = dict(result.get(f"{two}_registration") or {})
        placed = not registration.get("performed", False)  # by the user, or by the scanner
        found = restore_volume(
            values,
            grid_of(pet),
            _plain(mri),
            grid_of(mri),
            None,
            said.psf_fwhm_mm,
            said.noise,
            refine=not placed,
            guide=bool(registration.get("accepted", True)),
            draws=DRAWS if self.uncertainty == "full" else 0,
        )
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
        told = {"psf_fwhm_mm": list(said.psf_fwhm_mm), "noise": _noise(found.noise, origin)}
        result[f"{two}_{NATIVE}"] = json.dumps(told | described(found))
        result[f"{two}_residual"] = found.residual[None].half()
        if self.uncertainty != "off":
            result[f"{two}_alone"] = torch.where(found.measured, found.alone, as_given[0])[None]
            result[f"{two}_gate"], result[f"{two}_draws"] = found.gate[None].half(), found.draws
        return result


def described(found: RestoredVolume) -> dict[str, Any]:
    """Return what a restored volume is known by, as JSON."""
    at = found.alignment
    place = at and {k: getattr(at, k) for k in ("moved_mm", "std_mm", "psf_share", "psf_std")}
    return {
        "guided": found.guided,
        "chi2": found.chi2,
        "degrees_of_freedom": found.df,
        "corrected_chi2": found.corrected_chi2,
        "shares": found.shares,
        "alignment": place,
        "findings": list(found.findings),
        "notes": list(found.notes),
    }


def _noise(noise: ScannerNoise, origin: str) -> dict[str, Any]:
    """Return noise as a specification says it, and whence it is known."""
    said = {"kind": noise.kind, "sigma": noise.sigma, "unit": "input", "fwhm_mm": list(noise.fwhm_mm)}
    return said | {"origin": origin}


def grid_of(image: MetaTensor) -> Grid:
    """Return the grid of a volume **[1, X, Y, Z]**.

    Raises:
        GeometryError: An affine that is singular or not finite.
    """
    rows = np.asarray(image.affine.detach().cpu(), np.float64).tolist()
    return Grid(tuple(image.shape[1:]), tuple(tuple(float(v) for v in row) for row in rows))


def _plain(image: MetaTensor) -> Tensor:
    return image.as_tensor()[0].detach().cpu().float()
