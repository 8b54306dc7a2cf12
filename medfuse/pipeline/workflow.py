"""A bundle's inference, loaded once and run case after case, with nothing written but on demand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data.utils import list_data_collate
from monai.transforms import Decollated

from medfuse.bundles import DEFAULT_BUNDLE, case_keys, load_spec, require_modalities
from medfuse.devices import pick_device
from medfuse.errors import BundleError, unwrapped
from medfuse.inferers import VolumeFusionInferer
from medfuse.io.sidecars import sidecar_units
from medfuse.pipeline.bundle import effective, load_network, read_inference, set_values
from medfuse.pipeline.case import SaveFusiond
from medfuse.pipeline.facts import sha256
from medfuse.pipeline.result import CaseResult
from medfuse.schema import checked_frames, checked_items

# Where things lie and how a run goes on is no part of what is computed; the weights have a hash of their own.
_PLACES = (
    "bundle_root",
    "dataset_dir",
    "output_dir",
    "ckpt_path",
    "volume_ckpt_path",
    "datalist",
    "device",
    "replace",
    "_meta_",
)


@dataclass(frozen=True, eq=False)
class Workflow:
    """The parts of a bundle's inference, as MONAI's engine puts them together for one case after the other.

    Attributes:
        preprocessing: From the paths of a case to its images.
        prepare_batch: From a batch to the arguments of the inferer.
        inferer: The bundle's.
        network: With its weights, on its device.
        postprocessing: What follows the inferer, up to the writer.
        writer: The bundle's last transform.
        device: Where the network is.
        weights: The file of its weights.
        configuration: Hash of the effective configuration, places left out.
    """

    preprocessing: Callable[[dict[str, Any]], dict[str, Any]]
    prepare_batch: Callable[..., Any]
    inferer: VolumeFusionInferer
    network: torch.nn.Module
    postprocessing: tuple[Callable[[Any], Any], ...]
    writer: SaveFusiond
    device: torch.device
    weights: Path
    configuration: str

    def __call__(self, item: Mapping[str, Any]) -> CaseResult:
        """Fuse one case, an item of a bundle's `datalist`, and write nothing.

        Raises:
            MedfuseError: The case cannot be fused.
        """
        return self.compute(self.read(item))

    def read(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Read one case, register and prepare it: a batch of one, for `compute`.

        Raises:
            MedfuseError: The case cannot be fused.
        """
        checked_items([item], keys=self.writer.source_keys)
        with unwrapped():
            return collate_case([self.preprocessing(dict(item))])

    def compute(self, batch: dict[str, Any]) -> CaseResult:
        """Restore and fuse what `read` returned.

        Raises:
            MedfuseError: The case cannot be fused.
        """
        with unwrapped():
            return self._computed(batch)

    def _computed(self, batch: dict[str, Any]) -> CaseResult:
        return self.writer.result(self._fused(batch))

    def _fused(self, batch: dict[str, Any]) -> dict[Hashable, Any]:
        """Return what the case's outputs are made of, and nothing else: of a large case there is no room for it."""
        with torch.no_grad():
            image, _, args, kwargs = self.prepare_batch(batch, self.device, False)
            output = {"image": image, "pred": self.inferer(image, self.network, *args, **kwargs)}
        decollate = Decollated(keys=None, detach=True)
        data = {**decollate(batch)[0], **decollate(output)[0]}
        for transform in self.postprocessing:
            data = transform(data)
        return self.writer.needed(data)

    @cached_property
    def basis(self) -> dict[str, str]:
        """What results depend on beside the case: hashes of configuration and weights, and the kind of device."""
        return {
            "configuration": self.configuration,
            "device": self.device.type,
            "weights": sha256(self.weights),
        }

    def write(self, result: CaseResult, folder: Path) -> None:
        """Write all outputs of a case into a folder."""
        self.writer.write(result, folder)


