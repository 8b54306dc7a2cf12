"""Benchmark: time per slice beside two plain counterparts in the same run, and a whole brain through the bundle.

    python tests/bench.py [--repeats 5] [--json FILE]
    python tests/bench.py --against FOLDER [--equal] [--json FILE]

A benchmark, not a test: it asserts nothing and its figures belong to the machine that it prints. Each is the best of
several runs, all of them taken in turn, so that a slow moment of the machine hits every row alike.

With `--against` it is this version beside another one, a checkout in FOLDER, such as `git archive VERSION | tar x -C
FOLDER` makes. Both run in turn, on the same images, in processes of their own that load nothing else of the project.
The ratio is the median of seven rounds, its 95 % interval that of the mean of their logarithms by Student's t. Time is
that of the processor, so that what else the machine does counts little. Each version runs as it is shipped; with
`--equal` this one runs the network of 0.1, with its weights and the rule `predicted`, and is not asked how far the data
are explained, as versions before 0.2 do: what is left between the two is code.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medfuse.bundles import bundle_dir, load_spec
from medfuse.pipeline import load_fusion

SIZE = 256
ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("none", "noise", "blur", "composite")
ROUNDS = 7
WEIGHTS = ROOT / "tests" / "data" / "weights.pt"  # of 0.1
CALLS = {1: 5, 8: 1}
"""How often each version is called in a round, for each size of a batch: about as long for both."""

WORKER = """
import sys, time, torch, medfuse
from medfuse.pipeline import load_fusion
if sys.argv[1:]:
    from dataclasses import replace
    from medfuse.diffusion import FusionModel, FusionUNet
    from medfuse.pipeline.bundle import restore_network
    network = FusionModel(FusionUNet()).to(memory_format=torch.channels_last)
    fusion = replace(load_fusion(device="cpu", fusion_rule="predicted"), network=restore_network(network, sys.argv[1]))
    fusion.inferer.agreement = False
else:
    fusion = load_fusion(device="cpu")
images = torch.rand(8, 2, 256, 256, generator=torch.Generator().manual_seed(0))
print(medfuse.__file__, flush=True)
for line in sys.stdin:
    preset, batch = line.split()
    with torch.inference_mode():
        start = time.process_time()
        fusion(images[: int(batch)], degradation=preset, steps=3)
        print(time.process_time() - start, flush=True)
"""
BRAIN = (182, 218, 182)


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


def three_steps(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Run a network three times."""
    return [network(x) for _ in range(3)]


def slices(repeats: int) -> list[dict[str, object]]:
    """Time every contender on batches of 1 and 8."""
    fusion = load_fusion(device="cpu")
    unet, cnn = PlainUNet().eval(), plain_cnn().eval()
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), counter:
        unet(torch.zeros(1, 3, SIZE, SIZE))
    size = sum(p.numel() for p in unet.parameters()) / 1e6
    print(f"plain U-Net: {size:.1f} M parameters, {counter.get_total_flops() / 2e9:.0f} G multiply-adds per step")
    print(f"medfuse: {sum(p.numel() for p in fusion.network.parameters()) / 1e6:.2f} M parameters\n")
    rows = []
    for batch in (1, 8):
        pair, triple = torch.rand(batch, 2, SIZE, SIZE), torch.rand(batch, 3, SIZE, SIZE)
        contenders: dict[str, Callable[[], object]] = {}
        for preset in PRESETS:
            for steps in (1, 3):
                name = f"medfuse, {preset}, T = {steps}"
                contenders[name] = partial(fusion, pair, degradation=preset, steps=steps)
        contenders["plain U-Net, three steps, float32"] = partial(three_steps, unet, triple)
        contenders["plain CNN of 7 layers, float32"] = partial(cnn, pair)
        best = dict.fromkeys(contenders, float("inf"))
        with torch.inference_mode():
            for _ in range(repeats):
                for name, call in contenders.items():
                    start = time.perf_counter()
                    call()
                    best[name] = min(best[name], (time.perf_counter() - start) / batch * 1e3)
        u, c = best["plain U-Net, three steps, float32"], best["plain CNN of 7 layers, float32"]
        print(f"batch {batch:<2}{'':36}ms/slice   against U-Net   against CNN")
        for name, ms in best.items():
            print(f"  {name:<36}{ms:10.1f}{u / ms:15.1f}{c / ms:14.2f}")
            rows.append({"batch": batch, "name": name, "ms_per_slice": ms, "times_unet": u / ms, "times_cnn": c / ms})
        print()
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

    def seconds(self, preset: str, batch: int) -> float:
        """Fuse a batch in three steps; return the time of the processor."""
        self._process.stdin.write(f"{preset} {batch}\n")
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


