"""The results page, from the figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from results.ablation import METRICS
from results.images import FUSION, SCENARIOS, STEPS

PEERS = ("IFCNN", "MATR", "SDNet", "U2Fusion", "average", "pyramid")
FLOORS = ("maximum", "copy")
OURS = "medfuse"
_DEFAULT_STEPS = "3"

_INTRODUCTION = """# Results

Every figure on this page was measured by `make results`. It belongs to the weights with the SHA-256 `{weights}...`.

**Protocol.** The dev set has 26 pairs of MRI and SPECT, CT or PET (as scalar uptake) of {subjects} subjects, none of
which was in the training. That is no population, and the weights were chosen by looking at it. Sources are 8-bit PNG,
degraded by an independent simulator; results are written as 8-bit PNG, and what was written is scored against the
clean sources. One set of weights serves all scenarios. Intervals are 95 % bootstrap intervals of the mean that draw
whole subjects; with so few of them they are rough.

**Counterparts.** *Classical* restoration knows the operator: non-local means, Wiener filter, bicubic interpolation.
Each published fusion (IFCNN, MATR, SDNet, U2Fusion, with its authors' weights), the average and a Laplacian pyramid
fuse what the classical restoration gave. *Maximum* and *copy* (of the MRI) are floors: a copy of one source wins many
metrics and is no fusion. [What each metric is, and what it cannot see](../reference/metrics.md).
"""
_PHANTOMS = """## Phantoms

Five phantoms of known truth, 20 draws of the noise each, floats, nothing clipped: MRI blurred by 0.8 px, noise
10/255; PET blurred by 4 px FWHM, 60 counts at full range. A chi-square of 1 says that a restoration explains its data
as well as the truth does; it is corrected for the degrees of freedom that the fit took from them. Large regions are
white and grey matter, CSF and deep nuclei; their interior are the pixels that lie 4 px or more, the width of the PET's
blur, from any border. The CSF is a ribbon of 0.6 beside grey matter of 7, and has hardly such pixels.
"""


_ABLATION = """## Ablation

T = 3; PSNR in dB of MRI and function, then SSIM, VIF and Q_AB/F of the fused image. The first rows switch parts off
in the network as it is shipped. Those marked *trained* went on from its weights for {iterations} iterations without
that part, or on one scenario alone; *trained: as shipped* is what they stand beside. From scratch, differences would
be larger. Measured with the weights `{weights}...` by `python tests/results/ablation.py`.
"""


def render(results: Mapping[str, Any], peers: Mapping[str, Any], ablation: Mapping[str, Any] | None = None) -> str:
    """Return the page as Markdown; the ablation, which takes long, is measured by itself and may be absent."""
    scenarios = results["scenarios"]
    subjects = scenarios["noise"][_DEFAULT_STEPS]["SSIM"]["subjects"]
    parts = [
        _INTRODUCTION.format(weights=results["weights_sha256"][:16], subjects=len(subjects)),
        "## Restoration\n\nPSNR in dB of MRI and function, T = 3. The clean sources come back as they were.\n",
        _restoration(scenarios, peers),
        "![A sarcoma and a phantom, degraded, restored and fused](../images/restoration.png)\n",
        "By subject:\n",
        _subjects(scenarios),
        "## Steps\n\nPSNR in dB of MRI / function, and SSIM of the fused image.\n",
        _steps(scenarios),
        "## Fusion\n\nT = 3. Rank: mean over the eight metrics among medfuse and the methods above the line.\n",
        *(_fusion(name, scenarios[name][_DEFAULT_STEPS], peers[name]) for name in SCENARIOS),
        "## Degradations that are no preset\n\nPSNR in dB; T = 3.\n",
        _pairs(results["unseen"]),
        "## Wrong parameters\n\nWhat medfuse was told is not what happened. PSNR in dB; T = 3.\n",
        _pairs(results["wrong"]),
        _PHANTOMS,
        _table(("figure", "value"), ((k, f"{v:.3g}") for k, v in results["phantoms"].items())),
        *(_ablation(ablation) if ablation else ()),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _restoration(scenarios: Mapping[str, Any], peers: Mapping[str, Any]) -> str:
    rows = []
    for name in ("noise", "blur", "composite"):
        for i, source in ((1, "MRI"), (2, "function")):
            ours = scenarios[name][_DEFAULT_STEPS]
            mean, (low, high) = ours[f"r{i}_PSNR"]["mean"], ours[f"r{i}_PSNR"]["interval"]
            before, classical = ours[f"d{i}_PSNR"]["mean"], peers[name]["classical"][f"r{i}_PSNR"]
            best = max(before, classical)
            shown = f"**{mean:.2f}** ({low:.1f} to {high:.1f})"
            gains = (f"{mean - before:+.2f}", f"{mean - best:+.2f}")
            rows.append((name, source, f"{before:.2f}", f"{classical:.2f}", shown, *gains))
    head = ("scenario", "source", "degraded", "classical", "medfuse", "over degraded", "over the better of both")
    return _table(head, rows)


def _subjects(scenarios: Mapping[str, Any]) -> str:
    names = list(scenarios["noise"][_DEFAULT_STEPS]["r1_PSNR"]["subjects"])
    rows = []
    for name in ("noise", "blur", "composite"):
        for i, source in ((1, "MRI"), (2, "function")):
            ours = scenarios[name][_DEFAULT_STEPS][f"r{i}_PSNR"]["subjects"]
            rows.append((name, source, *(f"{ours[s]:.1f}" for s in names)))
    return _table(("scenario", "source", *names), rows)


def _steps(scenarios: Mapping[str, Any]) -> str:
    rows = []
    for name in SCENARIOS:
        cells = []
        for t in map(str, STEPS):
            ours = scenarios[name][t]
            cells.append(" / ".join(f"{ours[k]['mean']:.2f}" for k in ("r1_PSNR", "r2_PSNR")))
            cells[-1] += f", {ours['SSIM']['mean']:.3f}"
        rows.append((name, *cells))
    return _table(("scenario", *(f"T = {t}" for t in STEPS)), rows)


def _fusion(name: str, ours: Mapping[str, Any], peers: Mapping[str, Any]) -> str:
    scores: dict[str, dict[str, float | None]] = {OURS: {k: ours[k]["mean"] for k in FUSION}}
    for method in (*PEERS, *FLOORS):
        known = {k: peers[method].get(k) for k in FUSION}
        scores[method] = {**known, "SSIM_min": min(peers[method]["SSIM_1"], peers[method]["SSIM_2"])}
    ranked = [OURS, *PEERS]
    best = {k: max(scores[m][k] or -9.0 for m in ranked) for k in FUSION}
    ranks = {
        m: sum(1 + sum((scores[o][k] or -9.0) > (scores[m][k] or -9.0) for o in ranked) for k in FUSION) for m in ranked
    }
    rows = []
    for method, values in scores.items():
        cells = [
            "-" if v is None else f"**{v:.3f}**" if method in ranked and v == best[k] else f"{v:.3f}"
            for k, v in values.items()
        ]
        rows.append((method, *cells, f"{ranks[method] / len(FUSION):.2f}" if method in ranked else "floor"))
    return f"### {name}\n\n" + _table(("method", *FUSION, "rank"), rows)


def _pairs(experiments: Mapping[str, Any]) -> str:
    rows = []
    for name, ours in experiments.items():
        cells = []
        for i in (1, 2):
            before, after = ours[f"d{i}_PSNR"]["mean"], ours[f"r{i}_PSNR"]["mean"]
            cells += [f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"]
        rows.append((name, *cells))
    return _table(("degradation", "MRI before", "after", "gain", "function before", "after", "gain"), rows)


def _ablation(ablation: Mapping[str, Any]) -> list[str]:
    scenarios = [name for name in SCENARIOS if name != "clean"]
    rows = []
    for variant, figures in ablation["variants"].items():
        cells = []
        for scenario in scenarios:
            mean = figures.get(scenario)
            cells.append(", ".join(f"{mean[k]:.{2 if 'PSNR' in k else 3}f}" for k in METRICS) if mean else "")
        rows.append((variant, *cells))
    text = _ABLATION.format(iterations=ablation["iterations"], weights=ablation["weights_sha256"][:16])
    return [text, _table(("variant", *scenarios), rows)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
