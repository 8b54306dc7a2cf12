"""The results pages, from the figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from results import images, infrared
from results.ablation import METRICS
from results.colours import FIGURES
from results.denoisers import denoisers
from results.goals import goals_table, infrared_visible_goals, pet_mri_goals
from results.images import SCENARIOS
from results.phantoms import METHODS, RIDGES
from results.rules import kept
from results.tables import INFRARED_STEPS, PET_MRI_STEPS, at, fusion, parts, restoration, steps, table

_PEERS = ("IFCNN", "MATR", "SDNet", "U2Fusion", "pyramid")
_PEERS_INFRARED = ("IFCNN", "SDNet", "average", "pyramid")
_SOURCES = {"1": "MRI", "2": "function"}
_SOURCES_INFRARED = {
    "1": "visible, luma",
    "1_R": "visible, R",
    "1_G": "visible, G",
    "1_B": "visible, B",
    "2": "infrared",
}

_INTRODUCTION = """# Results

Every figure of medfuse on this page was measured by `make results`, those of the ablation by
`python tests/results/ablation.py`. They belong to the weights with the SHA-256 `{weights}...`. Those of other methods
were measured once, on the same files and with the same formulas. Research use only.

**Protocol.** The dev set has 26 pairs of MRI and SPECT, CT or PET (as scalar uptake) of {subjects} subjects, none of
which was in the training. That is no population, and the weights were chosen by looking at it. Sources are 8-bit PNG,
degraded by an independent simulator; results are written as 8-bit PNG, and what was written is scored against the
clean sources. One set of weights serves all scenarios. In training nine batches of twenty are drawn around the presets,
which these scenarios are, the others over continuous ranges: see also [what is no
preset](#degradations-that-are-no-preset). Intervals are 95 % bootstrap intervals of the mean that draw whole subjects;
with so few of them they are rough. Steps and [fusion rule](method.md#the-fusion-rule) are those of the bundle: T = 1
and `two_scale`; [the other rules](#what-is-kept-of-the-anatomy-under-uptake) stand beside it.

**Counterparts.** *Classical* restoration knows the operator: non-local means, Wiener filter, bicubic interpolation.
Each published fusion (IFCNN, MATR, SDNet, U2Fusion, with its authors' weights) and a Laplacian pyramid fuse what the
classical restoration gave. *Maximum*, *average* and *copy* (of the MRI) are floors: a copy of one source wins many
metrics and is no fusion. SSIM_min is the lower of the two means of SSIM, with either source. [What each metric is, and
what it cannot see](../reference/metrics.md).
"""
_INTRODUCTION_INFRARED = """# Results, infrared and visible

Every figure of medfuse on this page was measured by `make results`. They belong to the weights with the SHA-256
`{weights}...`. Those of other methods were measured once, on the same files and with the same formulas; classical R, G
and B with every run. PET and MRI are on [a page of their own](results.md). Research use only.

**Protocol.** The dev set has 14 pairs of three sets: RoadScene (8) and M3FD (2) in colour, TNO (4) in grey. Both of
M3FD and two of TNO show one scene each, which makes 12 scenes. None of the pairs was in the training; nothing of M3FD
and TNO was, but of RoadScene 176 other pictures were. That is no population, and the weights were chosen by looking at
it. Sources are 8-bit PNG, degraded by an independent simulator: the visible one in colour (that of TNO with three equal
channels), with noise of its own in each channel. Results are written as 8-bit PNG, and what was written is scored
against the clean sources: the luma, and where the table says so R, G and B. One set of weights serves all scenarios,
which are [the presets](../how-to/fuse-infrared-and-visible.md#say-what-happened). Intervals are 95 % bootstrap
intervals of the mean that draw whole scenes; with so few of them they are rough.

**Counterparts.** *Classical* restoration knows the operator: non-local means, Wiener filter, bicubic interpolation. R,
G and B were restored each by itself with scikit-image, with the parameters that are best on these very pairs
(`tests/results/classical.py`); the luma, with the same ones, to {noise:.2f} dB in noise, {blur:.2f} in blur and
{composite:.2f} in the composite. Each published fusion (IFCNN, SDNet, with its authors' weights), the average and a
Laplacian pyramid fuse what the classical restoration of luma and infrared gave. *Maximum* and *copy* (of the visible
image) are floors: a copy of one source wins many metrics and is no fusion. SSIM_min is the lower of the two means of
SSIM, with either source. [What each metric is, and what it cannot see](../reference/metrics.md).
"""
_GOALS = """## Goals and misses

What the project aims at, in T = {steps} step{s}, and where it falls short. A source gains over the better of its
degraded and its classically restored form. The tables that these figures are of follow.
"""
_RESTORATION_INFRARED = """## Restoration

PSNR in dB, T = 3. The infrared image of the composite scenario is smaller by 4; degraded, it is brought to size by
bicubic interpolation. What was not degraded comes back at {clean:.0f} dB or more; 100 dB stands for the same pixels.
"""
_COLOUR = """## Colour

By how many degrees the hue of the fused image is off that of the clean visible one, T = 3: mean over the pixels that
have a colour, weighed by the lesser chroma of both, then over the ten pairs in colour. Colour that was lost altogether
does not count. The fusion keeps the angle of Cb and Cr; the hue of CIELAB turns where the luma changes.
"""
_SPEED = """## Speed

{megapixels_per_second:.2f} megapixels per second at 1024 x 768, T = 3, noisy and in colour, without reading and
writing, on {machine}.
"""
_KEPT = (*images.ANATOMY, "SSIM", "SSIM_min", "VIF", "SCD", "MI", "Qabf", "QG")
_ANATOMY = """## What is kept of the anatomy under uptake

Metrics of the whole image do not say whether the sulci are seen where the uptake is high. These do, on the clean pairs:
correlation and gain of the MRI's detail in the hot region (`anatomy_corr`, `anatomy_gain`), gain of the function's
there, and the rank correlation of fused image and uptake ([definitions](../reference/metrics.md#fusion)). A gain of 1
shows a detail as it was.

VIF and MI are reported and not pursued. VIF asks how much of a source's information a viewer could take from the fused
image, source by source, and adds: a copy of the MRI has 1 of it for nothing done (1.049 in all). MI asks how well the
value of a source can be told from the fused value at one pixel: where the larger one is taken, it is told exactly, and
the maximum wins with what it hides. `predicted` was trained with both, and is nearly a maximum. `two_scale` adds the
details of both sources, so a value at one pixel tells less of either, and both can be read. IFCNN is as published on
the same files; its fused images are not here, so it has no figures of the hot region.
"""
_ANATOMY_DEGRADED = """A rule can keep no more than a restored source has. *Restored sources* are these measures of the
restored MRI, and of the restored function, in the place of the fused image. *Share* is what `two_scale` keeps of them,
over what it keeps of clean sources: 1 is as good as clean. `two_scale` in T = 1 step, the others in T = 3.
"""
_COLOUR_FUSION = """## Colour

What can be read back from the 8-bit colours of the clean pairs, mean and, in brackets, the worst pair: rank correlation
and mean error (share of the window) of the uptake in the body, found as the nearest colour of the map; correlation and
gain of the MRI's detail in the OKLab lightness in the hot region. For people with protanopia and deuteranopia
(simulated), the rank of the uptake that is found as the nearest colour of the map, both as they see them, and that of
its blue-yellow coordinate b alone. b orders pixels of the same uptake by the rounding of their colours, so where most
are at the ends of the window, as in the worst of the CT, it cannot do better. `OKLAB` is the default.
"""
_PHANTOMS = """## Phantoms

Five phantoms of known truth, 20 draws of the noise each, T = 3, floats, nothing clipped: MRI blurred by 0.8 px, noise
10/255; PET blurred by 4 px FWHM, 60 counts at full range. A chi-square of 1 says that a restoration explains its data
as well as the truth does; it is corrected for the degrees of freedom that the fit took from them. Large regions are
white and grey matter, CSF and deep nuclei; their interior are the pixels that lie 4 px or more, the width of the PET's
blur, from any border. White matter takes up 2, grey matter 7, deep nuclei 8. The CSF is a ribbon of 0.6 beside grey
matter, and has hardly such pixels: 1 % of its uptake is less than 0.1 % of the image's range. Recovery and total are
shares, 1 at best. Bias and recovery are those of the mean over the draws of the noise, in which the noise of a
restoration does not show; the root mean square error is that of single images, in percent of full range. Of both Wiener
filters, with ridges of 0.02 and 0.05, the first has the lesser bias, the second the least error that such a filter has
here.
"""


_ABLATION = """## Ablation

T = 3; PSNR in dB of MRI and function, then SSIM, VIF and Q_AB/F of the image fused by `predicted`. The first rows
switch parts off in the network as it is shipped. Those marked *trained* went on from its weights for {iterations}
iterations without that part, or on one scenario alone; *trained: as shipped* is what they stand beside. From scratch,
differences would be larger. Measured with the weights `{weights}...` by `python tests/results/ablation.py`.
"""


def pet_mri(results: Mapping[str, Any], peers: Mapping[str, Any], ablation: Mapping[str, Any] | None = None) -> str:
    """Return the page of PET and MRI; the ablation, which takes long, is measured by itself and may be absent."""
    scenarios = results["scenarios"]
    chosen = at(scenarios, PET_MRI_STEPS)
    subjects = chosen["noise"]["SSIM"]["subjects"]
    return _page(
        _INTRODUCTION.format(weights=results["weights_sha256"][:16], subjects=len(subjects)),
        _GOALS.format(steps=1, s=""),
        goals_table(pet_mri_goals(results, peers, _PEERS, images.FUSION)),
        "## Restoration\n\nPSNR in dB of MRI and function, T = 1. The clean sources come back as they were.\n",
        restoration(chosen, peers, _SOURCES),
        denoisers(chosen, _SOURCES),
        "![A sarcoma and a phantom, degraded, restored and fused](../images/restoration.png)\n",
        "By subject:\n",
        parts(chosen, _SOURCES, "subjects"),
        "## Steps\n\nPSNR in dB of MRI / function, and SSIM of the fused image.\n",
        steps(scenarios),
        _ANATOMY,
        _kept_of_clean(results, peers),
        _ANATOMY_DEGRADED,
        _kept_of_degraded(results),
        "## Fusion\n\nT = 1. Rank: mean over the eight metrics among medfuse and the methods that are no floors.\n",
        *fusion(chosen, peers, _PEERS, images.FUSION, floors=("maximum", "average", "copy")),
        _COLOUR_FUSION,
        _colours(results["colours"]),
        "## Degradations that are no preset\n\nPSNR in dB; T = 3.\n",
        _pairs(results["unseen"]),
        "## Wrong parameters\n\nWhat medfuse was told is not what happened. PSNR in dB; T = 3.\n",
        _pairs(results["wrong"]),
        _PHANTOMS,
        *_phantoms(results["phantoms"]),
        *(_ablation(ablation) if ablation else ()),
    )


def _kept_of_clean(results: Mapping[str, Any], peers: Mapping[str, Any]) -> str:
    """Tabulate what each method keeps of clean sources."""
    ours = {"medfuse, `two_scale`": at(results["scenarios"], PET_MRI_STEPS)["clean"]}
    ours |= {f"medfuse, `{rule}`": figures["clean"] for rule, figures in results["rules"].items()}
    rows = {name: {k: v["mean"] for k, v in figures.items() if k in _KEPT} for name, figures in ours.items()}
    rows |= results["methods"]
    rows["IFCNN, published"] = peers["clean"]["IFCNN"]
    shown = []
    for name, values in rows.items():
        both = {**values}
        if "SSIM_1" in values:  # the lower of the means, as of the other methods
            both["SSIM_min"] = min(values["SSIM_1"], values["SSIM_2"])
        shown.append((name, *(f"{both[k]:.3f}" if k in both else "" for k in _KEPT)))
    return table(("method", *_KEPT), shown)


def _colours(figures: Mapping[str, Any]) -> str:
    """Tabulate what can be read back from colours: the mean, and the worst pair."""
    rows = []
    for name, look in figures.items():
        cells = (f"{look[k]['mean']:.3f} ({look[k]['worst']:.3f})" for k in FIGURES)
        rows.append((name, *cells, "yes" if look["hue runs one way"] else "no"))
    return table(("colours", *FIGURES, "hue runs one way"), rows)


def _kept_of_degraded(results: Mapping[str, Any]) -> str:
    """Tabulate what each rule keeps of restored sources, and what these have."""
    scenarios = results["scenarios"]
    chosen, own = at(scenarios, PET_MRI_STEPS), {name: figures["sources"] for name, figures in scenarios.items()}
    shares, rows = kept(chosen, own), []
    for name in (s for s in SCENARIOS if s != "clean"):
        figures = {"restored sources": own[name]}
        figures |= {"`two_scale`": {k: chosen[name][k]["mean"] for k in images.ANATOMY}}
        figures |= {f"`{r}`": {k: v[name][k]["mean"] for k in images.ANATOMY} for r, v in results["rules"].items()}
        figures |= {"`two_scale`, share": {k: shares[name, k] for k in images.ANATOMY}}
        rows += [(name, r, *(f"{v[k]:.3f}" if k in v else "" for k in images.ANATOMY)) for r, v in figures.items()]
    return table(("scenario", "what", *images.ANATOMY), rows)


def _phantoms(figures: Mapping[str, float]) -> tuple[str, str]:
    """Return the figures that every method has, side by side, and those of medfuse alone."""
    split = {key: next((m for m in METHODS if key.endswith(f", {m}")), "") for key in figures}
    shared = dict.fromkeys(key.removesuffix(f", {method}") for key, method in split.items() if method)
    order = ("input", *RIDGES, "medfuse")
    rows = ((name, *(f"{figures[f'{name}, {method}']:.3g}" for method in order)) for name in shared)
    alone = ((key, f"{figures[key]:.3g}") for key, method in split.items() if not method)
    return table(("figure", *order), rows), table(("figure", "medfuse"), alone)


def infrared_visible(results: Mapping[str, Any], peers: Mapping[str, Any]) -> str:
    """Return the page of infrared and visible images."""
    scenarios, speed = results["scenarios"], results["speed"]
    chosen = at(scenarios, INFRARED_STEPS)
    known = {
        k: {**v, "classical": {**v["classical"], **_channels(results["classical"].get(k, {}))}}
        for k, v in peers.items()
    }
    clean = min(chosen["clean"][f"r{key}_PSNR"]["mean"] for key in _SOURCES_INFRARED)
    return _page(
        _INTRODUCTION_INFRARED.format(
            weights=results["weights_sha256"][:16], **{k: v["luma"] for k, v in results["classical"].items()}
        ),
        _GOALS.format(steps=3, s="s"),
        goals_table(infrared_visible_goals(chosen, known, _PEERS_INFRARED, infrared.FUSION)),
        _RESTORATION_INFRARED.format(clean=clean),
        restoration(chosen, known, _SOURCES_INFRARED),
        "By set:\n",
        parts(chosen, _SOURCES_INFRARED, "sets"),
        "## Steps\n\nPSNR in dB of the visible luma / infrared, and SSIM of the fused image.\n",
        steps(scenarios),
        "## Fusion\n\nT = 3. Rank: mean over the six metrics among medfuse and the methods that are no floors.\n",
        *fusion(chosen, peers, _PEERS_INFRARED, infrared.FUSION),
        _COLOUR,
        _hue(chosen),
        _SPEED.format(**speed),
    )


def _page(*parts: str) -> str:
    return "\n".join(parts).rstrip() + "\n"


def _channels(figures: Mapping[str, float]) -> dict[str, float]:
    return {f"r1_{name}_PSNR": value for name, value in figures.items() if name != "luma"}


def _hue(chosen: Mapping[str, Any]) -> str:
    rows = [(name, *(f"{chosen[name][k]['mean']:.2f}" for k in ("hue", "hue_lab"))) for name in SCENARIOS]
    return table(("scenario", "hue of Cb and Cr, degrees", "hue of CIELAB, degrees"), rows)


def _pairs(experiments: Mapping[str, Any]) -> str:
    rows = []
    for name, ours in experiments.items():
        cells = []
        for i in (1, 2):
            before, after = ours[f"d{i}_PSNR"]["mean"], ours[f"r{i}_PSNR"]["mean"]
            cells += [f"{before:.2f}", f"{after:.2f}", f"{after - before:+.2f}"]
        rows.append((name, *cells))
    return table(("degradation", "MRI before", "after", "gain", "function before", "after", "gain"), rows)


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
    return [text, table(("variant", *scenarios), rows)]
