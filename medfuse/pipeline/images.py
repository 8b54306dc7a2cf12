"""Folders of 2-D images, matched by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from medfuse import NOTICE
from medfuse.errors import BundleError, GeometryError, MedfuseError
from medfuse.io import Image2D, check_pair, match_folders, read_image, write_image, write_json
from medfuse.physics import Degradation, Downsample, JointDegradation, parse_degradation, replicate
from medfuse.pipeline.bundle import load_fusion
from medfuse.pipeline.facts import fidelity, sha256, versions
from medfuse.report import save_contact_sheet

_SHEET_ROWS = 6


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
        "versions": versions(),
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