def against(folder: Path, equal: bool) -> list[dict[str, object]]:
    """Time this version beside another one, in turn."""
    here, there = Version(ROOT, *[WEIGHTS] * equal), Version(folder)
    rows = []
    print(f"{'three steps, 256 x 256':<26}batch  this, s  that, s   ratio   95 % interval   load")
    for batch, calls in CALLS.items():
        for preset in PRESETS:
            here.seconds(preset, batch), there.seconds(preset, batch)  # what is made once is made
            ratios, times = [], []
            for k in range(ROUNDS):
                pair = {here: 0.0, there: 0.0}
                for i in range(calls):
                    for version in (here, there) if (k + i) % 2 == 0 else (there, here):
                        pair[version] += version.seconds(preset, batch) / calls
                times.append(tuple(pair.values()))
                ratios.append(pair[here] / pair[there])
            logs = [math.log(ratio) for ratio in ratios]
            half = student.ppf(0.975, ROUNDS - 1) * statistics.stdev(logs) / math.sqrt(ROUNDS)
            low, high = (math.exp(statistics.mean(logs) + sign * half) for sign in (-1, 1))
            this, that = (statistics.median(column) for column in zip(*times, strict=True))
            ratio, load = statistics.median(ratios), os.getloadavg()[0]
            print(
                f"{preset:<26}{batch:>5}{this:9.3f}{that:9.3f}{ratio:8.3f}   {low:.3f} to {high:.3f}{load:7.1f}",
                flush=True,
            )
            rows.append({"preset": preset, "batch": batch, "ratio": ratio, "interval": (low, high), "load": load})
    here.close()
    there.close()
    return rows


def brain() -> dict[str, float]:
    """Time a whole misaligned brain through the bundle's own command, and its peak memory."""
    source = bundle_dir("pet_mri_fusion") / "demo" / "brain_phantom"
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder) / "data" / "brain"
        case.mkdir(parents=True)
        for name, shape in (("mri", BRAIN), ("pet", None)):
            image = nib.load(source / f"{name}.nii.gz")
            if shape is not None:
                zoom = np.array(shape) / image.shape
                index = np.ix_(*[(np.arange(n) / z).astype(int) for n, z in zip(shape, zoom, strict=True)])
                affine = image.affine @ np.diag([*(1 / zoom), 1.0])
                image = nib.Nifti1Image(np.asarray(image.dataobj, np.float32)[index], affine)
            nib.save(image, case / f"{name}.nii.gz")
        script = (
            "import resource, runpy, sys; sys.argv = ['monai.bundle', *sys.argv[1:]];\n"
            "try: runpy.run_module('monai.bundle', run_name='__main__')\n"
            "finally: print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        root = bundle_dir("pet_mri_fusion")
        command = [sys.executable, "-c", script, "run", "inference", "--config_file", f"{root}/configs/inference.json"]
        command += ["--bundle_root", str(root), "--dataset_dir", f"{folder}/data", "--output_dir", f"{folder}/out"]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
    peak = float(done.stdout.rsplit("PEAK", 1)[1]) / 2**20
    print(f"whole brain {BRAIN}, registration and outputs included: {seconds:.1f} s, peak memory {peak:.2f} GiB")
    return {"seconds": seconds, "peak_gib": peak}


def main() -> None:
    """Run everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="a checkout of another version")
    parser.add_argument("--equal", action="store_true", help="with the network and the rule of 0.1")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    load_spec("none")
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, bfloat16 {bf16}"
    print(f"machine: {machine}\n")
    if options.equal and not options.against:
        parser.error("--equal must go with --against; name a checkout of another version.")
    if options.against:
        record = {"machine": machine, "equal": options.equal, "against": against(options.against, options.equal)}
    else:
        record = {"machine": machine, "slices": slices(options.repeats), "brain": brain()}
    if options.json:
        options.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
