"""From files to files: what a case's outputs are, and the same bundles called from Python.

The bundles' configs do the wiring; this module holds the last transform of a bundle, `SaveFusiond`, and the functions
with which the command line and Python call a bundle in this process.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.config import KeysCollection
from monai.metrics import PSNRMetric, SSIMMetric
from monai.transforms import MapTransform
from monai.utils import ensure_tuple_rep
from torch import Tensor
from tqdm import tqdm

from medfuse.bundles import bundle_dir, load_spec
from medfuse.errors import BundleError, GeometryError, MedfuseError
from medfuse.inferers import VolumeFusionInferer
from medfuse.io import (
    Image2D,
    check_pair,
    is_nifti,
    match_folders,
    open_series,
    read_image,
    write_image,
    write_json,
    write_nifti,
    write_rgb_nifti,
)
from medfuse.physics import Degradation, Downsample, JointDegradation, bind, parse_degradation, replicate, unreplicate
from medfuse.registration import RigidRegistration
from medfuse.report import save_contact_sheet, save_mosaic
from medfuse.transforms import case_degradation, fuse_color, to_uint8

NOTICE = "Research use only. Not a medical device. Not for diagnosis."
DIMENSIONLESS = "normalised, dimensionless"
_PACKAGES = ("medfuse", "monai", "torch", "SimpleITK", "nibabel", "pydicom", "numpy")
_SHEET_ROWS = 6


# -------------------------------------------------------------------------------------------------- figures of a case
def residual_chi2(
    inputs: Tensor, restored: Tensor, degradation: JointDegradation, *, batch: int = 16
) -> list[float | None]:
    """Return the chi-square per datum of the residual of each source: about 1 when the restoration explains the data.

    None for a source to which nothing happened: it comes back as it was, and there is nothing to explain.

    Args:
        inputs: Degraded sources as slices **[N, 2, H, W]**, 0..1.
        restored: Restored sources **[N, 2, H, W]**.
        degradation: What happened to them.
        batch: Slices per step.
    """
    figures: list[float | None] = []
    for i, part in enumerate(degradation):
        if not part.steps:
            figures.append(None)
            continue
        total = 0.0
        for k in range(0, len(inputs), batch):
            y = unreplicate(inputs[k : k + batch, i : i + 1], part.operator)
            model = bind(part, y, inputs.shape[2:])
            total += float(model.chi2(restored[k : k + batch, i : i + 1]).sum())
        figures.append(total / len(inputs))
    return figures


def fidelity(restored: Tensor, truth: Tensor, data_range: float) -> dict[str, float]:
    """Return PSNR (dB, at most 100: identical images) and SSIM of a restored source **[1, *spatial]**."""
    pair = (restored[None].float(), truth[None].float())
    ssim = SSIMMetric(spatial_dims=restored.ndim - 1, data_range=data_range)(*pair)
    return {"psnr": min(float(PSNRMetric(data_range)(*pair)), 100.0), "ssim": float(ssim)}


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------------- input and output of a case
class DescribeSourcesd(MapTransform):
    """Note the hash of each source, `<key>_sha256`, and choose its series where it is DICOM.

    A DICOM source is then the tuple of the files of one series: that with the UID `<key>_series` of the case, else the
    only one of the key's modality. Its hash is that of the sorted hashes of its files.
    """

    def __init__(
        self,
        keys: KeysCollection,
        *,
        modality: str | Sequence[str | None] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        """Make the transform.

        Args:
            keys: Keys of the sources' paths.
            modality: DICOM modality of each: CT, MR, PT, or None for any; one for all keys or one for each.
            allow_missing_keys: Pass keys that a case has not.
        """
        super().__init__(keys, allow_missing_keys)
        self.modalities = ensure_tuple_rep(modality, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with the notes.

        Raises:
            BundleError: If a NIfTI is not there, or a case names a unit for DICOM, whose headers say it.
            DicomError: If a DICOM source is not one usable series.
        """
        result = dict(data)
        for key, modality in self.key_iterator(result, self.modalities):
            case, path = result.get("case"), Path(str(result[key]))
            if is_nifti(path):
                if not path.is_file():
                    raise BundleError(f"{key} of case {case} must be a file, got none there; check its path.")
                result[f"{key}_sha256"] = sha256(path)
                continue
            if f"{key}_unit" in result:
                raise BundleError(f"{key}_unit of case {case} must be left to the DICOM headers, got one; remove it.")
            series = open_series(path, modality=modality, uid=result.get(f"{key}_series"))
            hashes = "".join(sorted(sha256(file) for file in series.files))
            result[f"{key}_sha256"] = hashlib.sha256(hashes.encode()).hexdigest()
            result[key] = tuple(str(file) for file in series.files)
        return result


