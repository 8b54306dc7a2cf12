"""Folders of 2-D images, matched by name."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.about import NOTICE
from medfuse.bundles import DEFAULT_BUNDLE
from medfuse.errors import BundleError, DegradationError, GeometryError, known_error
from medfuse.estimation import estimate, known_specification, noise_profile, records_of
from medfuse.fusion import ColourFusion, fuse_visible
from medfuse.inferers.sensitivity import as_record, changes_of, variants
from medfuse.io import read_image, require_writable, write_image, write_json
from medfuse.io.images import Bits
from medfuse.origin import defaults_taken
from medfuse.physics import Downsample, JointDegradation, parse_degradation
from medfuse.pipeline.bundle import Fusion, load_fusion
from medfuse.pipeline.facts import fidelity, noise_of_data, sha256, stated, versions
from medfuse.pipeline.failures import ERROR, failure_message, write_trace
from medfuse.pipeline.pairs import (
    ImagePair,
    checked_pairs,
    groups,
    matched_pairs,
    require_own_pairs,
    told_paths,
)
from medfuse.progress import bar, line
from medfuse.report import degradation_name, restoration_warnings, save_contact_sheet

_KINDS = ("source1", "source2", "fused", "weight")
_COLOR = "color"
_TITLES = ("source 1", "source 2", "restored 1", "restored 2", "fused")
_RECORD = "images.json"
_UNFINISHED = "images_unfinished.json"  # what a run that did not come to its end has left is of
_SUFFIXES = (".png", ".npy")  # of what is written
_SHEET_ROWS = 6
_SHEET_PIXELS = 512  # of an image, at least, along each side
_FINDINGS = ("proven_blur", "converged", "chi2")  # what the inferer says of each source

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
    palette: str | None = None,
    blend: str | None = None,
    replace: bool = False,
    sensitivity: bool = False,
) -> dict[str, Any]:
    """Fuse two folders of 2-D images, matched by name, or the pairs of a table.

    Everything is read and checked before the first image is fused. A pair that cannot be fused is left out, and noted
    with the reason; the others are fused. Results go to `fused/`, `source1/`, `source2/` and
    `weight/` under `out`, then a contact sheet and, last, `images.json`. With a bundle for it source 1 may be in
    colour; so are then the restored source 1 and the fused image.

    Args:
        source1: Folder of MRI or visible images; their size is the reference.
        source2: Folder of PET or infrared images; one that is smaller by 2, 3 or 4 counts as low resolution.
        out: Where to write.
        manifest: Instead of both folders: a table of pairs, see `medfuse.io.match_manifest`.
        bundle: Bundle to use, by name or loaded; a loaded one is where it is, whatever `device` says.
        degradation: The specification, `sigma` as a fraction of full range, of each channel where in colour; `auto`, or
            what is unknown of it, is estimated of each pair by itself. None: as the bundle says.
        steps: Number of steps; None: as the bundle says.
        device: Where to compute, see `medfuse.devices.pick_device`.
        file_format: `png`, `npy`, or None for what the input is (8 bit in, 8 bit out).
        truths: Folders of the clean sources, where known: PSNR and SSIM are then computed from what is written.
        batch: Images of one size that are fused together, fewer where they are large; on a CPU always one.
        fusion_rule: How the fused image comes of the restored sources; None, and always of a loaded bundle: its own.
        palette: Colour map, see `medfuse.fusion.ColourFusion`: a colour fusion of each pair of grey images goes to
            `color/`, 8-bit PNG, both windows 0 to 1. None: no colour.
        blend: How a palette other than `OKLAB` lies over the anatomy.
        replace: Replace and remove results of other images in `out`, too; else they are refused.
        sensitivity: Restore again, widths and then levels 20 % less and more: what that changes is in the record.

    Returns:
        The record that `images.json` holds; its `failed` says why of each pair that could not be fused.

    Raises:
        MedfuseError: Before work: an input that cannot be used as a whole, no pair that can be fused, results of other
            images in `out`. After it: no pair could be fused.
    """
    out = Path(out)
    fusion = bundle if isinstance(bundle, Fusion) else load_fusion(bundle, device=device, fusion_rule=fusion_rule)
    steps = fusion.inferer.told.steps if steps is None else steps
    if degradation is None:
        own = fusion.inferer.degradation
        if isinstance(own, JointDegradation):
            raise DegradationError(
                "the degradation of a bundle must be a specification, which records hold, got a JointDegradation; give "
                "`degradation`."
            )
        degradation = own
    look = None if palette is None else ColourFusion(palette, blend)
    if look and fusion.color:
        raise BundleError("palette must come with a bundle of grey images, got one in colour; leave it out.")
    stated_degradation = parse_degradation(degradation)
    matched = matched_pairs(source1, source2, manifest)
    pairs, failed = checked_pairs(
        matched, truths, color=fusion.color, also=lambda pair: _with_factor(stated_degradation, pair.factor)
    )
    _require_place(out, {path.parent for _, *paths in matched for path in paths} | {Path(t) for t in truths if t})
    folders, records = [out / kind for kind in (*_KINDS, _COLOR)], [out / _RECORD, out / _UNFINISHED]
    if not replace:
        require_own_pairs(pairs, folders, records)
    _clear(out)
    noted = {"notice": NOTICE, "sources": {pair.name: pair.sources for pair in pairs}}
    write_json(out / _UNFINISHED, noted, durable=True)

    run = _Run(fusion, out, degradation, steps, file_format, stated_degradation, look, sensitive=sensitivity)
    alone = fusion.device.type == "cpu" or run.unknown or sensitivity  # on a CPU no result depends on other images
    together = 1 if alone else batch
    for group in bar(list(groups(pairs, together)), desc="fusing", unit="batch", disable=len(pairs) < 2 * batch):
        run.fuse(group)
        for pair in group:
            settled = len(run.done) + len(run.failed)
            line(settled, len(pairs), pair.name, "failed" if pair.name in run.failed else "fused")
    if not run.done:
        (out / _UNFINISHED).unlink()
        raise BundleError(": ".join(next(iter(run.failed.items()))))
    record = run.record(failed)
    _save_sheet(out, run, record)
    write_json(out / _RECORD, record)
    (out / _UNFINISHED).unlink()
    speed = record["speed"]["megapixels_per_second"]
    _logger.info("%d fused, %d failed, %.3g megapixels per second", len(run.done), len(record["failed"]), speed)
    return record


class _Run:
    """What one run was told, and what it knows of its pairs so far."""

    def __init__(
        self,
        fusion: Fusion,
        out: Path,
        degradation: Mapping[str, Any] | str | None,
        steps: int,
        file_format: str | None,
        parsed: JointDegradation,
        look: ColourFusion | None,
        *,
        sensitive: bool,
    ) -> None:
        self.fusion, self.out, self.degradation, self.steps = fusion, out, degradation, steps
        self.file_format, self.parsed, self.unknown = file_format, parsed, bool(parsed.unknown)
        self.look = look
        self.done: list[ImagePair] = []
        self.failed: dict[str, str] = {}
        self.sheet: list[tuple[str, list[Tensor]]] = []
        self.figures: dict[str, dict[str, Any]] = {"source1": {}, "source2": {}}
        self.warnings: list[str] = []
        self.estimates: dict[str, Any] = {}
        self.seconds = 0.0
        self.sensitive, self.sensitivity = sensitive, dict[str, Any]()

    def fuse(self, group: Sequence[ImagePair]) -> None:
        """Fuse and write pairs of one kind; where that fails, each by itself, so that one does not stop the others."""
        try:
            self._fuse(group)
        except Exception as error:  # of any kind: the next pair may be sound
            if len(group) > 1:
                for pair in group:
                    self.fuse([pair])
                return
            (pair,) = group
            self.failed[pair.name] = failure_message(error, told_paths(pair))
            with suppress(OSError):
                _remove(self.out, [pair.name])
                if known_error(error) is None:
                    write_trace(self.out / ERROR, error)

    def _fuse(self, group: Sequence[ImagePair]) -> None:
        inputs = [torch.stack(images) for images in zip(*(p.read() for p in group), strict=True)]
        shown = [[_small(image) for image in images] for images in zip(*inputs, strict=True)]
        findings: list[dict[str, Tensor]] = []
        start = time.perf_counter()

        def call(image: Tensor, what: JointDegradation, **chroma: Any) -> Mapping[str, Tensor]:
            options = {"steps": self.steps, "agreement": False if chroma else "chi2", **chroma}
            result: Mapping[str, Tensor] = self.fusion.inferer(image, self.fusion.network, degradation=what, **options)
            if not chroma:
                findings.append({name: result[name].flatten(1).cpu() for name in _FINDINGS})
                if self.sensitive:
                    self.sensitivity[group[0].name] = self._changes(image, what, result)
            return result

        with torch.inference_mode():
            what, told_of, estimates = _with_factor(self.parsed, group[0].factor), self.degradation, None
            if self.unknown and self.degradation is not None:  # of one pair
                grey = torch.stack([_grey(image[0]) for image in inputs])
                what, found_of = estimate(what, grey, self.fusion.inferer.kinds)
                estimates = records_of(found_of)
                told_of = known_specification(self.degradation, found_of) | {"estimates": estimates}
            # the sources are popped: large ones leave room once they are split
            device = self.fusion.device
            results = fuse_visible(call, inputs.pop(0).to(device), inputs.pop().to(device), what)
            fused = {kind: image.cpu() for kind, image in results.items()}
        seconds = time.perf_counter() - start
        (proven,) = findings
        told = [
            _warnings(pair, what, {name: values[i].tolist() for name, values in proven.items()}, told_of)
            for i, pair in enumerate(group)
        ]
        figures: dict[str, dict[str, Any]] = {kind: {} for kind in self.figures}
        for i, pair in enumerate(group):
            if self.look:
                below = fused["source1" if self.look.shows_anatomy else "fused"][i]
                write_image(self.out / _COLOR / f"{pair.name}.png", self.look(below, fused["source2"][i]), bits=8)
            for kind in _KINDS:
                written = _write(self.out / kind, pair, fused[kind][i], self.file_format)
                shown[i].append(_small(written))
                if kind in pair.truths:
                    figures[kind][pair.name] = _fidelity(written, pair.truths[kind])

        for i, pair in enumerate(group):  # nothing fails any more
            self.done.append(pair)
            self.warnings += told[i]
            for text in told[i]:
                _logger.warning("%s", text)
            if len(self.sheet) < _SHEET_ROWS:
                self.sheet.append((pair.name, shown[i][: len(_TITLES)]))
        for kind, each in figures.items():
            self.figures[kind] |= each
        if estimates is not None:
            self.estimates[group[0].name] = estimates
        self.seconds += seconds

    def _changes(self, image: Tensor, what: JointDegradation, result: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what changes of both restored sources of one pair where what was stated is wrong by 20 %."""
        names, call = ("source1", "source2"), self.fusion.inferer

        def sources(found: Mapping[str, Tensor]) -> list[Tensor]:
            return [found[name][:, 0] for name in names]

        def again(other: JointDegradation) -> list[Tensor]:
            return sources(call(image, self.fusion.network, degradation=other, steps=self.steps, balance=0))

        others = (None if other is None else again(other) for other in variants(what))
        (found,) = changes_of(sources(result), others, what)
        return {name: as_record(found[:, :, k]) for k, name in enumerate(names)}

    def record(self, failed: Mapping[str, str]) -> dict[str, Any]:
        """Return what `images.json` holds.

        Args:
            failed: Why pairs could not be fused that never came to it, by name.
        """
        megapixels = sum(math.prod(p.shape) for p in self.done) / 1e6
        return {
            "notice": NOTICE,
            "versions": versions(),
            **defaults_taken(),
            "weights_sha256": sha256(self.fusion.weights),
            "steps": self.steps,
            "settings": self.fusion.inferer.settings,
            "display": self.look and self.look.record([[0.0, 1.0], [0.0, 1.0]]),
            "degradation": stated(self.degradation, self.estimates if self.unknown else None),
            "warnings": self.warnings,
            **({"sensitivity": self.sensitivity} if self.sensitive else {}),
            "images": [p.name for p in self.done],
            "failed": dict(sorted({**failed, **self.failed}.items())),
            "sources": {p.name: p.sources for p in self.done},
            "source2_smaller_by": sorted({p.factor for p in self.done}),
            "speed": {
                "megapixels": megapixels,
                "seconds": self.seconds,
                "megapixels_per_second": megapixels / self.seconds,
            },
            "against_truth": {
                kind: {k: math.fsum(v[k] for v in each.values()) / len(each) for k in ("psnr", "ssim")}
                | {"images": each}
                for kind, each in self.figures.items()
                if each
            },
        }