def collate_case(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of cases, as MONAI's `list_data_collate` does, one key after another.

    What was collated leaves the items: a copy of all volumes of a large case at once is room for nothing.

    Args:
        items: The cases, with the same keys; they end empty.
    """
    batch: dict[str, Any] = {}
    for key in list(items[0]):
        batch |= list_data_collate([{key: item.pop(key)} for item in items])
    return batch


def load_workflow(
    bundle: str = DEFAULT_BUNDLE,
    *,
    degradation: Mapping[str, Any] | str | None = None,
    steps: int | None = None,
    device: str | torch.device | None = None,
    suv: str | None = None,
    n4: bool = False,
    nonfinite: str | None = None,
    strict: bool = False,
    overlays: Sequence[str | Path] = (),
    fusion_rule: str | None = None,
    palette: str | None = None,
    blend: str | None = None,
    reference_region: str | int | None = None,
    uncertainty: str | None = None,
    sensitivity: bool = False,
    sr: bool | None = None,
) -> Workflow:
    """Load a bundle's inference; what is not given is as the bundle and the overlays say.

    Args:
        bundle: Name or folder of a bundle.
        degradation: A preset's name, a file or a specification.
        steps: Number of reverse steps.
        device: Where to compute, see `medfuse.devices.pick_device`.
        suv: SUV of a DICOM PET, one of `medfuse.io.suv.CHOICES`.
        n4: Remove the bias field of the MRI.
        nonfinite: NaN and infinity in a NIfTI, one of `medfuse.io.NONFINITE`: refuse it ("error") or let them count as
            0 ("zero").
        strict: Refuse a NIfTI whose sform and qform disagree, instead of a warning.
        overlays: YAML or JSON files that change keys of the bundle's `inference.json`, merged from left to right.
        fusion_rule: How the fused image comes of the restored sources, see `medfuse.fusion.rule`.
        palette: Colour map of the colour fusion, see `medfuse.fusion.ColourFusion`.
        blend: How a palette other than `OKLAB` lies over the anatomy, `luma` or `alpha`.
        reference_region: Label or name of the region by whose mean those of the others are divided (SUVR).
        uncertainty: `off`; `fast`: the standard deviation of each voxel; `full`: the interval of each region as well,
            which takes seven times as long.
        sensitivity: Restore again, widths and then levels 20 % less and more: what that changes is in the record.
        sr: Write the values of regions as a DICOM measurement report, too, where a source was DICOM.

    Raises:
        MedfuseError: There is no such bundle, preset or overlay, the bundle has no weights or does not end with
            `SaveFusiond`, or a degradation makes no sense.
    """
    require_modalities(bundle, suv=suv, n4=n4)
    parser = read_inference(bundle, overlays=overlays, device=device)
    if "postprocessing" not in parser:
        raise BundleError("the bundle must fuse cases, got one that fuses pairs of images; use `medfuse images`.")
    if degradation is not None:
        spec = load_spec(degradation, bundle) if isinstance(degradation, str) else dict(degradation)
        set_values(parser, {"degradation": spec})
    given = {"steps": steps, "suv": suv, "n4": n4 or None, "nonfinite": nonfinite, "strict": strict or None}
    given |= {"fusion_rule": fusion_rule, "palette": palette, "blend": blend, "reference_region": reference_region}
    given |= {"uncertainty": uncertainty, "sensitivity": sensitivity or None, "sr": sr}
    for key, value in ((k, v) for k, v in given.items() if v is not None):
        if key not in parser:
            raise BundleError(f"The bundle must have the key {key} to set it, got none; leave it out.")
        set_values(parser, {key: value})
    if "progress" in parser.get("inferer", {}):
        parser["inferer"]["progress"] = False  # the bar is for cases
    configuration = _hash(parser)
    with unwrapped():
        return _built(parser, configuration)


def _built(parser: ConfigParser, configuration: str) -> Workflow:
    prepare_batch = parser.get_parsed_content("prepare_batch")  # which checks the degradation, before weights are read
    network, weights = load_network(parser)
    preprocessing = parser.get_parsed_content("preprocessing")  # which checks the weights of the network for volumes
    if more := parser.get_parsed_content("volume_ckpt_path") if "volume_ckpt_path" in parser else None:
        configuration = hashlib.sha256((configuration + sha256(Path(more))).encode()).hexdigest()
    *postprocessing, writer = parser.get_parsed_content("postprocessing").transforms
    if not isinstance(writer, SaveFusiond):
        raise BundleError(f"postprocessing must end with SaveFusiond, got {type(writer).__name__}; move it to the end.")
    return Workflow(
        preprocessing=preprocessing,
        prepare_batch=prepare_batch,
        inferer=parser.get_parsed_content("inferer"),
        network=network,
        postprocessing=tuple(postprocessing),
        writer=writer,
        device=pick_device(parser.get_parsed_content("device")),
        weights=weights,
        configuration=configuration,
    )


def fuse(
    pet: str | Path | None = None,
    mri: str | Path | None = None,
    *,
    bundle: str = DEFAULT_BUNDLE,
    degradation: Mapping[str, Any] | str | None = None,
    steps: int | None = None,
    device: str | torch.device = "auto",
    aligned: bool = False,
    pet_unit: str | None = None,
    frames: str | None = None,
    suv: str | None = None,
    n4: bool = False,
    nonfinite: str = "error",
    strict: bool = False,
    palette: str | None = None,
    blend: str | None = None,
    mask: str | Path | None = None,
    labels: str | Path | None = None,
    reference_region: str | int | None = None,
    uncertainty: str | None = None,
    sensitivity: bool = False,
    **sources: str | Path | None,
) -> CaseResult:
    """Fuse one pair of volumes and write nothing.

    For many pairs, load the bundle once: `load_workflow()` returns a function of items such as
    `{"case": "one", "mri": ..., "pet": ...}`.

    Args:
        pet: NIfTI, or a folder or file of DICOM.
        mri: Likewise; its grid is the reference.
        bundle: Name or folder of a bundle; one of other modalities takes sources by their names, see `sources`.
        degradation: A preset's name, a file or a specification; the bundle's own by default.
        steps: Number of reverse steps; the bundle's own by default.
        device: Where to compute, see `medfuse.devices.pick_device`.
        aligned: The volumes share one world frame: do not register.
        pet_unit: Unit of the values of a NIfTI PET; by default what the JSON sidecar beside it says.
        frames: Frames of a dynamic PET, see `medfuse.io.frames`, such as `40-60min`; the average of all by default.
        suv: SUV of a PET, such as `bw`, by its DICOM headers or its JSON sidecar.
        n4: Remove the bias field of the MRI.
        nonfinite: NaN and infinity in a NIfTI: refuse it ("error"), or let them count as 0 ("zero").
        strict: Refuse a NIfTI whose sform and qform disagree, instead of a warning.
        palette: Colour map of `rgb`, see `medfuse.fusion.ColourFusion`; `OKLAB` by default.
        blend: How another one lies over the anatomy, `luma` or `alpha`.
        mask: Regions in which source 2 is measured: labels in NIfTI, or DICOM SEG or RTSTRUCT.
        labels: Table of the names of the regions, with columns `index` and `name`.
        reference_region: Label or name of the region by whose mean those of the others are divided (SUVR).
        uncertainty: `off`, `fast` (of voxels) or `full` (of regions as well), see `load_workflow`.
        sensitivity: Tell what changes where what was stated is wrong by 20 %.
        sources: What a bundle of other modalities takes, by their keys: a path for each, such as `ct`, and optionally
            the unit of a NIfTI, such as `ct_unit`.

    Returns:
        Volumes **[X, Y, Z]** on the grid of source 1 (the MRI), with their affine and units: `restored` (both),
        `fused`, `weight`, `rgb`, and the record of the case.

    Raises:
        MedfuseError: The pair cannot be fused, or the sources are not those that the bundle takes.
    """
    keys = case_keys(bundle)
    given = dict(pet=pet, mri=mri, pet_unit=pet_unit, **sources)
    for name, value in given.items():
        if value is not None and not isinstance(value, str | PathLike):
            raise BundleError(
                f"{name} must be a path or a text, got {type(value).__name__}; `load_fusion` takes tensors on one grid."
            )
    given = {name: str(value) for name, value in given.items() if value}
    fields = (*keys, *(f"{key}_unit" for key in keys))
    if not set(keys) <= set(given) <= set(fields):
        got = ", ".join(sorted(given)) or "none"
        raise BundleError(f"The sources of this bundle must be given as {' and '.join(keys)}, got {got}; change them.")
    item: dict[str, Any] = {"case": "case"} | {name: given[name] for name in fields if name in given}
    if aligned:
        item["aligned"] = True
    if frames is not None:
        item[f"{keys[1]}_frames"] = checked_frames(frames, "frames")
    item |= {name: str(path) for name, path in (("mask", mask), ("labels", labels)) if path is not None}
    item |= sidecar_units(item, item, keys)
    options: dict[str, Any] = {"suv": suv, "n4": n4, "nonfinite": nonfinite, "strict": strict}
    options |= {"palette": palette, "blend": blend, "reference_region": reference_region, "uncertainty": uncertainty}
    options["sensitivity"] = sensitivity
    return load_workflow(bundle, degradation=degradation, steps=steps, device=device, **options)(item)


def _hash(parser: ConfigParser) -> str:
    content = {key: value for key, value in effective(parser).items() if key not in _PLACES}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