class SaveFusiond(MapTransform):
    """Write all outputs of one case; the JSON sidecar comes last, so a case with a sidecar is complete.

    Under `output_dir/<case>/`: `<case>_fused.nii.gz` (dimensionless), `_pet_restored` and `_mri_restored` (the input's
    unit), `_weight` (of the MRI, 0..1), `_fused_rgb` (for the eye), `_mosaic.png`, `_pet_to_mri.tfm` when registered,
    and `<case>.json`.
    """

    def __init__(
        self,
        keys: KeysCollection = ("source1", "source2", "fused", "weight"),
        *,
        output_dir: str | Path,
        weights: str | Path,
        degradation: Mapping[str, Any] | None = None,
        steps: int | None = None,
        source_keys: tuple[str, str] = ("mri", "pet"),
        reference: str = "mri",
        spatial_dim: int = 2,
        palette: str = "HOT_IRON",
    ) -> None:
        """Make the transform.

        Args:
            keys: Keys of restored source 1, restored source 2 (both in 0..1), fused and weight, each **[1, X, Y, Z]**.
            output_dir: Where to write.
            weights: The weights that were used, for their hash.
            degradation: The specification that was used.
            steps: Number of steps that were used.
            source_keys: Keys of the sources on the reference grid.
            reference: Which of them the grid belongs to.
            spatial_dim: Axis along which the volume was sliced.
            palette: Palette of the colour fusion.
        """
        super().__init__(keys)
        self.output_dir, self.weights, self.degradation, self.steps = Path(output_dir), weights, degradation, steps
        self.source_keys, self.reference = source_keys, reference
        self.spatial_dim, self.palette = spatial_dim, palette
        self.moving = next(key for key in source_keys if key != reference)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the case and return the data, with the sidecar's content under `record`."""
        case = str(data["case"])
        folder = self.output_dir / case
        source1, source2 = (data[k] for k in self.source_keys)
        affine = np.asarray(source1.affine, dtype=np.float64)
        maps = [_Affine.of(data[f"{k}_scale"]) for k in self.source_keys]
        restored1, restored2, fused, weight = (torch.as_tensor(data[k])[0].float() for k in self.keys)
        sources = [m.back(torch.as_tensor(s)[0].float()) for m, s in zip(maps, (source1, source2), strict=True)]
        restored = [m.back(r) for m, r in zip(maps, (restored1, restored2), strict=True)]
        units = [m.unit for m in maps]

        window = (min(0.0, float(sources[1].min())), float(np.percentile(restored[1].numpy(), 99.8)))
        uptake = ((restored[1] - window[0]) / max(window[1] - window[0], 1e-12)).clamp(0, 1)
        bright = float(np.percentile(fused.numpy(), 99.8))
        rgb = to_uint8(fuse_color((fused / max(bright, 1e-6)).clamp(0, 1), uptake, palette=self.palette))

        name1, name2 = self.source_keys
        write_nifti(folder / f"{case}_fused.nii.gz", fused, affine, unit_description=DIMENSIONLESS)
        write_nifti(folder / f"{case}_{name1}_restored.nii.gz", restored[0], affine, unit_description=units[0])
        write_nifti(
            folder / f"{case}_{name2}_restored.nii.gz",
            restored[1],
            affine,
            unit_description=units[1],
            cal_min=window[0],
            cal_max=window[1],
        )
        write_nifti(folder / f"{case}_weight.nii.gz", weight, affine, unit_description=f"weight of {name1}, 0 to 1")
        write_rgb_nifti(folder / f"{case}_fused_rgb.nii.gz", rgb, affine)
        record = self._record(data, maps, restored1, restored2)
        registration = record["registration"]
        if registration and registration["performed"] and registration["accepted"]:
            result = RigidRegistration.from_dict(registration)
            result.save_transform(folder / f"{case}_{self.moving}_to_{self.reference}.tfm")
        save_mosaic(
            folder / f"{case}_mosaic.png",
            sources=(sources[0], sources[1]),
            restored=(restored[0], restored[1]),
            fused=fused,
            rgb=rgb,
            weight=weight,
            affine=affine,
            units=(units[0], units[1]),
            title=case,
            notes=_notes(record),
            pet_window=window,
            palette=self.palette,
        )
        write_json(folder / f"{case}.json", record)
        return {**data, "record": record}

    def _record(
        self,
        data: Mapping[Hashable, Any],
        maps: Sequence[_Affine],
        restored1: Tensor,
        restored2: Tensor,
    ) -> dict[str, Any]:
        source1, source2 = (data[k] for k in self.source_keys)
        spacing = [float(s) for s in source1.pixdim]
        degradation = case_degradation(
            self.degradation, spacing=spacing, spatial_dim=self.spatial_dim, scales=[m.scale for m in maps]
        )

        def slices(a: Any, b: Any) -> Tensor:
            pair = torch.stack(
                [torch.as_tensor(a).reshape(source1.shape[1:]), torch.as_tensor(b).reshape(source1.shape[1:])]
            )
            return pair.float().movedim(self.spatial_dim + 1, 0)

        chi2 = residual_chi2(slices(source1, source2), slices(restored1, restored2), degradation)
        names = self.source_keys
        record: dict[str, Any] = {
            "case": str(data["case"]),
            "notice": NOTICE,
            "versions": {name: version(name) for name in _PACKAGES},
            "weights_sha256": sha256(self.weights),
            "steps": self.steps,
            "degradation": {"origin": "given", **(dict(self.degradation) if self.degradation else {"version": 1})},
            "reference": {"source": self.reference, "shape": list(source1.shape[1:]), "spacing_mm": spacing},
            "fused_unit": DIMENSIONLESS,
            "sources": {
                name: {
                    "sha256": data.get(f"{name}_sha256", ""),
                    "unit": m.unit,
                    "scale": m.scale,
                    "offset": m.offset,
                    "residual_chi2": c,
                }
                for name, m, c in zip(names, maps, chi2, strict=True)
            },
            "registration": self._registration(data),
        }
        for name, source in zip(names, (source1, source2), strict=True):
            if "suv" in source.meta:
                record["sources"][name]["suv"] = source.meta["suv"]
        for name, m, restored in zip(names, maps, (restored1, restored2), strict=True):
            truth = data.get(f"truth_{name}")
            if truth is not None:
                record["sources"][name]["against_truth"] = fidelity(
                    m.back(restored)[None], torch.as_tensor(truth).reshape(1, *restored.shape), m.scale
                )
        return record

    def _registration(self, data: Mapping[Hashable, Any]) -> dict[str, Any] | None:
        """Return the record of the registration; MONAI's batches turn an empty list into None."""
        record = data.get(f"{self.moving}_registration")
        return None if record is None else {**record, "reasons": record["reasons"] or []}


