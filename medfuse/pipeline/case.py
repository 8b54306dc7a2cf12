"""One case, from its files to its files: the first and the last transform of a bundle."""

from __future__ import annotations

import glob
import json
import logging
import shutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor

from medfuse.about import NOTICE
from medfuse.errors import BundleError, GeometryError
from medfuse.fusion import fuse_color, to_uint8
from medfuse.io import (
    check_nifti_header,
    is_nifti,
    open_series,
    require_one_person,
    require_volume,
    write_json,
    write_nifti,
    write_rgb_nifti,
)
from medfuse.io.nifti import NONFINITE_FRACTION
from medfuse.io.placement import sheared
from medfuse.io.places import DICOM_FOLDER
from medfuse.physics import Degradation
from medfuse.pipeline.dicom import DICOM_SERIES, write_dicom
from medfuse.pipeline.facts import (
    DIMENSIONLESS,
    agreements,
    fidelity,
    noise_of_data,
    series_sha256,
    sha256,
    stated,
    versions,
)
from medfuse.pipeline.report import write_mosaic, write_preview, write_report
from medfuse.registration import RigidRegistration
from medfuse.report import region_values, warnings
from medfuse.transforms import (
    BIAS_FIELD,
    NOISE,
    ResampleToReference,
    case_degradation,
    inverse_values_,
)

_logger = logging.getLogger(__name__)


class DescribeSourcesd(MapTransform):
    """Check the header of each source, note its hash, `<key>_sha256`, and choose its series where it is DICOM.

    Of a NIfTI, `<key>_placement` notes what its header says of the place, see `medfuse.io.placement`, as JSON.
    A DICOM source is then the tuple of the files of one series: that with the UID `<key>_series` of the case, else the
    only one of the key's modality. Its hash is that of the sorted hashes of its files, and `<key>_files` notes them, as
    one text that MONAI's batches leave as it is, for the headers of DICOM output. DICOM sources must be of one patient,
    whatever is written; `one_study` notes whether they are of one study.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        modality: str | Sequence[str | None] | None = None,
        strict: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        """Make the transform.

        Args:
            keys: Keys of the sources' paths.
            modality: DICOM modality of each: CT, MR, PT, or None for any; one for all keys or one for each.
            strict: Refuse a NIfTI whose sform and qform disagree.
            allow_missing_keys: Pass keys that a case has not.
        """
        super().__init__(keys, allow_missing_keys)
        self.strict = strict
        self.modalities = ensure_tuple_rep(modality, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the notes.

        Raises:
            BundleError: If a NIfTI is not there, or a case names a unit for DICOM, whose headers say it.
            ImageError: If a NIfTI cannot be used by its header, or is too large, or a source has a format that is not
                read.
            GeometryError: If the geometry of a NIfTI makes no sense, or, if strict, is not one.
            DicomError: If a DICOM source is not one usable series, or two are of two patients.
        """
        result, found = dict(data), {}
        for key, modality in self.key_iterator(result, self.modalities):
            case, path = result.get("case"), Path(str(result[key]))
            if is_nifti(path):
                if not path.is_file():
                    raise BundleError(f"{key} of case {case} must be a file, got none there; check its path.")
                result[f"{key}_placement"] = json.dumps(check_nifti_header(path, strict=self.strict).placement)
                result[f"{key}_sha256"] = sha256(path)
                continue
            require_volume(path)
            if f"{key}_unit" in result:
                raise BundleError(f"{key}_unit of case {case} must be left to the DICOM headers, got one; remove it.")
            found[str(key)] = series = open_series(path, modality=modality, uid=result.get(f"{key}_series"))
            result[f"{key}_sha256"] = series_sha256(series.files)
            result[key] = tuple(str(file) for file in series.files)
            result[f"{key}_files"] = "\0".join(result[key])
        require_one_person(found)
        if len(found) > 1:
            result["one_study"] = len({series.study for series in found.values()}) == 1
        return result