def _save_sheet(out: Path, run: _Run, record: Mapping[str, Any]) -> None:
    """Write the contact sheet."""
    steps, warnings, factors = record["steps"], record["warnings"], record["source2_smaller_by"]
    notes = [f"Degradation: {degradation_name(record['degradation'])}, {steps} step{'s' * (steps > 1)}"]
    if smaller := [str(f) for f in factors if f > 1]:
        notes.append(f"source 2 smaller by {' or '.join(smaller)}")
    if warnings:
        notes.append(f"{len(warnings)} warnings, see images.json")
    if record["failed"]:
        notes.append(f"{len(record['failed'])} failed, see images.json")
    notes += [f"Source {n[-1]}: {f['psnr']:.1f} dB, SSIM {f['ssim']:.3f}" for n, f in record["against_truth"].items()]
    count = f"{len(run.done)} image{'s' * (len(run.done) > 1)}"
    heading = f"{len(run.sheet)} of {count}" if len(run.sheet) < len(run.done) else count
    save_contact_sheet(out / "contact_sheet.png", run.sheet, _TITLES, title=heading, notes=notes)


def _require_place(out: Path, inputs: Iterable[Path]) -> None:
    """Raise unless results can be written, apart from the inputs."""
    for kind in _KINDS:
        require_writable(out / kind)
    given = {folder.resolve() for folder in inputs}
    if spoilt := [kind for kind in (*_KINDS, _COLOR) if (out / kind).resolve() in given]:
        raise BundleError(f"out must not hold the inputs, got them in {spoilt[0]!r}; choose another folder.")
    if out.resolve() in given:
        raise BundleError("out must be another folder than those of the inputs, got one of them; choose another.")