@dataclass(frozen=True)
class _Affine:
    """The map between a source's unit and 0..1: `value = offset + scale * normalised`."""

    offset: float
    scale: float
    unit: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> _Affine:
        unit = record.get("unit", "a.u.")
        return cls(float(record["offset"]), float(record["scale"]), unit if isinstance(unit, str) else str(unit[0]))

    def back(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset


def _notes(record: Mapping[str, Any]) -> list[str]:
    steps = "" if record["steps"] is None else f", {record['steps']} steps"
    notes = [f"Degradation: {record['degradation'].get('name', 'as specified')} (given){steps}"]
    chi2 = {k.upper(): v["residual_chi2"] for k, v in record["sources"].items() if v["residual_chi2"] is not None}
    if chi2:
        notes.append("Residual chi-square: " + ", ".join(f"{k} {v:.2f}" for k, v in chi2.items()))
    registration = record["registration"]
    if isinstance(registration, Mapping) and not registration.get("accepted", True):
        notes.append("Warning: registration was not accepted; the images were fused as they lay.")
    return notes


# ---------------------------------------------------------------------------------------------------- bundles in Python
@dataclass(frozen=True)
class Fusion:
    """A bundle's network and inferers, ready to call.

    Attributes:
        network: The network with its weights, on its device.
        inferer: For slices and volumes: `inferer(image, network, degradation=..., steps=...)`.
        device: Where the network is.
        weights: The file of its weights.
    """

    network: torch.nn.Module
    inferer: VolumeFusionInferer
    device: torch.device
    weights: Path

    def __call__(
        self, image: Tensor, *, degradation: Mapping[str, Any] | str | None = None, steps: int | None = None
    ) -> Any:
        """Restore and fuse a batch **[B, 2, H, W]** or **[B, 2, X, Y, Z]**; see `FusionInferer`.

        A degradation may be a preset's name.
        """
        spec = load_spec(degradation) if isinstance(degradation, str) else degradation
        with torch.inference_mode():
            return self.inferer(image.to(self.device), self.network, degradation=spec, steps=steps)


def load_fusion(bundle: str = "pet_mri_fusion", *, device: str | torch.device = "cpu") -> Fusion:
    """Load a bundle's network with its weights, and its inferer.

    Raises:
        BundleError: There is no such bundle, or it has no weights.
    """
    root = bundle_dir(bundle)
    weights = require_weights(root / "models" / "model.pt")
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    parser["bundle_root"] = str(root)
    parser["device"] = torch.device(device)
    network = parser.get_parsed_content("network")
    network.load_state_dict(torch.load(weights, map_location=device, weights_only=True))
    return Fusion(network.eval(), parser.get_parsed_content("inferer"), torch.device(device), weights)


def require_weights(path: str | Path) -> Path:
    """Return the path of the weights.

    Raises:
        BundleError: There is no such file: an untrained network gives grey pictures that look plausible.
    """
    path = Path(path)
    if not path.is_file():
        raise BundleError(
            f"the weights must be a file, got none at models/{path.name}; train the bundle or restore it."
        )
    return path


def run_bundle(bundle: str, **overrides: Any) -> None:
    """Run a bundle's inference in this process, as `python -m monai.bundle run inference` does.

    Args:
        bundle: Name or folder of a bundle.
        overrides: Values of configuration keys, e.g. `dataset_dir`, `output_dir`, `datalist`, `degradation`, `steps`.
    """
    root = bundle_dir(bundle)
    configs = root / "configs"
    workflow = ConfigWorkflow(
        config_file=str(configs / "inference.json"),
        meta_file=str(configs / "metadata.json"),
        logging_file=False,  # how to log is the caller's affair
        workflow_type="inference",
        bundle_root=str(root),
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()


# ---------------------------------------------------------------------------------------------------- folders of images
def fuse_images(
    source1: str | Path,
    source2: str | Path,
    out: str | Path,
    *,
    bundle: str = "pet_mri_fusion",
    degradation: Mapping[str, Any] | None = None,
    steps: int = 3,
    device: str | torch.device = "cpu",
    file_format: str | None = None,
    truths: tuple[str | Path | None, str | Path | None] = (None, None),
    batch: int = 8,
) -> dict[str, Any]:
    """Fuse two folders of 2-D images, matched by name.

    Everything is read and checked before the first image is fused. Results go to `fused/`, `source1/`, `source2/` and
    `weight/` under `out`, then a contact sheet and, last, `images.json`.

    Args:
        source1: Folder of MRI or visible images; their size is the reference.
        source2: Folder of PET or infrared images; one that is smaller by 2 or 4 counts as low resolution.
        out: Where to write.
        bundle: Bundle to use.
        degradation: The specification, `sigma` as a fraction of full range.
        steps: Number of steps.
        device: Where to compute.
        file_format: `png`, `npy`, or None for what the input is (8 bit in, 8 bit out).
        truths: Folders of the clean sources, where known: PSNR and SSIM are then computed from what is written.
        batch: Images of one size that are fused together.

    Returns:
        The record that `images.json` holds.

    Raises:
        MedfuseError: Any input that cannot be used, before work starts.
    """
    pairs = [_ImagePair.read(*names) for names in match_folders(source1, source2)]
    references = [_read_truths(truth, pairs, n) for n, truth in enumerate(truths, start=1)]
    degradations = {f: _with_factor(degradation, f) for f in {p.factor for p in pairs}}
    fusion = load_fusion(bundle, device=device)
    out = Path(out)

    sheet: list[tuple[str, list[Tensor]]] = []
    figures: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for group in tqdm(list(_groups(pairs, batch)), desc="fusing", unit="batch", disable=len(pairs) < 2 * batch):
        inputs = torch.stack([p.on_grid() for p in group]).to(fusion.device)
        with torch.inference_mode():
            fused = fusion.inferer(inputs, fusion.network, degradation=degradations[group[0].factor], steps=steps)
        for i, pair in enumerate(group):
            kinds = ("fused", "source1", "source2", "weight")
            written = {k: _write(out / k, pair, fused[k][i, 0], file_format) for k in kinds}
            for n, truth in enumerate(references):
                if truth:
                    figures[n][pair.name] = fidelity(written[f"source{n + 1}"][None], truth[pair.name][None], 1.0)
            if len(sheet) < _SHEET_ROWS:
                sheet.append((pair.name, [*inputs[i].cpu(), *(written[k] for k in ("source1", "source2", "fused"))]))

    record: dict[str, Any] = {
        "notice": NOTICE,
        "versions": {name: version(name) for name in _PACKAGES},
        "weights_sha256": sha256(fusion.weights),
        "steps": steps,
        "degradation": {"origin": "given", **(dict(degradation) if degradation else {"version": 1})},
        "images": [p.name for p in pairs],
        "against_truth": {
            f"source{n}": {k: math.fsum(v[k] for v in each.values()) / len(each) for k in ("psnr", "ssim")}
            | {"images": each}
            for n, each in enumerate(figures, start=1)
            if each
        },
    }
    titles = ("source 1", "source 2", "restored 1", "restored 2", "fused")
    notes = [f"Degradation: {record['degradation'].get('name', 'as specified')} (given), {steps} steps"]
    notes += [f"Source {n[-1]}: {f['psnr']:.1f} dB, SSIM {f['ssim']:.3f}" for n, f in record["against_truth"].items()]
    shown = f"{len(sheet)} of {len(pairs)} images" if len(sheet) < len(pairs) else f"{len(pairs)} images"
    save_contact_sheet(out / "contact_sheet.png", sheet, titles, title=shown, notes=notes)
    write_json(out / "images.json", record)
    return record


@dataclass(frozen=True)
class _ImagePair:
    """Two images of one name; `factor` tells by how much the second is smaller."""

    name: str
    source1: Image2D
    source2: Image2D
    factor: int

    @classmethod
    def read(cls, name: str, path1: Path, path2: Path) -> _ImagePair:
        source1, source2 = read_image(path1), read_image(path2)
        try:
            return cls(name, source1, source2, check_pair(source1, source2))
        except MedfuseError as error:
            raise type(error)(f"{name}: {error}") from error

    def on_grid(self) -> Tensor:
        """Return both sources on the grid of the first, **[2, H, W]**, the second replicated."""
        first, second = (torch.from_numpy(s.array) for s in (self.source1, self.source2))
        return torch.stack([first, replicate(second[None, None], Downsample(self.factor), first.shape)[0, 0]])


def _with_factor(spec: Mapping[str, Any] | None, factor: int) -> JointDegradation:
    """Build the degradation of images whose second source is smaller by `factor`."""
    given = parse_degradation(spec)
    source2 = given.source2
    stated = math.prod(source2.operator.in_spatial((1,)))
    if factor == 1 or stated == factor:
        return given
    if stated != 1:
        raise GeometryError(f"source2 must be smaller by the {stated} of the degradation, got {factor}; change either.")
    return JointDegradation(given.source1, Degradation((*source2.steps, Downsample(factor)), source2.floor))


def _groups(pairs: Sequence[_ImagePair], batch: int) -> Iterator[list[_ImagePair]]:
    """Give runs of pairs of one size and factor, at most `batch` long."""
    for _, run in groupby(pairs, key=lambda p: (p.source1.array.shape, p.factor)):
        members = list(run)
        yield from (members[i : i + batch] for i in range(0, len(members), batch))


def _read_truths(folder: str | Path | None, pairs: Sequence[_ImagePair], n: int) -> dict[str, Tensor]:
    if folder is None:
        return {}
    found = {p.stem: p for p in sorted(Path(folder).glob("*")) if p.is_file()}
    truths = {}
    for pair in pairs:
        if pair.name not in found:
            raise BundleError(f"truth{n} must hold an image for every pair, got none for {pair.name}; add it.")
        truth = read_image(found[pair.name]).array
        if truth.shape != pair.source1.array.shape:
            raise GeometryError(f"truth{n} of {pair.name} must be {pair.source1.array.shape}, got {truth.shape}.")
        truths[pair.name] = torch.from_numpy(truth)
    return truths


def _write(folder: Path, pair: _ImagePair, image: Tensor, file_format: str | None) -> Tensor:
    """Write one result and return it as it was stored."""
    bits = max(pair.source1.bits, pair.source2.bits)
    wanted = file_format or ("npy" if bits == 32 else "png")
    bits = 32 if wanted == "npy" else (8 if bits == 32 else bits)
    path = folder / f"{pair.name}.{wanted}"
    write_image(path, image.cpu(), bits=bits)
    return torch.from_numpy(read_image(path).array)