@dataclass(frozen=True, eq=False)
class CaseResult:
    """A fused case, ready to be written: volumes **[X, Y, Z]** on the reference grid, and their record.

    Attributes:
        case: Its name.
        names: Names of the sources, such as `mri` and `pet`.
        affine: **[4, 4]**, voxel index to RAS mm.
        units: Units of the sources.
        sources: Both as given, each in its unit.
        restored: Both restored, each in its unit.
        fused: Normalised, dimensionless.
        weight: Weight of source 1 in the fusion, 0..1.
        window: Ends of the display window of source 2, in its unit.
        palette: Palette of source 2.
        rgb: Colour fusion **[X, Y, Z, 3]**, uint8, for the eye.
        record: What the JSON sidecar holds.
        files: DICOM files of each source; none for a NIfTI.
        residuals: What each restoration leaves of its data, in standard deviations of the noise, float16: to look at;
            None where nothing happened to it.
        before: Gives the registered source as it lay before, interpolated once, in its unit; None without a
            registration, or where it lay outside the grid.
    """

    case: str
    names: tuple[str, str]
    affine: np.ndarray
    units: tuple[str, str]
    sources: tuple[Tensor, Tensor]
    restored: tuple[Tensor, Tensor]
    fused: Tensor
    weight: Tensor
    window: tuple[float, float]
    palette: str
    rgb: np.ndarray
    record: dict[str, Any]
    files: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    residuals: tuple[Tensor | None, Tensor | None] = (None, None)
    before: Callable[[], Tensor | None] = lambda: None


Output = Callable[[CaseResult, Path], None]
"""Writes one kind of output of a case into its folder."""


def write_volumes(result: CaseResult, folder: Path) -> None:
    """Write fused, restored sources, weight and colour fusion as NIfTI."""
    case, affine, (low, high) = result.case, result.affine, result.window
    limits: dict[str, Any]
    write_nifti(folder / f"{case}_fused.nii.gz", result.fused, affine, unit_description=DIMENSIONLESS)
    for k, (name, unit, volume) in enumerate(zip(result.names, result.units, result.restored, strict=True)):
        limits = {} if k == 0 else {"cal_min": low, "cal_max": high}
        said = f"{unit}, bias field removed" if result.record["sources"][name].get(BIAS_FIELD) else unit
        write_nifti(folder / f"{case}_{name}_restored.nii.gz", volume, affine, unit_description=said, **limits)
    share = f"weight of {result.names[0]}, 0 to 1"
    write_nifti(folder / f"{case}_weight.nii.gz", result.weight, affine, unit_description=share)
    write_rgb_nifti(folder / f"{case}_fused_rgb.nii.gz", result.rgb, affine)


def write_transform(result: CaseResult, folder: Path) -> None:
    """Write the rigid transform, where the images were registered: of points, and as image tools resample by."""
    registration = result.record["registration"]
    if registration and registration["performed"] and registration["accepted"]:
        reference = result.record["reference"]["source"]
        moving = next(name for name in result.names if name != reference)
        rigid = RigidRegistration.from_dict(registration)
        rigid.save_transform(folder / f"{result.case}_{moving}_to_{reference}.tfm")
        rigid.save_affine(folder / f"{result.case}_from-{moving}_to-{reference}_mode-image_xfm.txt")


OUTPUTS: tuple[Output, ...] = (write_volumes, write_transform, write_mosaic, write_preview, write_report)
_ENDINGS = (
    *("fused.nii.gz", "*_restored.nii.gz", "weight.nii.gz", "fused_rgb.nii.gz"),
    *("*_to_*.tfm", "from-*_to-*_mode-image_xfm.txt"),
    *("mosaic.png", "preview.jpg", "report.html"),
)  # of the files that they write, after the name of the case


