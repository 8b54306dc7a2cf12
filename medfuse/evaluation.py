"""How good fused images are, whatever made them: all metrics beside three floors, as JSON, CSV and a picture.

Behind `medfuse evaluate` and the bundles' `evaluating`. Scored is what was written, 8 and 16 bits exactly as they are
stored.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from torch import Tensor

from medfuse.about import NOTICE
from medfuse.devices import pick_device
from medfuse.errors import BundleError, GeometryError, MedfuseError, OthersResultsError
from medfuse.fusion.color import rgb_to_ycbcr, ycbcr_to_rgb
from medfuse.io import (
    Image2D,
    atomic_file,
    check_range,
    match_folders,
    read_image,
    require_writable,
    size_factor,
    write_image,
    write_json,
)
from medfuse.metrics import METRICS, Images, available, floors, measure
from medfuse.metrics.summary import LEVEL, SEED, summarise
from medfuse.physics import parse_degradation
from medfuse.progress import bar
from medfuse.report import save_contact_sheet

METHODS = ("fused", "copy", "average", "maximum")
"""What is judged: the images given, and the floors, made of the same clean sources."""

_PACKAGES = ("medfuse", "monai", "torch", "numpy")
_FULL = {8: 255.0, 16: 65535.0}
_RECORD = "evaluation.json"
_SMALLEST = 17  # pixels that the coarsest window of VIF needs
_OF_SOURCES = ("d1_", "d2_", "r1_", "r2_", "gain_")  # metrics of the restoration: the same for any fusion
_NEEDS_GRID = ("leak_", "deg_")  # metrics that need degraded sources as they are, not interpolated
_SHEET_ROWS, _SORT_BY = 6, "SSIM_min"

Folder = str | Path | None


def evaluate_folders(
    source1: str | Path,
    source2: str | Path,
    fused: str | Path,
    out: str | Path,
    *,
    restored: tuple[Folder, Folder] = (None, None),
    degraded: tuple[Folder, Folder] = (None, None),
    subjects: str | Path | None = None,
    device: str | torch.device = "auto",
    resamples: int = 2000,
    replace: bool = False,
) -> dict[str, Any]:
    """Judge a folder of fused images against folders of their clean sources, matched by name.

    Everything is read and checked before the first image is judged; where one cannot be, none is, as means of other
    images are other figures. `evaluation.png`, `evaluation.csv` and, last,
    `evaluation.json` are written to `out`. The floors are judged beside: a copy of source 1, the average and the
    maximum of both clean sources. Colour is judged where source 2 and the fused image have one; all else is judged on
    the luma, and a floor in colour has the chroma of source 2.

    Args:
        source1: Clean source 1 (MRI, visible): PNG, TIFF, npy, JPEG, BMP; floats in 0..1.
        source2: Clean source 2 (PET, infrared), of the same size.
        fused: Fused images, of the same size; what lies beyond 0..1 is clipped.
        out: Where to write.
        restored: Folders of the restored sources, of the same size, or None.
        degraded: Folders of the sources that the method was given, or None. One that is smaller by 2, 3 or 4 is brought
            to size by bicubic interpolation for its PSNR; it has no leakage.
        subjects: Table (tab or comma) with the columns `name` and `subject`: intervals then resample subjects.
        device: Where to compute, see `medfuse.devices.pick_device`.
        resamples: Number of resamples of the bootstrap.
        replace: Replace the evaluation of other clean sources in `out`, too; else it is refused.

    Returns:
        The record that `evaluation.json` holds.

    Raises:
        MedfuseError: Any input that cannot be used, before anything is written.
    """
    folders = {"source1": source1, "source2": source2, "fused": fused}
    pairs = (("restored", restored), ("degraded", degraded))
    optional = {f"{kind}{i}": f for kind, pair in pairs for i, f in enumerate(pair, start=1) if f is not None}
    cases = _match(folders | optional)
    out, device = Path(out), pick_device(device)
    if any(out.resolve() == Path(f).resolve() for f in (*folders.values(), *optional.values())):
        raise BundleError("out must be a folder of its own, got one of the inputs; choose another.")
    require_writable(out)
    owners = None if subjects is None else _read_subjects(Path(subjects), [c.name for c in cases])
    _require_sound(cases)
    sources = {case.name: [_sha256(case.paths[key]) for key in ("source1", "source2")] for case in cases}
    if not replace:
        _require_own(out / _RECORD, sources)

    rows: dict[str, dict[str, dict[str, float]]] = {}
    for case in bar(cases, desc="evaluating", unit="image", disable=len(cases) < 20):
        rows[case.name] = _judge(case, device)
    names = [n for n in METRICS if any(n in row[METHODS[0]] for row in rows.values())]
    summary = {
        method: summarise([rows[c.name][method] for c in cases], names, owners or [c.name for c in cases], resamples)
        for method in METHODS
    }
    record = {
        "notice": NOTICE,
        "versions": {name: version(name) for name in _PACKAGES},
        "images": len(cases),
        "subjects": None if owners is None else len(set(owners)),
        "given": sorted(folders | optional),
        "sources": sources,
        "intervals": {
            "level": LEVEL,
            "method": "percentile bootstrap of the mean",
            "unit": "image" if owners is None else "subject",
            "resamples": resamples,
            "seed": SEED,
        },
        "metrics": {name: _describe(name) for name in names},
        "summary": summary,
        "per_image": [
            {"name": c.name, "subject": owners[i] if owners else None}
            | {method: {k: _finite(v) for k, v in rows[c.name][method].items()} for method in METHODS}
            for i, c in enumerate(cases)
        ],
    }
    _draw(out / "evaluation.png", cases, rows, summary)
    _write_csv(out / "evaluation.csv", cases, rows, names, owners)
    write_json(out / _RECORD, record)
    return record


class EvaluationSaver:
    """Judge what a MONAI `SupervisedEvaluator` makes of a dev set, each scenario by itself, with `evaluate_folders`.

    An item of a batch has its `name` and the name of its `scenario`; the network gives a dictionary with `source1`,
    `source2` and `fused`, the label holds both clean sources, **[2, H, W]**, 0..1. All images are rounded to 8 bit, as
    whoever stores them has to. `evaluation.json`, `.csv` and `.png` of a scenario are written to a folder of its name
    when the run is complete.
    """

    def __init__(self, output_dir: str | Path, scenarios: Mapping[str, Mapping[str, Any]]) -> None:
        """Prepare.

        Args:
            output_dir: Where to write.
            scenarios: Specification of the degradations of each scenario, by its name.

        Raises:
            MedfuseError: If the folder cannot be written to, or a specification is none.
        """
        require_writable(output_dir)
        self.output_dir = Path(output_dir)
        self.scenarios = {name: parse_degradation(spec) for name, spec in scenarios.items()}

    def attach(self, engine: Engine) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        engine.add_event_handler(Events.COMPLETED, self._judge)

    def _begin(self, engine: Engine) -> None:
        self._images = tempfile.TemporaryDirectory()
        self._seen: dict[str, None] = {}

    def _keep(self, engine: Engine) -> None:
        state: Any = engine.state  # MONAI's holds more than Ignite's types say
        for item, output in zip(state.batch, state.output, strict=True):
            self._seen[item["scenario"]] = None
            folder = Path(self._images.name) / item["scenario"]
            for i, degradation in enumerate(self.scenarios[item["scenario"]], start=1):
                clean = output["label"][i - 1]
                degraded = degradation.observed(output["image"][None, i - 1 : i])[0, 0]
                kinds = {"source": clean, "degraded": degraded, "restored": output["pred"][f"source{i}"][0]}
                for kind, image in kinds.items():
                    write_image(folder / f"{kind}{i}" / f"{item['name']}.png", image, bits=8)
            write_image(folder / "fused" / f"{item['name']}.png", output["pred"]["fused"][0], bits=8)

    def _judge(self, engine: Engine) -> None:
        with self._images:
            for scenario in self._seen:
                folder = Path(self._images.name) / scenario
                evaluate_folders(
                    folder / "source1",
                    folder / "source2",
                    folder / "fused",
                    self.output_dir / scenario,
                    restored=(folder / "restored1", folder / "restored2"),
                    degraded=(folder / "degraded1", folder / "degraded2"),
                    replace=True,
                )


# --------------------------------------------------------------------------------------------------------------- input
@dataclass(frozen=True)
class _Case:
    """The files of one name."""

    name: str
    paths: Mapping[str, Path]

    def read(self) -> dict[str, np.ndarray]:
        """Return all images, float64 on 0..255, **[H, W]** or **[H, W, 3]**, checked."""
        try:
            stored = {what: read_image(path, color=True) for what, path in self.paths.items()}
            self._check_sizes(stored)
            return {what: _levels(what, image) for what, image in stored.items()}
        except MedfuseError as error:
            raise type(error)(f"{self.name}: {error}") from error

    @staticmethod
    def _check_sizes(images: Mapping[str, Image2D]) -> None:
        size = images["source1"].array.shape[:2]
        if min(size) < _SMALLEST:
            raise GeometryError(f"source1 must have at least {_SMALLEST} x {_SMALLEST} pixels, got {size}; enlarge it.")
        for what, image in images.items():
            if what.startswith("degraded"):
                size_factor(size, image.array.shape[:2], names=("source1", what))
            elif image.array.shape[:2] != size:
                raise GeometryError(f"{what} must be as large as source1, got {image.array.shape[:2]} for {size}.")


def _require_sound(cases: Iterable[_Case]) -> None:
    """Raise unless all images can be judged, by the error of the first, which names the others."""
    faults: dict[str, MedfuseError] = {}
    for case in cases:
        try:
            case.read()
        except MedfuseError as error:
            faults[case.name] = error
    if faults:
        (_, first), *others = faults.items()
        shown = ", ".join(name for name, _ in others[:3]) + (", ..." if len(others) > 3 else "")
        raise type(first)(f"{first} Others: {len(others)} ({shown})." if others else str(first)) from first


def _require_own(path: Path, sources: Mapping[str, Sequence[str]]) -> None:
    """Raise where an evaluation is there of clean sources that are not among these, by the hashes of their content."""
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["sources"]
        own = all(sources.get(name) == hashes for name, hashes in before.items())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        own = False
    if not own:
        raise OthersResultsError(
            "OUT must hold no evaluation of other clean sources, got one; choose another OUT, or replace it with "
            "--replace (in Python: replace)."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _match(folders: Mapping[str, str | Path]) -> list[_Case]:
    """Match folders by name: each must hold an image for every image of the others."""
    matched: dict[str, dict[str, Path]] = {}
    for what, folder in folders.items():
        if what == "source1":
            continue
        for name, path1, path2 in match_folders(folders["source1"], folder, names=("source1", what)):
            matched.setdefault(name, {"source1": path1})[what] = path2
    return [_Case(name, paths) for name, paths in matched.items()]


def _read_subjects(path: Path, names: Sequence[str]) -> list[str]:
    """Return the subject of each image."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"subjects must be a text file, got none at {path.name!r}; check the path.") from error
    header = text.partition("\n")[0]
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in header else ","))
    if not rows or not {"name", "subject"} <= set(rows[0]):
        raise BundleError(f"subjects must have the columns name and subject, got {header!r}; write them in line 1.")
    owner: dict[str, str] = {}
    for row in rows:
        name, subject = row["name"], row["subject"]
        if not subject or owner.setdefault(name, subject) != subject:
            raise BundleError(f"subjects must give each name one subject, got none or two for {name!r}; repair it.")
    missing = [n for n in names if n not in owner]
    if missing:
        raise BundleError(
            f"subjects must hold every image, got none for {len(missing)}: {', '.join(missing[:3])}; add them."
        )
    return [owner[n] for n in names]


