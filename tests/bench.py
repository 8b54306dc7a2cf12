"""Benchmark: time per slice beside plain counterparts and the floor in the same run, and a whole brain.

    python tests/bench.py [--rounds 7] [--only slices|brain] [--json FILE] [--append]
    python tests/bench.py --against FOLDER [--equal] [--rounds 7] [--only slices|large|brain] [--json FILE] [--append]

A benchmark, not a test: it asserts nothing and its figures belong to the machine that it prints. All that is compared
runs in turn, so that a slow moment of the machine hits every row alike; a ratio is the median of those of the rounds.
With `--append` the ratios go into docs/reference/speed.json, with machine and versions, and the picture of all of them
is drawn anew.

The floor is what no program with this network and these operations can beat here: the multiplications and additions of
the network over the most of them a second that a convolution or a product of matrices was measured to do.

With `--against` it is this version beside another one, a checkout in FOLDER, such as `git archive VERSION | tar x -C
FOLDER` makes. Both run in turn, on the same images, in processes of their own that load nothing else of the project.
The ratio is the median of the rounds, its 95 % interval that of the mean of their logarithms by Student's t. Time is
that of the processor, so that what else the machine does counts little; of whole brains, which use all cores, it is
that by the clock, so the machine must be free. Each version runs as it is shipped, with its own number of steps; with
`--equal` both take three, or one, and this one runs the network of 0.1, with its weights and the rule `predicted`,
filters no patches, and is not asked how far the data are explained, as versions before 0.2 do: what is left between the
two is code.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medfuse.about import __version__
from medfuse.bundles import bundle_dir, load_spec
from medfuse.pipeline import load_fusion

SIZE = 256
ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("none", "noise", "blur", "composite")
ROUNDS = 7
WEIGHTS = ROOT / "tests" / "data" / "weights.pt"  # of 0.1
CALLS = {1: 5}
"""How often each version is called in a round, for a size of a batch where it is not once: about as long for all."""
HISTORY = ROOT / "docs" / "reference" / "speed.json"

WORKER = """
import sys, time, torch, medfuse
from medfuse.pipeline import load_fusion
if sys.argv[1:]:
    from dataclasses import replace
    from medfuse.diffusion import FusionModel, FusionUNet
    from medfuse.pipeline.bundle import restore_network
    network = FusionModel(FusionUNet()).to(memory_format=torch.channels_last)
    fusion = replace(load_fusion(device="cpu", fusion_rule="predicted"), network=restore_network(network, sys.argv[1]))
    fusion.inferer.agreement, fusion.inferer.told = False, replace(fusion.inferer.told, patches=0)
else:
    fusion = load_fusion(device="cpu")
print(medfuse.__file__, flush=True)
for line in sys.stdin:
    preset, batch, size, steps = line.split()
    shape = int(batch), 2, int(size), int(size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        start = time.process_time()
        fusion(images, degradation=preset, steps=int(steps) or None)
        print(time.process_time() - start, flush=True)
"""
BRAIN = (182, 218, 182)
COMMAND = """
import re, resource, sys
from medfuse.cli import main
code = main(sys.argv[1:])
used, beside = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
own = int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])  # ru_maxrss: the bench's
print("USED", sum(one.ru_utime + one.ru_stime for one in (used, beside)), max(own, beside.ru_maxrss))
sys.exit(code)
"""


class PlainBlock(nn.Module):
    """Residual block of group normalization, SiLU and two 3 x 3 convolutions."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, a), nn.SiLU(), nn.Conv2d(a, b, 3, padding=1),
            nn.GroupNorm(8, b), nn.SiLU(), nn.Conv2d(b, b, 3, padding=1),
        )  # fmt: skip
        self.skip = nn.Conv2d(a, b, 1) if a != b else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


class PlainUNet(nn.Module):
    """U-Net of the paper's cost: 64 base channels, multipliers 1, 2, 4, 8, two blocks a level, two decoders.

    Without the paper's middle blocks and embeddings: fewer parameters (21.0 for 31.8 million), as many multiply-adds.
    """

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256, 512)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.Sequential(PlainBlock(widths[max(i - 1, 0)], w), PlainBlock(w, w)) for i, w in enumerate(widths)
        )
        self.decoders = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(PlainBlock(widths[i + 1] + w, w), PlainBlock(w, w)) for i, w in enumerate(widths[:-1])
            )
            for _ in range(2)
        )
        self.heads = nn.ModuleList(nn.Conv2d(widths[0], n, 3, padding=1) for n in (3, 1))

    def forward(self, x: Tensor) -> Tensor:
        h, skips = self.stem(x), []
        for i, level in enumerate(self.encoder):
            h = level(h if i == 0 else nn.functional.avg_pool2d(h, 2))
            skips.append(h)
        outputs = []
        for decoder, head in zip(self.decoders, self.heads, strict=True):
            d = skips[-1]
            for i in range(len(decoder) - 1, -1, -1):
                d = decoder[i](torch.cat([nn.functional.interpolate(d, scale_factor=2.0), skips[i]], 1))
            outputs.append(head(d))
        return torch.cat(outputs, 1)


