"""What `auto` costs against the truth told, and what it gains over nothing stated, on the pairs of a dev set.

    python tests/results/auto.py --bench BENCH [--only BUNDLE] [--scenarios NAME ...] [--blurs PX ...] [--every N]
        [--first K] [--steps T]

8-bit PNG in and out. Of each scenario and source: dB lost against the truth told (mean, worst pair), least gain over
nothing stated, and of clean pairs how many were changed. Of the noise: its error, median and 10..90 %, in %.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image
from results.images import SCENARIOS, read
from scipy.ndimage import gaussian_filter

from medfuse.bundles import load_spec
from medfuse.estimation import read_noise
from medfuse.pipeline import Fusion, fuse_images, load_fusion

SETS = {"pet_mri_fusion": ("dev", ("mri", "fun")), "ir_vis_fusion": ("irvis_dev", ("vis", "ir"))}
LEVELS = (5, 10, 14, 25)  # of noise, of 255
_UNCHANGED = 45.0  # dB


def blurred(source: Path, target: Path, width: float) -> None:
    """Write an image of 8 bit, blurred."""
    image = np.asarray(Image.open(source), np.float64)
    wide = gaussian_filter(image, [width, width, 0][: image.ndim], truncate=6)
    Image.fromarray(np.uint8(np.round(wide.clip(0, 255)))).save(target)


def scenario(
    fusion: Fusion, root: Path, kinds: tuple[str, str], name: str | float, some: slice, steps: int
) -> dict[str, Any]:
    """Return the PSNR of each pair and source with nothing, the truth and `auto` stated; of a name, or a blur, px."""
    figures: dict[str, Any] = {}
    blur = {"blur": {"sigma_px": name}}
    truth = SCENARIOS[name] if isinstance(name, str) else {"version": 1, "source1": [blur], "source2": [blur]}
    given = root / "deg" / name if isinstance(name, str) else root / "clean"
    with tempfile.TemporaryDirectory() as work:
        folders = [Path(work) / kind for kind in kinds]
        stems = sorted(p.name for p in (given / kinds[0]).glob("*.png"))[some]
        for folder, kind in zip(folders, kinds, strict=True):
            folder.mkdir()
            for stem in stems:
                if isinstance(name, str):
                    (folder / stem).write_bytes((given / kind / stem).read_bytes())
                else:
                    blurred(given / kind / stem, folder / stem, name)
        for told in ("none", truth, "auto"):
            record = fuse_images(
                *folders,
                Path(work) / f"out_{told if isinstance(told, str) else name}",
                bundle=fusion,
                degradation=load_spec(told, fusion.bundle) if isinstance(told, str) else told,
                steps=steps,
                truths=tuple(root / "clean" / kind for kind in kinds),  # type: ignore[arg-type]
            )
            key = "auto" if told == "auto" else "none" if told == "none" and "none" not in figures else "told"
            figures[key] = [
                {n: v["psnr"] for n, v in record["against_truth"][f"source{k}"]["images"].items()} for k in (1, 2)
            ]
            figures.setdefault("told", figures["none"])
    return figures


def lines(name: str | float, kinds: tuple[str, str], figures: dict[str, Any]) -> list[str]:
    """Return a row of the table for each source."""
    rows = []
    for k, kind in enumerate(kinds):
        told, none, auto = (np.array(list(figures[key][k].values())) for key in ("told", "none", "auto"))
        lost, gain = told - auto, auto - none
        changed = int((auto < _UNCHANGED).sum()) if name == "clean" else 0
        rows.append(
            f"| {kind} | {name} | {len(auto)} | {(told - none).mean():.2f} | {lost.mean():.2f} / {lost.max():.2f} "
            f"| {gain.min():.2f} | {f'{changed} below 45 dB' if name == 'clean' else ''} |"
        )
    return rows


def noise_errors(root: Path, kind: str) -> str:
    """Return the error of the level of noise that is added to the clean images of a kind, median and 10..90 %."""
    cells = []
    for level in LEVELS:
        errors = []
        for seed, path in enumerate(sorted((root / "clean" / kind).glob("*.png"))):
            image = read(path)[0, -2 if read(path).shape[1] == 3 else 0].numpy()
            noisy = image + level / 255 * np.random.default_rng(seed).standard_normal(image.shape)
            errors.append(read_noise(np.round(noisy.clip(0, 1) * 255)[:512, :512] / 255).level * 255 / level - 1)
        low, middle, high = 100 * np.nanquantile(errors, (0.1, 0.5, 0.9))
        cells.append(f"{middle:.0f} ({low:.0f}..{high:.0f})")
    return f"| {kind} | " + " | ".join(cells) + " |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True)
    parser.add_argument("--only", choices=SETS)
    parser.add_argument("--scenarios", nargs="*", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--blurs", type=float, nargs="+", default=[], help="px, of which both clean images are blurred")
    parser.add_argument("--no-levels", action="store_true", help="leave out the errors of the level of noise")
    parser.add_argument("--every", type=int, default=1, help="every N-th pair (default: all)")
    parser.add_argument("--first", type=int, default=0, help="of them, the first (default: 0)")
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()
    print("| source | noise error, %, at " + " | ".join(f"{level}/255" for level in LEVELS) + " |", flush=True)
    for bundle in [] if options.no_levels else [options.only] if options.only else SETS:
        folder, kinds = SETS[bundle]
        for kind in kinds:
            print(noise_errors(options.bench / folder, kind), flush=True)
    print("| source | scenario | pairs | truth over none, dB | lost, mean / worst, dB | least gain over none, dB | |")
    for bundle in [options.only] if options.only else SETS:
        folder, kinds = SETS[bundle]
        fusion = load_fusion(bundle, device="cpu")
        some = slice(options.first, None, options.every)
        for name in [*options.scenarios, *options.blurs]:
            found = scenario(fusion, options.bench / folder, kinds, name, some, options.steps)
            print("\n".join(lines(name, kinds, found)), flush=True)


if __name__ == "__main__":
    main()
