"""Pictures for the documentation, from the shipped cases alone."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.processing import resample_from_to
from torch import Tensor

from medfuse.bundles import bundle_dir, load_spec
from medfuse.fusion import ColourFusion
from medfuse.physics import parse_degradation
from medfuse.pipeline import Fusion
from medfuse.report import save_contact_sheet
from medfuse.training.degrade import degrade

TITLES = ("MRI, degraded", "PET, degraded", "MRI, restored", "PET, restored", "fused", "fused in colour")


def restoration(fusion: Fusion, path: Path) -> None:
    """Draw a slice of the sarcoma and one of the brain phantom in each scenario: degraded, restored, fused."""
    rows = []
    for scenario in ("noise", "blur", "composite"):
        spec = load_spec(scenario)
        for name, clean in (("sarcoma", demo_slice("sts_case")), ("phantom", demo_slice("brain_phantom"))):
            inputs = degrade(clean, parse_degradation(spec), torch.Generator().manual_seed(0), stored=True)
            out = fusion(inputs, degradation=spec)
            grey = [inputs[0, 0], inputs[0, 1], *(out[k][0, 0] for k in ("source1", "source2", "fused"))]
            colour = ColourFusion()(out["source1"][0, 0], out["source2"][0, 0])
            rows.append((f"{name}, {scenario}", [*(image.clamp(0, 1) for image in grey), colour]))
    save_contact_sheet(path, rows, TITLES, title="Degraded, restored, fused", notes=("one set of weights, one step",))


def demo_slice(case: str, share: float | None = None) -> Tensor:
    """Return an axial slice, MRI and PET on one grid, **[1, 2, H, W]** in 0..1, anterior up.

    Args:
        case: A shipped case.
        share: Where it lies, 0..1 from the lowest slice to the highest; None: that of the highest uptake.
    """
    folder = bundle_dir("pet_mri_fusion") / "demo" / case
    mri, pet = (nib.as_closest_canonical(nib.load(folder / f"{name}.nii.gz")) for name in ("mri", "pet"))
    truth = folder / "truth_pet_to_mri.tfm"
    if truth.exists():
        import SimpleITK as sitk

        matrix = np.eye(4)
        euler = sitk.Euler3DTransform(sitk.ReadTransform(str(truth)))
        matrix[:3, :3] = np.array(euler.GetMatrix()).reshape(3, 3)
        matrix[:3, 3] = euler.TransformPoint((0.0, 0.0, 0.0))
        flip = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's points are LPS
        pet = nib.Nifti1Image(pet.get_fdata(), flip @ matrix @ flip @ pet.affine)
    uptake = resample_from_to(pet, mri, order=1).get_fdata()
    anatomy = mri.get_fdata()
    z = int(uptake[..., 2:-2].max((0, 1)).argmax()) + 2 if share is None else round(share * (uptake.shape[2] - 1))
    pair = np.stack([v[..., z].T[::-1] / np.percentile(v, 99.9) for v in (anatomy, uptake)])
    return torch.from_numpy(pair.clip(0, 1).copy()).float()[None]
