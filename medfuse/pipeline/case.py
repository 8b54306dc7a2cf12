"""The end of a case: the last transform of a bundle collects its results and writes them."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from medfuse.errors import BundleError, GeometryError
from medfuse.fusion import ColourFusion, to_uint8
from medfuse.inferers.sensitivity import as_record
from medfuse.io.modalities import DEFAULT_PAIR
from medfuse.origin import defaults_taken
from medfuse.physics import JointDegradation, in_plane
from medfuse.pipeline.certainty import Certainty, certainty_of
from medfuse.pipeline.facts import noise_of_data, sha256, stated
from medfuse.pipeline.measured import mask_of, psf_mm
from medfuse.pipeline.native import FOUND, NATIVE, RESTORED, SENSITIVITY
from medfuse.pipeline.outputs import OUTPUTS, Output, write_outputs
from medfuse.pipeline.outputs.dicom import write_dicom
from medfuse.pipeline.record import make_record, offset_of, scale_of, text_of
from medfuse.pipeline.result import LARGE, CaseResult, SourceAgreement
from medfuse.regions.intervals import UNCERTAINTY
from medfuse.threads import side_by_side
from medfuse.transforms import KNOWN, NOISE, ResampleToReference, case_degradation, inverse_values_

_logger = logging.getLogger(__name__)


class SaveFusiond(MapTransform):
    """Write all outputs of one case; the JSON sidecar comes last, so a case with a sidecar is complete.

    They go to `output_dir/<case>/`; `medfuse.pipeline.OUTPUTS` says which there are.
    """

    def __init__(
        self,
        keys: KeysCollection = ("source1", "source2", "fused", "weight"),
        *,
        output_dir: str | Path,
        weights: str | Path,
        degradation: Mapping[str, Any] | str | None = None,
        steps: int | None = None,
        settings: Mapping[str, Any] | None = None,
        source_keys: tuple[str, str] = DEFAULT_PAIR,
        reference: str = DEFAULT_PAIR[0],
        spatial_dim: int = 2,
        reference_region: str | int | None = None,
        uncertainty: str = "off",
        sr: bool = False,
        palette: str = "OKLAB",
        blend: str | None = None,
        outputs: Sequence[Output] = OUTPUTS,
        dicom_output: bool = True,
        deidentified: bool = False,
        replace: bool = False,
    ) -> None:
        """Make the transform.

        Args:
            keys: Keys of restored source 1, restored source 2 (both in 0..1), fused and weight, each **[1, X, Y, Z]**;
                beside them the data hold `proven_blur`, `converged`, `chi2` and `residual` of both sources, see
                `FusionInferer`.
            output_dir: Where to write.
            weights: The weights that were used, for their hash.
            degradation: The specification that was used.
            steps: Number of steps that were used.
            settings: What else the inferer was told, see `FusionInferer.settings`.
            source_keys: Keys of the sources on the reference grid.
            reference: Which of them the grid belongs to.
            spatial_dim: Axis along which the volume was sliced.
            reference_region: Label or name of the region by whose mean those of the others are divided (SUVR).
            uncertainty: `off`; `fast`, a standard deviation of each voxel, for which the data hold `std1` and `std2`;
                or `full`, an interval of each region, too, for which they hold `draws1` and `draws2`.
            sr: Write the values of regions as a DICOM measurement report, too, where a source was DICOM.
            palette: Colour map of the colour fusion, see `medfuse.fusion.ColourFusion`.
            blend: How a palette other than `OKLAB` lies over the anatomy: `luma` or `alpha`.
            outputs: What to write beside the JSON sidecar.
            dicom_output: Write DICOM, too, where a source was DICOM.
            deidentified: Leave blank what names the patient in DICOM output.
            replace: Replace the results of other sources under the name of a case.
        """
        super().__init__(keys)
        if uncertainty not in UNCERTAINTY:
            raise BundleError(f"uncertainty must be one of {', '.join(UNCERTAINTY)}, got another; change it.")
        self.uncertainty, self.sr = uncertainty, sr and dicom_output
        self.output_dir, self.weights, self.degradation, self.steps = Path(output_dir), weights, degradation, steps
        self.settings = settings
        self.source_keys, self.reference = source_keys, reference
        self.spatial_dim, self.colours = spatial_dim, ColourFusion(palette, blend)
        self.outputs = tuple(row for row in outputs if dicom_output or row.write is not write_dicom)
        self.deidentified, self.replace, self.reference_region = deidentified, replace, reference_region
        self.moving = next(key for key in source_keys if key != reference)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the case and return the data, with the sidecar's content under `record`."""
        result = self.result(data)
        self.write(result, self.output_dir / result.case)
        return {**data, "record": result.record}

    def needed(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return what `result` reads: of a source that was restored on its own grid, not what the network gave."""
        unread = () if self._native(data) is None else (self.keys[1],)
        return {key: value for key, value in data.items() if key not in unread}

    def write(self, result: CaseResult, folder: Path) -> None:
        """Write all outputs of a case into a folder, the sidecar last; those of an earlier run go first."""
        write_outputs(result, folder, self.outputs, replace=self.replace)

    def result(self, data: Mapping[Hashable, Any]) -> CaseResult:
        """Collect what is to be written; each warning is logged, too.

        The volumes of sources and restored sources are brought from 0..1 to their units in place: of a large case,
        there is no room for both.
        """
        native = self._native(data)
        one, two, *others = self.keys
        read = (one, two if native is None else f"{self.source_keys[1]}_{RESTORED}", *others)
        sources = [_volume(data[k]) for k in self.source_keys]
        restored1, restored2, fused, weight = (_volume(data[k]) for k in read)
        scales = [data[f"{k}_scale"] for k in self.source_keys]
        degradation = self._degradation(data)
        agreements = _agreements(data, degradation)
        sure = Certainty()
        if self.uncertainty != "off":
            how: dict[str, Any] = {"across": self.spatial_dim, "full": self.uncertainty == "full"}
            sure = certainty_of(data, degradation, (restored1, restored2), keys=self.source_keys, **how)
        if native is not None:
            residual = torch.as_tensor(data[f"{self.source_keys[1]}_residual"]).as_subclass(Tensor)[0]
            agreements = agreements[0], SourceAgreement(native["corrected_chi2"], None, True, residual)
        sources = [inverse_values_(x, scale) for x, scale in zip(sources, scales, strict=True)]
        restored = [inverse_values_(x, scale) for x, scale in zip((restored1, restored2), scales, strict=True)]
        with torch.no_grad():
            at_once = 1 if restored1.numel() > LARGE else None
            first, second = side_by_side(_window, list(zip(restored, sources, strict=True)), most=at_once)
        windows = first, second
        units = [text_of(scale["unit"]) for scale in scales]
        told = {
            "weights_sha256": self._weights_sha256,
            "steps": self.steps,
            "settings": self.settings,
            "degradation": stated(*self._known(data)),
            "uncertainty": self.uncertainty,
            **defaults_taken(),
        }
        names, reference = self.source_keys, self.reference
        agreed: list[dict[str, Any]] = [
            _agreed(a) | {"noise": noise} for a, noise in zip(agreements, self._noises(data, degradation), strict=True)
        ]
        if native is not None:
            agreed[1][NATIVE] = native
        for known, changed in zip(agreed, self._sensitivity(data, native is not None), strict=True):
            known |= {} if changed is None else {SENSITIVITY: changed}
        regional: dict[str, Any] = {
            "psf": self._psf(data, degradation, agreements[1]),
            "draws": sure.draws,
            "invented": sure.invented,
            "gate": sure.gate,
            "reference_region": self.reference_region,
        }
        record = make_record(data, told, agreed, sources, restored, keys=names, reference=reference, **regional)
        record["display"] = self.colours.record(
            {name: list(window) for name, window in zip(names, windows, strict=True)}
        )
        for text in record["warnings"]:
            _logger.warning("%s: %s", record["case"], text)
        return CaseResult(
            case=record["case"],
            names=self.source_keys,
            affine=np.asarray(data[self.source_keys[0]].affine, dtype=np.float64),
            units=(units[0], units[1]),
            sources=(sources[0], sources[1]),
            restored=(restored[0], restored[1]),
            fused=fused,
            weight=weight,
            windows=windows,
            colours=self.colours,
            rgb=_colours(self.colours, fused, restored, windows),
            record=record,
            files=(_files(data, self.source_keys[0]), _files(data, self.source_keys[1])),
            agreements=agreements,
            mask=mask_of(data, restored[0].shape, keys=self.source_keys),
            sr=self.sr,
            deidentified=self.deidentified,
            before=partial(self._before, data),
            deviations=sure.deviations,
            fused_deviation=sure.fused,
            invented=sure.invented,
            gate=sure.gate,
        )

    @cached_property
    def _weights_sha256(self) -> str:
        return sha256(self.weights)

    def _before(self, data: Mapping[Hashable, Any]) -> Tensor | None:
        image = data.get(f"{self.moving}_before")
        if image is None:
            return None
        try:
            return ResampleToReference()(image, data[self.reference]).as_tensor()[0]
        except GeometryError:  # it lay outside
            return None

    def _degradation(self, data: Mapping[Hashable, Any]) -> JointDegradation:
        """Return what was stated to have happened to the sources, in the pixels and units of the case."""
        spacing = [float(s) for s in data[self.source_keys[0]].pixdim]
        scales = [scale_of(data, key) for key in self.source_keys]
        return case_degradation(
            in_plane(self._known(data)[0]), spacing=spacing, spatial_dim=self.spatial_dim, scales=scales
        )

    def _psf(
        self, data: Mapping[Hashable, Any], degradation: JointDegradation, agreement: SourceAgreement | None
    ) -> tuple[float, ...] | None:
        """Return the FWHM of the blur of source 2 as it was undone, mm along each axis.

        Of one on its own grid, whose axes are its own, where it is the same along all.
        """
        native = self._native(data)
        if native is not None:
            same = len(set(native["psf_fwhm_mm"])) == 1
            return tuple(native["psf_fwhm_mm"]) if same else None
        spacing = [float(s) for s in data[self.source_keys[0]].pixdim]
        narrowed = agreement.narrowed_blur if agreement else None
        return psf_mm(degradation.source2, spacing, spatial_dim=self.spatial_dim, narrowed=narrowed)

    def _known(self, data: Mapping[Hashable, Any]) -> tuple[Mapping[str, Any] | str | None, Mapping[str, Any] | None]:
        """Return the specification, what was estimated of this case in the place of what is unknown; the estimates."""
        noted = data.get(f"{self.source_keys[1]}_{FOUND}")
        if KNOWN not in data and noted is None:
            return self.degradation, None
        given = self.degradation if isinstance(self.degradation, Mapping) else {}
        known = json.loads(text_of(data[KNOWN])) if KNOWN in data else {"degradation": given}
        spec, estimates = dict(known["degradation"]), dict(known.get("estimates") or {"source1": [], "source2": []})
        if isinstance(given.get("source2"), Mapping):
            spec["source2"] = dict(given["source2"])
        if noted is not None:
            found = json.loads(text_of(noted))
            spec["source2"], estimates["source2"] = found["stated"], found["estimates"]
        return spec, estimates

    def _sensitivity(
        self, data: Mapping[Hashable, Any], native: bool
    ) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """Return what changes of each source where what was stated of it is wrong by 20 %, in its unit."""
        if SENSITIVITY not in data:
            return None, None
        values = torch.as_tensor(data[SENSITIVITY]).as_subclass(Tensor).cpu().reshape(2, 2, 2, -1)
        first, second = (as_record(values[:, :, k], scale_of(data, key)) for k, key in enumerate(self.source_keys))
        if not native:
            return first, second
        noted = data.get(f"{self.source_keys[1]}_{SENSITIVITY}")  # None where `RestoreNatived` was not asked
        return first, None if noted is None else as_record(torch.tensor(json.loads(text_of(noted))).reshape(2, 2, -1))

    def _native(self, data: Mapping[Hashable, Any]) -> dict[str, Any] | None:
        """Return what is known of source 2 where it was restored on its own grid."""
        noted = data.get(f"{self.source_keys[1]}_{NATIVE}")
        return None if noted is None else dict(json.loads(text_of(noted)))

    def _noises(self, data: Mapping[Hashable, Any], degradation: JointDegradation) -> Iterator[dict[str, Any] | None]:
        """Give the noise that was stated of each source beside that which its data show."""
        for key, part in zip(self.source_keys, degradation, strict=True):
            profile, scale, offset = data.get(f"{key}_{NOISE}"), scale_of(data, key), offset_of(data, key)
            yield None if profile is None else noise_of_data(torch.as_tensor(profile), part, scale=scale, offset=offset)


def _agreements(
    data: Mapping[Hashable, Any], degradation: JointDegradation
) -> tuple[SourceAgreement | None, SourceAgreement | None]:
    """Return what the inferer's data say of each restoration."""
    chi2, blur, converged = (torch.as_tensor(data[k]).flatten().tolist() for k in ("chi2", "proven_blur", "converged"))
    residual = torch.as_tensor(data["residual"]).as_subclass(Tensor).cpu()
    first, second = (
        SourceAgreement(chi2[i], blur[i] if blur[i] < 1 else None, bool(converged[i]), residual[i])
        if part.steps
        else None
        for i, part in enumerate(degradation)
    )
    return first, second


def _agreed(agreement: SourceAgreement | None) -> dict[str, Any]:
    """Return the agreement of a source for the record."""
    return {
        "residual_chi2": agreement.chi2 if agreement else None,
        "narrowed_blur": agreement.narrowed_blur if agreement else None,
        "solve_converged": agreement.converged if agreement else None,
    }


def _volume(image: Any) -> Tensor:
    """Return **[1, X, Y, Z]** as a plain float32 tensor **[X, Y, Z]**, in the same memory where it is one."""
    return torch.as_tensor(image).as_subclass(Tensor)[0].cpu().float()


def _window(images: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Return a display window: from 0, or the lowest given value where that is negative, to the 99.8th percentile.

    Args:
        images: A source, restored and given, in its unit.
    """
    restored, source = images
    low, high = min(0.0, float(source.min())), float(np.percentile(restored.numpy(), 99.8))
    return low, high if high > low else low + 1.0


def _colours(
    look: ColourFusion, fused: Tensor, restored: Sequence[Tensor], windows: Sequence[tuple[float, float]]
) -> np.ndarray:
    """Return the colour fusion **[X, Y, Z, 3]**, plane by plane."""
    structure, (low, high) = restored[0], windows[0]
    if not look.shows_anatomy:
        structure, (low, high) = fused, (0.0, max(float(np.percentile(fused.numpy(), 99.8)), 1e-6))
    cold, hot = windows[1]
    rgb = np.empty((*fused.shape, 3), np.uint8)

    def paint(k: int) -> None:
        s, u = structure[k], restored[1][k]
        rgb[k] = to_uint8(look((s - low) / (high - low), (u - cold) / (hot - cold)))

    with torch.no_grad():
        for _ in side_by_side(paint, range(len(rgb))):
            pass
    return rgb


def _files(data: Mapping[Hashable, Any], key: str) -> tuple[str, ...]:
    noted = data.get(f"{key}_files")
    return tuple(text_of(noted).split("\0")) if noted else ()
