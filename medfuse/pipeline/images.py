"""Folders of 2-D images, matched by name."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from medfuse.about import NOTICE
from medfuse.bundles import DEFAULT_BUNDLE
from medfuse.errors import BundleError, GeometryError, MedfuseError
from medfuse.estimation import estimate, known_specification, noise_profile, records_of
from medfuse.fusion.color import fuse_visible
from medfuse.io import (
    check_pair,
    check_range,
    match_folders,
    match_manifest,
    read_image,
    require_writable,
    write_image,
    write_json,
)
from medfuse.io.images import Bits
from medfuse.physics import Downsample, JointDegradation, parse_degradation, replicate
from medfuse.pipeline.bundle import Fusion, load_fusion
from medfuse.pipeline.facts import fidelity, noise_of_data, sha256, stated, versions
from medfuse.report import degradation_name, restoration_warnings, save_contact_sheet

_KINDS = ("source1", "source2", "fused", "weight")
_TITLES = ("source 1", "source 2", "restored 1", "restored 2", "fused")
_RECORD = "images.json"
_SUFFIXES = (".png", ".npy")  # of what is written
_SHEET_ROWS = 6
_SHEET_PIXELS = 512  # of an image, at least, along each side
_FINDINGS = ("proven_blur", "converged", "chi2")  # what the inferer says of each source
_BATCH_PIXELS = 2**20  # images that are larger come one by one

_logger = logging.getLogger(__name__)


def fuse_images(
    source1: str | Path | None,
    source2: str | Path | None,
    out: str | Path,
    *,
    manifest: str | Path | None = None,
    bundle: str | Fusion = DEFAULT_BUNDLE,
    degradation: Mapping[str, Any] | str | None = None,
    steps: int | None = None,
    device: str | torch.device = "auto",
    file_format: str | None = None,
    truths: tuple[str | Path | None, str | Path | None] = (None, None),
    batch: int = 8,
    fusion_rule: str | None = None,
) -> dict[str, Any]:
    """Fuse two folders of 2-D images, matched by name, or the pairs of a table.

    Everything is read and checked before the first image is fused. Results go to `fused/`, `source1/`, `source2/` and
    `weight/` under `out`, then a contact sheet and, last, `images.json`. With a bundle for it source 1 may be in
    colour; so are then the restored source 1 and the fused image.

    Args:
        source1: Folder of MRI or visible images; their size is the reference.
        source2: Folder of PET or infrared images; one that is smaller by 2, 3 or 4 counts as low resolution.
        out: Where to write.
        manifest: Instead of both folders: a table of pairs, see `medfuse.io.match_manifest`.
        bundle: Bundle to use, by name or loaded; a loaded one is where it is, whatever `device` says.
        degradation: The specification, `sigma` as a fraction of full range, of each channel where in colour; `auto`, or
            what is unknown of it, is estimated of each pair by itself.
        steps: Number of steps; None: as the bundle says.
        device: Where to compute, see `medfuse.devices.pick_device`.
        file_format: `png`, `npy`, or None for what the input is (8 bit in, 8 bit out).
        truths: Folders of the clean sources, where known: PSNR and SSIM are then computed from what is written.
        batch: Images of one size that are fused together, fewer where they are large; on a CPU always one.
        fusion_rule: How the fused image comes of the restored sources; None, and always of a loaded bundle: its own.

    Returns:
        The record that `images.json` holds.

    Raises:
        MedfuseError: Any input that cannot be used, before work starts.
    """
    fusion = bundle if isinstance(bundle, Fusion) else load_fusion(bundle, device=device, fusion_rule=fusion_rule)
    steps = fusion.inferer.told.steps if steps is None else steps
    pairs = [_ImagePair.check(*names, color=fusion.color) for names in _matched(source1, source2, manifest)]
    references = {f"source{n}": _check_truths(truth, pairs, n) for n, truth in enumerate(truths, start=1)}
    degradations = {f: _with_factor(degradation, f) for f in {p.factor for p in pairs}}
    unknown = any(what.unknown for what in degradations.values())
    estimates: dict[str, Any] = {}
    out = Path(out)
    for kind in _KINDS:
        require_writable(out / kind)
    given = {path.parent.resolve() for pair in pairs for path in pair.paths}
    given |= {path.parent.resolve() for found in references.values() for path in found.values()}
    if spoilt := [kind for kind in _KINDS if (out / kind).resolve() in given]:
        raise BundleError(f"out must not hold the inputs, got them in {spoilt[0]!r}; choose another folder.")
    if out.resolve() in given:
        raise BundleError("out must be another folder than those of the inputs, got one of them; choose another.")
    _clear(out)

    findings: list[dict[str, Tensor]] = []  # of the group

    def fuse(image: Tensor, what: JointDegradation, **chroma: Any) -> Mapping[str, Tensor]:
        options = {"steps": steps, "agreement": False if chroma else "chi2", **chroma}
        result: Mapping[str, Tensor] = fusion.inferer(image, fusion.network, degradation=what, **options)
        if not chroma:
            findings.append({name: result[name].flatten(1).cpu() for name in _FINDINGS})
        return result

    sheet: list[tuple[str, list[Tensor]]] = []
    figures: dict[str, dict[str, Any]] = {kind: {} for kind in references}
    warnings: list[str] = []
    seconds = 0.0
    together = (
        1 if fusion.device.type == "cpu" or unknown else batch
    )  # on a CPU, so that no result depends on other images
    for group in tqdm(list(_groups(pairs, together)), desc="fusing", unit="batch", disable=len(pairs) < 2 * batch):
        inputs = [torch.stack(images) for images in zip(*(p.read() for p in group), strict=True)]
        shown = [[_small(image) for image in images] for images in zip(*inputs, strict=True)]
        start = time.perf_counter()
        with torch.inference_mode():
            what, told_of = degradations[group[0].factor], degradation
            if unknown and degradation is not None:  # of one pair
                what, found_of = estimate(
                    what, torch.stack([_grey(image[0]) for image in inputs]), fusion.inferer.kinds
                )
                told_of, estimates[group[0].name] = known_specification(degradation, found_of), records_of(found_of)
            # the sources are popped: large ones leave room once they are split
            results = fuse_visible(fuse, inputs.pop(0).to(fusion.device), inputs.pop().to(fusion.device), what)
            fused = {kind: image.cpu() for kind, image in results.items()}
        seconds += time.perf_counter() - start
        (proven,) = findings
        findings.clear()
        for i, pair in enumerate(group):
            found = _warnings(pair, what, {name: values[i].tolist() for name, values in proven.items()}, told_of)
            warnings += found
            for text in found:
                _logger.warning("%s", text)
        for i, pair in enumerate(group):
            for kind in _KINDS:
                written = _write(out / kind, pair, fused[kind][i], file_format)
                shown[i].append(_small(written))
                if references.get(kind):
                    figures[kind][pair.name] = _fidelity(written, references[kind][pair.name])
            if len(sheet) < _SHEET_ROWS:
                sheet.append((pair.name, shown[i][: len(_TITLES)]))

    megapixels = sum(math.prod(p.shape) for p in pairs) / 1e6
    record: dict[str, Any] = {
        "notice": NOTICE,
        "versions": versions(),
        "weights_sha256": sha256(fusion.weights),
        "steps": steps,
        "settings": fusion.inferer.settings,
        "degradation": stated(degradation, estimates if unknown else None),
        "warnings": warnings,
        "images": [p.name for p in pairs],
        "source2_smaller_by": sorted(degradations),
        "speed": {"megapixels": megapixels, "seconds": seconds, "megapixels_per_second": megapixels / seconds},
        "against_truth": {
            kind: {k: math.fsum(v[k] for v in each.values()) / len(each) for k in ("psnr", "ssim")} | {"images": each}
            for kind, each in figures.items()
            if each
        },
    }
    notes = [f"Degradation: {degradation_name(record['degradation'])}, {steps} step{'s' * (steps > 1)}"]
    if smaller := [str(f) for f in sorted(degradations) if f > 1]:
        notes.append(f"source 2 smaller by {' or '.join(smaller)}")
    if warnings:
        notes.append(f"{len(warnings)} warnings, see images.json")
    notes += [f"Source {n[-1]}: {f['psnr']:.1f} dB, SSIM {f['ssim']:.3f}" for n, f in record["against_truth"].items()]
    count = f"{len(pairs)} image{'s' * (len(pairs) > 1)}"
    heading = f"{len(sheet)} of {count}" if len(sheet) < len(pairs) else count
    save_contact_sheet(out / "contact_sheet.png", sheet, _TITLES, title=heading, notes=notes)
    write_json(out / _RECORD, record)
    _logger.info("%s fused, %.3g megapixels per second", count, megapixels / seconds)
    return record


@dataclass(frozen=True)
class _ImagePair:
    """Two images of one name, checked; they are read again when their turn comes, so that many need little memory."""

    name: str
    paths: tuple[Path, Path]
    shape: tuple[int, ...]
    factor: int  # by which the second is smaller
    color: bool
    bits: Bits

    @classmethod
    def check(cls, name: str, path1: Path, path2: Path, *, color: bool) -> _ImagePair:
        source1, source2 = read_image(path1, color=color), read_image(path2)
        try:
            factor = check_pair(source1, source2)
            for what, image in (("source1", source1), ("source2", source2)):
                check_range(what, image)
        except MedfuseError as error:
            raise type(error)(f"{name}: {error}") from error
        shape, bits = source1.array.shape, max(source1.bits, source2.bits)
        return cls(name, (path1, path2), shape[:2], factor, len(shape) == 3, bits)

    def read(self) -> tuple[Tensor, Tensor]:
        """Return both sources on the grid of the first, **[H, W]** or **[H, W, 3]**, the second replicated."""
        first, second = (
            torch.from_numpy(read_image(path, color=color).array)
            for path, color in zip(self.paths, (self.color, False), strict=True)
        )
        return first, replicate(second[None, None], Downsample(self.factor), self.shape)[0, 0]


def _warnings(
    pair: _ImagePair,
    what: JointDegradation,
    proven: Mapping[str, Sequence[float]],
    degradation: Mapping[str, Any] | str | None,
) -> list[str]:
    """Return what to warn of about a pair that was restored, by the findings of cases.

    Args:
        pair: Its images are read again.
        what: What happened to them.
        proven: What the inferer found, of both sources each.
        degradation: As it was stated.
    """
    if not any(part.steps for part in what):
        return []
    sources = {}
    for n, (image, part) in enumerate(zip(pair.read(), what, strict=True)):
        data = part.observed(_grey(image)[None, None])[0, 0].numpy()
        share, converged, chi2 = (proven[name][n] for name in _FINDINGS)
        sources[f"source {n + 1} of {pair.name}"] = {
            "narrowed_blur": share if share < 1 else None,
            "solve_converged": bool(converged) if part.steps else None,
            "noise": noise_of_data(torch.from_numpy(noise_profile(data)), part) if part.noises else None,
            "residual_chi2": chi2 if part.steps and image.ndim == 2 else None,  # of colour, it is that of the luma
        }
    return restoration_warnings({"sources": sources, "degradation": degradation})


def _grey(image: Tensor) -> Tensor:
    """Return an image **[H, W]**; of one in colour its green, as each channel has the stated noise."""
    return image if image.ndim == 2 else image[..., 1]


def _clear(out: Path) -> None:
    """Remove the record of an earlier run and the images that it names: they would be taken for those of this run."""
    record = out / _RECORD
    try:
        names = json.loads(record.read_text(encoding="utf-8"))["images"]
    except (OSError, ValueError, TypeError, KeyError):
        return
    record.unlink()
    for name in (n for n in names if isinstance(n, str) and Path(n).name == n):
        for kind in _KINDS:
            for suffix in _SUFFIXES:
                (out / kind / f"{name}{suffix}").unlink(missing_ok=True)


def _matched(
    source1: str | Path | None, source2: str | Path | None, manifest: str | Path | None
) -> list[tuple[str, Path, Path]]:
    if manifest is not None and source1 is source2 is None:
        return match_manifest(manifest)
    if manifest is None and source1 is not None and source2 is not None:
        return match_folders(source1, source2)
    raise BundleError("The images must be given as two folders or as a manifest, got another mixture; change it.")


def _with_factor(spec: Mapping[str, Any] | str | None, factor: int) -> JointDegradation:
    """Build the degradation of images whose second source is smaller by `factor`."""
    given = parse_degradation(spec)
    source2 = given.source2
    stated = math.prod(source2.operator.in_spatial((1,)))
    if factor == 1 or stated == factor:
        return given
    if stated != 1:
        raise GeometryError(f"source2 must be smaller by the {stated} of the degradation, got {factor}; change either.")
    return JointDegradation(given.source1, replace(source2, steps=(*source2.steps, Downsample(factor))))


def _groups(pairs: Sequence[_ImagePair], batch: int) -> Iterator[list[_ImagePair]]:
    """Give runs of pairs of one kind, at most `batch` long."""
    for (shape, *_), run in groupby(pairs, key=lambda p: (p.shape, p.factor, p.color)):
        members, size = list(run), max(1, min(batch, _BATCH_PIXELS // math.prod(shape)))
        yield from (members[i : i + size] for i in range(0, len(members), size))


def _check_truths(folder: str | Path | None, pairs: Sequence[_ImagePair], n: int) -> dict[str, Path]:
    """Return the clean image of each pair, checked."""
    if folder is None:
        return {}
    if not Path(folder).is_dir():
        raise BundleError(f"truth{n} must be a folder, got no folder {Path(folder).name!r}; check the path.")
    found = {p.stem: p for p in sorted(Path(folder).glob("*")) if p.is_file()}
    for pair in pairs:
        if pair.name not in found:
            raise BundleError(f"truth{n} must hold an image for every pair, got none for {pair.name}; add it.")
        truth = read_image(found[pair.name], color=pair.color and n == 1).array
        if truth.shape[:2] != pair.shape:
            raise GeometryError(f"truth{n} of {pair.name} must be {pair.shape}, got {truth.shape[:2]}; resample it.")
    return {pair.name: found[pair.name] for pair in pairs}


def _fidelity(written: Tensor, path: Path) -> dict[str, float]:
    """Return PSNR and SSIM against the clean image, over all channels of a colour image."""
    truth = _read_like(path, written)
    if written.ndim == 2:
        return fidelity(written[None], truth[None], 1.0)
    return fidelity(written.movedim(-1, 0), truth.movedim(-1, 0), 1.0)


def _write(folder: Path, pair: _ImagePair, image: Tensor, file_format: str | None) -> Tensor:
    """Write one result and return it as it was stored."""
    wanted = file_format or ("npy" if pair.bits == 32 else "png")
    bits: Bits = 32 if wanted == "npy" else (8 if pair.bits == 32 else pair.bits)
    path = folder / f"{pair.name}.{wanted}"
    write_image(path, image, bits=bits)
    return _read_like(path, image)


def _small(image: Tensor) -> Tensor:
    """Shrink an image **[H, W]** or **[H, W, 3]** for the contact sheet, by the mean of blocks."""
    factor = max(1, min(image.shape[:2]) // _SHEET_PIXELS)
    return F.avg_pool2d(image.reshape(*image.shape[:2], -1).movedim(-1, 0), factor).movedim(0, -1).squeeze(-1)


def _read_like(path: Path, image: Tensor) -> Tensor:
    """Read an image; a grey one has three equal channels where `image` has colour."""
    stored = torch.from_numpy(read_image(path, color=image.ndim == 3).array)
    return stored if stored.ndim == image.ndim else stored[..., None].expand_as(image)