class SaveFusiond(MapTransform):
    """Write all outputs of one case; the JSON sidecar comes last, so a case with a sidecar is complete.

    Under `output_dir/<case>/`: `<case>_fused.nii.gz` (dimensionless), `_pet_restored` and `_mri_restored` (the input's
    unit), `_weight` (of the MRI, 0..1), `_fused_rgb` (for the eye), `_mosaic.png`, `_preview.jpg`, `_report.html`,
    `_pet_to_mri.tfm` and `_from-pet_to-mri_mode-image_xfm.txt` when registered, `dicom/` where a source was DICOM, and
    `<case>.json`.
    """

    def __init__(
        self,
        keys: KeysCollection = ("source1", "source2", "fused", "weight"),
        *,
        output_dir: str | Path,
        weights: str | Path,
        degradation: Mapping[str, Any] | None = None,
        steps: int | None = None,
        settings: Mapping[str, Any] | None = None,
        source_keys: tuple[str, str] = ("mri", "pet"),
        reference: str = "mri",
        spatial_dim: int = 2,
        palette: str = "HOT_IRON",
        outputs: Sequence[Output] = OUTPUTS,
        dicom_output: bool = True,
        deidentified: bool = False,
    ) -> None:
        """Make the transform.

        Args:
            keys: Keys of restored source 1, restored source 2 (both in 0..1), fused and weight, each **[1, X, Y, Z]**;
                beside them the data hold `proven_blur` and `converged` of both sources, see `FusionInferer`.
            output_dir: Where to write.
            weights: The weights that were used, for their hash.
            degradation: The specification that was used.
            steps: Number of steps that were used.
            settings: What else the inferer was told, see `FusionInferer.settings`.
            source_keys: Keys of the sources on the reference grid.
            reference: Which of them the grid belongs to.
            spatial_dim: Axis along which the volume was sliced.
            palette: Palette of the colour fusion.
            outputs: What to write beside the JSON sidecar.
            dicom_output: Write DICOM, too, where a source was DICOM.
            deidentified: Leave blank what names the patient in DICOM output.
        """
        super().__init__(keys)
        self.output_dir, self.weights, self.degradation, self.steps = Path(output_dir), weights, degradation, steps
        self.settings = settings
        self.source_keys, self.reference = source_keys, reference
        self.spatial_dim, self.palette, self.outputs = spatial_dim, palette, tuple(outputs)
        if dicom_output:
            self.outputs = (partial(write_dicom, deidentified=deidentified), *self.outputs)
        self.moving = next(key for key in source_keys if key != reference)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the case and return the data, with the sidecar's content under `record`."""
        result = self.result(data)
        self.write(result, self.output_dir / result.case)
        return {**data, "record": result.record}

    def write(self, result: CaseResult, folder: Path) -> None:
        """Write all outputs of a case into a folder, the sidecar last; those of an earlier run go first."""
        sidecar = folder / f"{result.case}.json"
        _clear(folder, result.case)
        for write in self.outputs:
            write(result, folder)
        write_json(sidecar, result.record)

    def result(self, data: Mapping[Hashable, Any]) -> CaseResult:
        """Collect what is to be written; each warning is logged, too.

        The volumes of sources and restored sources are brought from 0..1 to their units in place: of a large case,
        there is no room for both.
        """
        scaled = [_volume(data[k]) for k in self.source_keys]
        restored1, restored2, fused, weight = (_volume(data[k]) for k in self.keys)
        scales = [data[f"{k}_scale"] for k in self.source_keys]
        agreement, residuals = self._agreement(data, scaled, (restored1, restored2))
        sources = [inverse_values_(x, scale) for x, scale in zip(scaled, scales, strict=True)]
        restored = [inverse_values_(x, scale) for x, scale in zip((restored1, restored2), scales, strict=True)]
        window = (min(0.0, float(sources[1].min())), float(np.percentile(restored[1].numpy(), 99.8)))
        bright = float(np.percentile(fused.numpy(), 99.8))
        units = [_text(scale["unit"]) for scale in scales]
        record = self._record(data, agreement, sources, restored)
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
            window=window,
            palette=self.palette,
            rgb=_colours(fused, bright, restored[1], window, self.palette),
            record=record,
            files=(_files(data, self.source_keys[0]), _files(data, self.source_keys[1])),
            residuals=residuals,
            before=partial(self._before, data),
        )

    def _before(self, data: Mapping[Hashable, Any]) -> Tensor | None:
        image = data.get(f"{self.moving}_before")
        if image is None:
            return None
        try:
            return ResampleToReference()(image, data[self.reference])[0].as_tensor()
        except GeometryError:  # it lay outside
            return None

    def _agreement(
        self, data: Mapping[Hashable, Any], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> tuple[list[dict[str, Any]], tuple[Tensor | None, Tensor | None]]:
        """Return what the data say of each restoration, and its residual; all images are **[X, Y, Z]**, 0..1."""
        spacing = [float(s) for s in data[self.source_keys[0]].pixdim]
        scales = [float(torch.as_tensor(data[f"{k}_scale"]["scale"]).flatten()[0]) for k in self.source_keys]
        degradation = case_degradation(self.degradation, spacing=spacing, spatial_dim=self.spatial_dim, scales=scales)
        y, x = ([v.movedim(self.spatial_dim, 0) for v in images] for images in (inputs, outputs))
        findings = {
            "blur": torch.as_tensor(data["proven_blur"]).flatten().cpu(),
            "converged": torch.as_tensor(data["converged"]).flatten().cpu(),
        }
        found = agreements(y, x, degradation, findings, dtype=torch.float16)
        first, second = (a.residual.movedim(0, self.spatial_dim) if a else None for a in found)
        figures = [
            {
                "residual_chi2": a.chi2 if a else None,
                "narrowed_blur": a.narrowed_blur if a else None,
                "solve_converged": a.converged if a else None,
                "noise": self._noise(data, key, part, scale),
            }
            for a, key, part, scale in zip(found, self.source_keys, degradation, scales, strict=True)
        ]
        return figures, (first, second)

    def _noise(self, data: Mapping[Hashable, Any], key: str, part: Degradation, scale: float) -> dict[str, Any] | None:
        profile = data.get(f"{key}_{NOISE}")
        offset = float(torch.as_tensor(data[f"{key}_scale"]["offset"]).flatten()[0])
        return None if profile is None else noise_of_data(torch.as_tensor(profile), part, scale=scale, offset=offset)

    def _record(
        self,
        data: Mapping[Hashable, Any],
        agreement: Sequence[dict[str, Any]],
        sources: Sequence[Tensor],
        restored: Sequence[Tensor],
    ) -> dict[str, Any]:
        reference, pet = data[self.source_keys[0]], self.source_keys[1]
        spacing = [float(s) for s in reference.pixdim]
        scales = [float(torch.as_tensor(data[f"{k}_scale"]["scale"]).flatten()[0]) for k in self.source_keys]
        named = {
            name: _source_record(data, name, scales[k], agreement[k], restored[k])
            for k, name in enumerate(self.source_keys)
        }
        mask = None if data.get("mask") is None else torch.as_tensor(data["mask"]).reshape(restored[1].shape)
        named[pet]["regions"] = region_values(sources[1], restored[1], affine=reference.affine, labels=mask)
        record = {
            "case": str(data["case"]),
            "notice": NOTICE,
            "versions": versions(),
            "weights_sha256": sha256(self.weights),
            "steps": self.steps,
            "settings": self.settings,
            "degradation": stated(self.degradation),
            "reference": {
                "source": self.reference,
                "shape": list(restored[0].shape),
                "spacing_mm": spacing,
                "sheared": sheared(np.asarray(reference.affine)),
                "outside_fraction": _number(data[self.moving].meta.get("outside_fraction")),
            },
            "fused_unit": DIMENSIONLESS,
            "sources": named,
            "mask_sha256": _text(data["mask_sha256"]) if "mask_sha256" in data else None,
            "mask_placement": _placement(data, "mask"),
            "registration": _registration(data.get(f"{self.moving}_registration")),
            "one_study": bool(data["one_study"]) if "one_study" in data else None,
        }
        return record | {"warnings": warnings(record)}


def require_same_sources(folder: Path, item: Mapping[str, Any]) -> None:
    """Raise where a folder holds the results of other images: under a name that nobody chose, they are of anybody.

    Args:
        folder: Of the results of the case.
        item: The case, with the paths of its sources.

    Raises:
        MedfuseError: It does, or the sources cannot be read.
    """
    sidecar = folder / f"{item['case']}.json"
    if not sidecar.exists():
        return
    described: Callable[[Any], dict[Hashable, Any]] = DescribeSourcesd(keys=("mri", "pet"), modality=("MR", "PT"))
    now = described(item)
    try:
        before = {key: source["sha256"] for key, source in json.loads(sidecar.read_text("utf-8"))["sources"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        before = {}  # nobody can say of what
    if before != {key: now[f"{key}_sha256"] for key in ("mri", "pet")}:
        raise BundleError(
            f"OUT must hold no results of other images under the name {item['case']}, got some; name this case with "
            "--case, or choose another OUT."
        )


def _volume(image: Any) -> Tensor:
    """Return **[1, X, Y, Z]** as a plain float32 tensor **[X, Y, Z]**, in the same memory where it is one."""
    return torch.as_tensor(image).as_subclass(Tensor)[0].cpu().float()


def _colours(fused: Tensor, bright: float, pet: Tensor, window: tuple[float, float], palette: str) -> np.ndarray:
    """Return the colour fusion **[X, Y, Z, 3]**, plane by plane."""
    low, high = window
    rgb = np.empty((*fused.shape, 3), np.uint8)
    for plane, structure, uptake in zip(rgb, fused, pet, strict=True):
        hot = ((uptake - low) / max(high - low, 1e-12)).clamp(0, 1)
        plane[...] = to_uint8(fuse_color((structure / max(bright, 1e-6)).clamp(0, 1), hot, palette=palette))
    return rgb


def _clear(folder: Path, case: str) -> None:
    """Remove what an earlier run wrote of a case, its sidecar first: it may be of other data, even another patient."""
    (folder / f"{case}.json").unlink(missing_ok=True)
    for ending in _ENDINGS:
        for path in folder.glob(f"{glob.escape(case)}_{ending}"):
            path.unlink()
    for series in DICOM_SERIES:
        shutil.rmtree(folder / DICOM_FOLDER / series, ignore_errors=True)
    with suppress(OSError):  # it is not there, or holds what is not ours
        (folder / DICOM_FOLDER).rmdir()


def _source_record(
    data: Mapping[Hashable, Any], name: str, scale: float, agreement: Mapping[str, Any], restored: Tensor
) -> dict[str, Any]:
    record = {
        "sha256": data.get(f"{name}_sha256", ""),
        "unit": _text(data[f"{name}_scale"]["unit"]),
        "scale": scale,
        "offset": float(torch.as_tensor(data[f"{name}_scale"]["offset"]).flatten()[0]),
        **agreement,
    }
    if (placement := _placement(data, name)) is not None:
        record["placement"] = placement
    if NONFINITE_FRACTION in data[name].meta:
        record[NONFINITE_FRACTION] = _number(data[name].meta[NONFINITE_FRACTION])
    if "suv" in data[name].meta:
        record["suv"] = data[name].meta["suv"]
    if f"{name}_{BIAS_FIELD}" in data:
        record[BIAS_FIELD] = dict(data[f"{name}_{BIAS_FIELD}"])
    truth = data.get(f"truth_{name}")
    if truth is not None:
        record["against_truth"] = fidelity(restored[None], torch.as_tensor(truth).reshape(1, *restored.shape), scale)
    return record


def _placement(data: Mapping[Hashable, Any], key: str) -> dict[str, Any] | None:
    """Return what the header of a NIfTI says of its place; None for DICOM, and where it was not noted."""
    noted = data.get(f"{key}_placement")
    return None if noted is None else json.loads(_text(noted))


def _registration(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the record of the registration; MONAI's batches turn an empty list into None."""
    if record is None:
        return None
    return {key: [] if value is None and key in ("reasons", "warnings") else value for key, value in record.items()}


def _number(value: Any) -> float | None:
    return None if value is None else float(torch.as_tensor(value).flatten()[0])


def _files(data: Mapping[Hashable, Any], key: str) -> tuple[str, ...]:
    noted = data.get(f"{key}_files")
    return tuple(_text(noted).split("\0")) if noted else ()


def _text(value: str | Sequence[str]) -> str:
    """Return a text that MONAI's batches may have put into a list."""
    return value if isinstance(value, str) else str(value[0])
