"""A published learned denoiser beside medfuse: figures that were measured once, on the files of the dev set.

FFDNet of Zhang, Zuo and Zhang (FFDNet: Toward a fast and flexible solution for CNN-based image denoising, IEEE TIP
2018), the grey network of 0.49 million parameters, trained on photographs with noise that was clipped to 0..1
(`ffdnet_gray_clip` of the repository cszn/KAIR, release v1.0). It is told the std of the noise and restores each source
by itself. It undoes no blur: where there is one, it is the denoiser of plug-and-play restoration that knows the
operator (the weights without clipping, half quadratic splitting), on six of the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from results.tables import table

FIGURES: dict[str, dict[str, float]] = {"noise": {"MRI": 35.23, "function": 38.37}}
"""PSNR, dB, of the 26 pairs in 8 bit."""
SIX_PAIRS: dict[str, tuple[int, float, float]] = {"blur": (12, 33.8, 35.1), "composite": (8, 29.6, 30.5)}
"""Rounds of plug and play, and PSNR of the MRI, dB, of it and of medfuse's weights 0.4.0, on six pairs."""

TEXT = """### A learned denoiser

FFDNet (Zhang, Zuo and Zhang, IEEE TIP 2018; 0.49 million parameters, trained on photographs with noise clipped to 0..1:
`ffdnet_gray_clip` of cszn/KAIR, release v1.0), told the std of the noise, restores each source by itself. PSNR in dB,
T = 1, the same files.
"""
PLUG_AND_PLAY = """
As the denoiser of plug-and-play restoration that knows the operator (its weights without clipping), on six of the
pairs, the MRI comes to {0[1]:.1f} dB in blur ({0[0]} rounds) and {1[1]:.1f} in the composite ({1[0]} rounds); medfuse
0.4.0 came to {0[2]:.1f} and {1[2]:.1f} there.
"""


def denoisers(chosen: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """Return the table of what each comes to under noise, and what plug and play came to."""
    rows = []
    for name, figures in FIGURES.items():
        for key, source in sources.items():
            ours = chosen[name][f"r{key}_PSNR"]["mean"]
            rows.append((name, source, f"{figures[source]:.2f}", f"{ours:.2f}", f"{ours - figures[source]:+.2f}"))
    shown = table(("scenario", "source", "FFDNet", "medfuse", "over FFDNet"), rows)
    return "\n".join((TEXT, shown, PLUG_AND_PLAY.format(SIX_PAIRS["blur"], SIX_PAIRS["composite"]).strip() + "\n"))