def plain_cnn() -> nn.Module:
    """Seven 3 x 3 convolutions of 64 channels at full resolution."""
    layers: list[nn.Module] = [nn.Conv2d(2, 64, 3, padding=1), nn.ReLU()]
    for _ in range(5):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, 1, 3, padding=1))


def ffdnet() -> nn.Module:
    """FFDNet's layers for one grey image: 15 convolutions of 64 channels at half resolution, 485 k parameters."""
    layers: list[nn.Module] = [nn.Conv2d(5, 64, 3, padding=1), nn.ReLU()]
    for _ in range(13):
        layers += [nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(64, 4, 3, padding=1), nn.PixelShuffle(2))


def denoised_and_averaged(networks: Sequence[nn.Module], pair: Tensor) -> Tensor:
    """Denoise each source by a network of its own, with a map of the noise beside it, and average."""
    total = torch.zeros(())
    for i, network in enumerate(networks):
        folded = nn.functional.pixel_unshuffle(pair[:, i : i + 1], 2)
        level = torch.full_like(folded[:, :1], 0.05)
        total = total + 0.5 * network(torch.cat([folded, level], 1))
    return total


def three_steps(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Run a network three times."""
    return [network(x) for _ in range(3)]


def seconds(call: Callable[[], object]) -> float:
    """Return the time of the processor that a call takes."""
    start = time.process_time()
    call()
    return time.process_time() - start


def peak_operations(dtype: torch.dtype) -> float:
    """Return the most multiplications and additions a second, of the processor's time, that were measured."""
    rates = []
    conv = nn.Conv2d(128, 128, 3, padding=1).to(dtype=dtype, memory_format=torch.channels_last)
    image = torch.rand(1, 128, 128, 128).to(dtype=dtype, memory_format=torch.channels_last)
    matrix = torch.rand(1024, 1024).to(dtype)
    for _ in range(4):
        rates.append(2 * 1024**3 / seconds(lambda: matrix @ matrix))
        rates.append(2 * 9 * 128 * 128 * image[0, 0].numel() / seconds(lambda: conv(image)))
    return max(rates)


def operations(network: nn.Module, size: int) -> float:
    """Return the multiplications and additions of the network for one image."""
    counter = FlopCounterMode(display=False)
    condition = torch.zeros(1, 25)
    with counter:
        network(torch.zeros(1, 12, size, size), condition)
    return float(counter.get_total_flops())


def slices(rounds: int) -> list[dict[str, object]]:
    """Time this version beside every counterpart on batches of 1 and 8, and tell how far it is from the floor."""
    fusion = load_fusion(device="cpu")
    unet, cnn, two = PlainUNet().eval(), plain_cnn().eval(), [ffdnet().eval() for _ in range(2)]
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    with torch.inference_mode():
        floor = operations(fusion.network, SIZE) / peak_operations(torch.bfloat16 if bf16 else torch.float32) * 1e3
    print(f"medfuse: {sum(p.numel() for p in fusion.network.parameters()) / 1e6:.2f} M parameters")
    print(f"floor of a step at {SIZE} x {SIZE}: {floor:.1f} ms/slice\n")
    rows: list[dict[str, object]] = []
    for batch in (1, 8):
        pair, triple = torch.rand(batch, 2, SIZE, SIZE), torch.rand(batch, 3, SIZE, SIZE)
        ours = {preset: partial(fusion, pair, degradation=preset) for preset in PRESETS}
        others: dict[str, Callable[[], object]] = {
            "FFDNet's layers, both sources averaged": partial(denoised_and_averaged, two, pair),
            "plain CNN of 7 layers": partial(cnn, pair),
            "plain U-Net, three steps": partial(three_steps, unet, triple),
        }
        times: dict[str, list[float]] = {name: [] for name in (*ours, *others)}
        with torch.inference_mode():
            for name, call in (ours | others).items():  # what is made once is made
                if name in ours:
                    call()
            for _ in range(rounds):
                for name, call in (ours | others).items():
                    times[name].append(seconds(call) / batch * 1e3)
        print(f"batch {batch}, float32 counterparts{'':18}ms/slice   " + "   ".join(ours))
        for name in times:
            print(f"  {name:<46}{statistics.median(times[name]):8.1f}", end="")
            for preset in ours if name in others else ():
                ratio = statistics.median(b / a for a, b in zip(times[preset], times[name], strict=True))
                print(f"{ratio:8.2f}", end="")
                rows.append({"name": f"{name}, {preset}, batch {batch}", "ratio": round(ratio, 3), "rounds": rounds})
            print()
        for preset in ours:
            ratio = statistics.median(times[preset]) / floor
            rows.append(
                {"name": f"times the floor, {preset}, batch {batch}", "ratio": round(ratio, 3), "rounds": rounds}
            )
            print(f"  {preset}: {ratio:.2f} times the floor")
    return rows


class Version:
    """A checkout in a process of its own, which runs and times what it is told."""

    def __init__(self, folder: Path, *weights: Path) -> None:
        environment = os.environ | {"PYTHONPATH": str(folder)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, weights)], cwd=folder, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        package = Path(self._answer()).resolve()
        if folder.resolve() not in package.parents:
            raise SystemExit(f"the version of {folder} must be in medfuse/ there, got {package}; give a checkout.")

    def seconds(self, preset: str, batch: int, size: int, steps: int) -> float:
        """Fuse a batch; return the time of the processor. 0 steps: the version's own number."""
        self._process.stdin.write(f"{preset} {batch} {size} {steps}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("the process of a version ended before it answered; its error is above.")
        return line.strip()


def compared(folder: Path, rounds: int, *, equal: bool, large: bool) -> list[dict[str, object]]:
    """Time this version beside another one, in turn."""
    if large:
        asked = [("composite", 1, 1024, 0), ("composite", 1, 1536, 0)]
    else:
        asked = [(preset, batch, SIZE, 3 if equal else 0) for batch in (1, 8) for preset in PRESETS]
        asked += [(preset, 1, SIZE, 1) for preset in PRESETS]
    here, there = Version(ROOT, *[WEIGHTS] * equal), Version(folder)
    rows = []
    print(f"{'':<36}this, s  that, s  that/this   95 % interval   load")
    for preset, batch, size, steps in asked:
        calls = CALLS.get(batch, 1) if size == SIZE else 1
        for version in (here, there) if size == SIZE else ():
            version.seconds(preset, batch, size, steps)  # what is made once is made
        ratios, times = [], []
        for k in range(rounds):
            pair = {here: 0.0, there: 0.0}
            for i in range(calls):
                for version in (here, there) if (k + i) % 2 == 0 else (there, here):
                    pair[version] += version.seconds(preset, batch, size, steps) / calls
            times.append(tuple(pair.values()))
            ratios.append(pair[there] / pair[here])
        ratio, (low, high) = statistics.median(ratios), interval(ratios)
        this, that = (statistics.median(column) for column in zip(*times, strict=True))
        name = f"{preset}, {size} x {size}, batch {batch}" + (f", T = {steps}" if steps else "")
        load = os.getloadavg()[0]
        print(f"{name:<36}{this:7.3f}{that:9.3f}{ratio:11.3f}   {low:.3f} to {high:.3f}{load:7.1f}", flush=True)
        rows.append(
            {"name": name, "ratio": round(ratio, 3), "interval": [round(low, 3), round(high, 3)], "rounds": rounds}
        )
    here.close()
    there.close()
    return rows


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of logarithms; of one ratio, no more than itself is known."""
    if len(ratios) < 2:
        return ratios[0], ratios[0]
    logs = [math.log(ratio) for ratio in ratios]
    half = student.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return math.exp(statistics.mean(logs) - half), math.exp(statistics.mean(logs) + half)


def brain_sources(place: Path) -> dict[str, Path]:
    """Write the phantom's MRI on a grid of 1 mm, and its misaligned PET; return both paths."""
    source, paths = bundle_dir("pet_mri_fusion") / "demo" / "brain_phantom", {}
    for name, shape in (("mri", BRAIN), ("pet", None)):
        image = nib.load(source / f"{name}.nii.gz")
        if shape is not None:
            zoom = np.array(shape) / image.shape
            index = np.ix_(*[(np.arange(n) / z).astype(int) for n, z in zip(shape, zoom, strict=True)])
            affine = image.affine @ np.diag([*(1 / zoom), 1.0])
            image = nib.Nifti1Image(np.asarray(image.dataobj, np.float32)[index], affine)
        paths[name] = place / f"{name}.nii.gz"
        nib.save(image, paths[name])
    return paths


def command(folder: Path, words: Sequence[str | Path]) -> tuple[float, float, float]:
    """Run `medfuse` of a checkout with as many threads as there are; return s by the clock, of the processor, GiB."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}
    start = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, words)], cwd=folder, env=environment, text=True, check=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    ).stdout.rsplit("USED", 1)[1].split()  # fmt: skip
    return time.monotonic() - start, float(told[0]), float(told[1]) / 2**20


def brain(folders: Sequence[Path], rounds: int) -> list[dict[str, object]]:
    """Fuse a whole misaligned brain, and eight by `batch`, by each checkout in turn; by the clock, with all outputs.

    Without volumetric physics, which versions before 0.2 have not; this version alone runs it, as it does by default.
    """
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as place:
        paths = brain_sources(Path(place))
        cohort = Path(place) / "cohort"
        for k in range(8):
            (cohort / f"case{k}").mkdir(parents=True)
            for name, path in paths.items():
                os.link(path, cohort / f"case{k}" / f"{name}.nii.gz")
        one = ["fuse", "--mri", paths["mri"], "--pet", paths["pet"], "--out"]
        asked: list[tuple[str, list[str | Path], list[str], Sequence[Path], int]] = [
            ("whole brain 182 x 218 x 182, all outputs", one, ["--degradation", "none"], folders, rounds),
            ("the same, PET on its own grid, auto", one, [], folders[:1], 1),
            ("eight brains by batch", ["batch", cohort], ["participant", "--degradation", "none"], folders, 1),
        ]
        for name, words, more, where, times in asked:
            taken: list[list[tuple[float, float, float]]] = []
            for _ in range(times):
                taken.append([])
                for k, folder in enumerate(where):
                    out = Path(place) / "out" / str(k)
                    taken[-1].append(command(folder, [*words, out, *more]))
                    shutil.rmtree(out)
            clock, used, peak = (statistics.median(run[0][i] for run in taken) for i in range(3))
            row = {"name": name, "rounds": times, "seconds": round(clock, 1), "peak_gib": round(peak, 2)}
            print(f"{name}: {clock:.1f} s by the clock, {used:.1f} s of the processor, peak {peak:.2f} GiB", end="")
            if len(where) > 1:
                ratios = [run[1][0] / run[0][0] for run in taken]
                low, high = interval(ratios)
                that = statistics.median(run[1][0] for run in taken)
                peak = statistics.median(run[1][2] for run in taken)
                row |= {"ratio": round(statistics.median(ratios), 3), "interval": [round(low, 3), round(high, 3)]}
                print(
                    f"; that {that:.1f} s, {peak:.2f} GiB; {row['ratio']:.2f} times ({low:.2f} to {high:.2f})", end=""
                )
            print(f"; load {os.getloadavg()[0]:.1f}", flush=True)
            rows.append(row)
    return rows


def append(record: dict[str, object]) -> None:
    """Put a record at the end of the history, and draw it."""
    known = json.loads(HISTORY.read_text()) if HISTORY.is_file() else []
    HISTORY.write_text(json.dumps([*known, record], indent=1) + "\n")
    subprocess.run([sys.executable, str(HISTORY.with_name("draw_speed.py"))], check=True)


def machine() -> str:
    """Return what the figures hold for: the processor, threads, torch, and whether it multiplies bfloat16."""
    names = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    threads = torch.get_num_threads()
    kind = names[0] if names else platform.machine()
    return f"{kind}, {threads} thread{'s' * (threads > 1)}, torch {torch.__version__}, bfloat16 {bf16}"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout of another version")
    parser.add_argument("--name", default="another version", help="what that version is called in the history")
    parser.add_argument("--equal", action="store_true", help="with the network and the rule of 0.1")
    parser.add_argument("--only", choices=("slices", "large", "brain"), help="a part")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--append", action="store_true", help="add the ratios to the history of the docs")
    options = parser.parse_args()
    load_spec("none")
    print(f"machine: {machine()}\n")
    if options.equal and not options.against:
        parser.error("--equal must go with --against; name a checkout of another version.")
    rows: list[dict[str, object]] = []
    parts = ("slices", "large", "brain") if options.only is None else (options.only,)
    for part in parts:
        if part == "brain":
            rows += brain([ROOT, *([options.against] if options.against else [])], min(options.rounds, 3))
        elif options.against:
            rows += compared(options.against, options.rounds, equal=options.equal, large=part == "large")
        elif part == "slices":
            rows += slices(options.rounds)
    record: dict[str, object] = {
        "date": date.today().isoformat(),
        "version": __version__,
        "against": options.name if options.against else "counterparts",
        "equal": options.equal,
        "machine": machine(),
        "rows": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(record, indent=2))
    if options.append:
        append(record)


if __name__ == "__main__":
    main()