def require_all(record: Mapping[str, Any]) -> None:
    """Raise if a pair could not be fused, for the `run` section of a bundle: the others are done by then.

    Raises:
        BundleError: One could not; the message names the first.
    """
    if record["failed"]:
        name, message = next(iter(record["failed"].items()))
        raise BundleError(f"{len(record['failed'])} of the pairs failed, the others are done; {name}: {message}")


def _warnings(
    pair: ImagePair,
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
    """Remove the records of earlier runs and the images that they name: they would be taken for those of this run."""
    names: set[str] = set()
    for path in (out / _RECORD, out / _UNFINISHED):
        with suppress(OSError, ValueError, TypeError, AttributeError):
            record = json.loads(path.read_text(encoding="utf-8"))
            names |= {n for key in ("images", "sources") for n in record.get(key, ()) if isinstance(n, str)}
        path.unlink(missing_ok=True)
    _remove(out, names)


def _remove(out: Path, names: Iterable[str]) -> None:
    """Remove what was written of pairs."""
    for name in (n for n in names if Path(n).name == n):
        for kind in (*_KINDS, _COLOR):
            for suffix in _SUFFIXES:
                (out / kind / f"{name}{suffix}").unlink(missing_ok=True)


def _with_factor(given: JointDegradation, factor: int) -> JointDegradation:
    """Return the degradation of images whose second source is smaller by `factor`."""
    source2 = given.source2
    stated = math.prod(source2.operator.in_spatial((1,)))
    if factor == 1 or stated == factor:
        return given
    if stated != 1:
        raise GeometryError(f"source2 must be smaller by the {stated} of the degradation, got {factor}; change either.")
    return JointDegradation(given.source1, changed(source2, steps=(*source2.steps, Downsample(factor))))


def _fidelity(written: Tensor, path: Path) -> dict[str, float]:
    """Return PSNR and SSIM against the clean image, over all channels of a colour image."""
    truth = _read_like(path, written)
    if written.ndim == 2:
        return fidelity(written[None], truth[None], 1.0)
    return fidelity(written.movedim(-1, 0), truth.movedim(-1, 0), 1.0)


def _write(folder: Path, pair: ImagePair, image: Tensor, file_format: str | None) -> Tensor:
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