def _levels(what: str, image: Image2D) -> np.ndarray:
    """Return an image on 0..255, integers exactly as they were stored."""
    array = image.array.astype(np.float64)
    if image.bits in _FULL:
        return np.rint(array * _FULL[image.bits]) * (255.0 / _FULL[image.bits])
    check_range(what, image)
    return array * 255.0


# ------------------------------------------------------------------------------------------------------------- judging
def _judge(case: _Case, device: str | torch.device) -> dict[str, dict[str, float]]:
    """Return all metrics of one case for each method."""
    images = case.read()
    luma = {what: _luma(array).to(device) for what, array in images.items()}
    size = luma["source1"].shape[2:]
    interpolated = [k for k in luma if luma[k].shape[2:] != size]
    for k in interpolated:
        luma[k] = _enlarge(luma[k], size)
    source1, source2 = luma["source1"], luma["source2"]
    fusions = torch.cat([luma["fused"], *floors(source1, source2).values()])
    judged = Images.of(
        fusions,
        source1,
        source2,
        data_range=255.0,
        degraded=(luma.get("degraded1"), luma.get("degraded2")),
        restored=(luma.get("restored1"), luma.get("restored2")),
        colours=_colours(images, fusions),
    )
    names = [n for n in available(judged) if not (interpolated and n.startswith(_NEEDS_GRID))]
    with torch.inference_mode():
        values = {name: v.cpu().tolist() for name, v in measure(judged, names).items()}
    return {
        method: {n: v[i] for n, v in values.items() if i == 0 or not n.startswith(_OF_SOURCES)}
        for i, method in enumerate(METHODS)
    }


def _luma(array: np.ndarray) -> Tensor:
    """Return grey **[1, 1, H, W]** of grey or colour."""
    grey = array if array.ndim == 2 else rgb_to_ycbcr(array)[..., 0]
    return torch.from_numpy(np.ascontiguousarray(grey))[None, None]


def _colours(images: Mapping[str, np.ndarray], fusions: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return source 2 and all fusions in colour, the floors with the chroma of source 2; or None."""
    reference, image = images["source2"], images["fused"]
    if reference.ndim == 2 or image.ndim == 2:
        return None
    ycbcr = torch.from_numpy(rgb_to_ycbcr(reference)).to(fusions)
    coloured = [
        ycbcr_to_rgb(torch.cat([floor[0, :, :, None], ycbcr[..., 1:]], -1)).clamp(0, 255) for floor in fusions[1:]
    ]
    stacked = torch.stack([torch.from_numpy(image).to(fusions), *coloured])
    return torch.from_numpy(reference).to(fusions).permute(2, 0, 1)[None], stacked.permute(0, 3, 1, 2)


def _enlarge(x: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge **[1, 1, h, w]** by 2, 3 or 4 with the bicubic kernel of a = -1/2, as Pillow does, cropped to `size`."""
    factor = size_factor(size, x.shape[2:])
    x = F.interpolate(x, scale_factor=factor, mode="bicubic", antialias=True, align_corners=False)
    return x[..., : size[0], : size[1]]


# -------------------------------------------------------------------------------------------------------------- output
def _describe(name: str) -> dict[str, Any]:
    metric = METRICS[name]
    return {
        "definition": metric.definition,
        "direction": metric.direction,
        "range": [_finite(v) for v in metric.range],
        "reference": metric.reference,
        "cannot_see": metric.blind,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write_csv(
    path: Path,
    cases: Sequence[_Case],
    rows: Mapping[str, Mapping[str, Mapping[str, float]]],
    names: Sequence[str],
    owners: Sequence[str] | None,
) -> None:
    """Write a line for each image and method; what is not defined stays empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "name", "subject", *names])
    for method in METHODS:
        for i, case in enumerate(cases):
            values = (rows[case.name][method].get(n, math.nan) for n in names)
            owner = owners[i] if owners else ""
            writer.writerow([method, case.name, owner, *("" if _finite(v) is None else repr(v) for v in values)])
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())


def _draw(
    path: Path,
    cases: Sequence[_Case],
    rows: Mapping[str, Mapping[str, Mapping[str, float]]],
    summary: Mapping[str, Mapping[str, Mapping[str, float | int | None]]],
) -> None:
    """Draw some cases, from the worst to the best."""
    ranked = sorted(cases, key=lambda c: rows[c.name][METHODS[0]][_SORT_BY])
    places = np.linspace(0, len(ranked) - 1, min(_SHEET_ROWS, len(ranked))).round().astype(int)
    sheet = []
    for case in (ranked[i] for i in places):
        images = case.read()
        size = images["source1"].shape[:2]
        floor = floors(_luma(images["source1"]), _luma(images["source2"]))
        shown = [_shown(image, size) for what, image in sorted(images.items(), key=lambda i: _column(i[0]))]
        shown += [floor[k][0, 0].numpy() / 255 for k in ("average", "maximum")]
        sheet.append((f"{case.name}\n{_SORT_BY} {rows[case.name][METHODS[0]][_SORT_BY]:.3f}", shown))
    titles = [_column(what)[1] for what in sorted(cases[0].paths, key=_column)] + ["average", "maximum"]
    means = ", ".join(f"{m} {summary[m][_SORT_BY]['mean']:.3f}" for m in METHODS)
    notes = (f"{len(cases)} images, worst first", f"mean {_SORT_BY}: {means}")
    save_contact_sheet(path, sheet, titles, title="Evaluation", notes=notes)


def _column(what: str) -> tuple[int, str]:
    """Return the place and the title of a kind of image in the picture."""
    kinds = ("source", "degraded", "restored", "fused")
    kind = what.rstrip("12")
    return kinds.index(kind), what.replace(kind, f"{kind} ").strip()


def _shown(array: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if array.shape[:2] == size:
        return array / 255
    planes = array[..., None] if array.ndim == 2 else array
    large = [_enlarge(_luma(planes[..., c]), size)[0, 0].numpy() / 255 for c in range(planes.shape[2])]
    return large[0] if array.ndim == 2 else np.stack(large, -1)
