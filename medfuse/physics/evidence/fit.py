"""Fit: what is stated of two sources, made to agree with their data before anything is restored."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medfuse.physics.degradation import Degradation, JointDegradation
from medfuse.physics.evidence.bias import bias_of_noise
from medfuse.physics.evidence.blur import allowed_width
from medfuse.physics.evidence.noise import proven_excess
from medfuse.physics.models.bind import choose_model
from medfuse.physics.models.source import SourceModel

_NARROWINGS = 8  # most rounds: each multiplies the width by a share below 1, and nearly all end after the second
_FEW = 0.05  # of the slices of a volume: if no more of them disagree with the stated width, it is kept for all


class Findings(NamedTuple):
    """What the data prove of the degradations that were stated, for both sources of each sample.

    Attributes:
        blur: Share of its stated width that the blur of each source has, **[B, 2]**, 0..1; 1 where nothing is known to
            the contrary.
        noise: Factor of the variance of its noise, **[B, 2]**, 1 or more, likewise.
    """

    blur: Tensor
    noise: Tensor

    def of(self, samples: slice) -> Findings:
        """Return those of some samples."""
        return Findings(*(values[samples] for values in self))

    def applied(self, stated: JointDegradation) -> JointDegradation:
        """Return the degradations with the widths and the noise that were found."""
        parts = zip(stated, self.blur.unbind(1), self.noise.unbind(1), strict=True)
        return JointDegradation(*(_fitted(part, share, excess) for part, share, excess in parts))


class Fitted(NamedTuple):
    """A degradation that agrees with the data, and why it differs from the one that was stated.

    Attributes:
        degradation: As fitted, its parameters those of each sample.
        findings: What the data prove.
        models: Both sources, bound to their data as fitted; none where the samples were looked at in parts.
    """

    degradation: JointDegradation
    findings: Findings
    models: tuple[SourceModel, ...]


def fit(
    stated: JointDegradation,
    inputs: Tensor,
    *,
    volumes: int | None = None,
    at_once: int | None = None,
    blur: Tensor | None = None,
    each: Callable[..., Iterable[Any]] = map,
) -> Fitted:
    """Let the data of both sources say what they prove of the degradations that were stated.

    Args:
        stated: What is said to have happened to each source.
        inputs: **[B, 2, *spatial]** on the reference grid, 0..1; a low-resolution source is replicated to it. What no
            decimation divides is continued, see `JointDegradation.continued`.
        volumes: Number of volumes of which the samples are the slices, one volume after another: one scanner has
            blurred all slices of a volume alike, so the width of a blur is pooled, see `common_share`.
        at_once: Number of samples that are looked at together; all where None.
        blur: Share of its stated width that the blur of each source is known to have, **[B, 2]**, instead of asking.
        each: Calls a function with one part of the samples after another, as `map` does; or with several side by side.

    Raises:
        DegradationError: A step is unknown: it is estimated before, see `medfuse.estimation`.
    """
    stated = JointDegradation(*(replace(part, steps=part.known) for part in stated))
    parts = [stated.continued(part) for part in torch.split(inputs, at_once or len(inputs))]
    findings, models = [], []
    for i, part in enumerate(stated):
        sources = [images[:, i : i + 1] for images in parts]
        known = None if blur is None else blur[:, i]
        if volumes is not None and known is None and part.blurred:
            shares = torch.cat([share for share, *_ in each(partial(_fit_source, part), sources)])
            known = common_share(shares.reshape(volumes, -1)).repeat_interleave(len(shares) // volumes)
        told = [None] * len(sources) if known is None else known.split_with_sizes([len(source) for source in sources])
        proven = []
        for width, noise, model in each(partial(_fit_told, part), list(zip(sources, told, strict=True))):
            proven.append((width, noise))
            if len(sources) == 1:
                models.append(model)
        findings.append([torch.cat(values) for values in zip(*proven, strict=True)])
    found = Findings(*(torch.stack(values, 1) for values in zip(*findings, strict=True)))
    return Fitted(found.applied(stated), found, tuple(models))


def _fit_told(stated: Degradation, told: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor, SourceModel]:
    return _fit_source(stated, *told)


def _fit_source(stated: Degradation, source: Tensor, blur: Tensor | None = None) -> tuple[Tensor, Tensor, SourceModel]:
    """Return share of the blur's width and factor of the noise of each sample of one source, and its model as fitted.

    With a narrower blur less of the data is silent, so that more of them tell, and the noise that is proven falls:
    hence the rounds. They end, for no share is above 1.
    """
    model = choose_model(stated, stated.observed(source), source.shape[2:], bias=bias_of_noise)
    ones = source.new_ones(len(source))
    if stated.operator.is_identity:  # nothing is silent, and nothing is narrowed
        return ones, ones, model
    share = ones if blur is None else blur
    if stated.blurred and bool((share < 1).any()):
        model = model.under(stated.narrowed(share))
    excess = proven_excess(model)
    for _ in range(_NARROWINGS if blur is None else 0):
        allowed = allowed_width(model, excess)
        if bool((allowed == 1).all()):
            break
        share = share * allowed
        model = model.under(stated.narrowed(share))
        excess = proven_excess(model)
    return share, excess, model.under(model.degradation.louder(excess)) if bool((excess > 1).any()) else model


def common_share(shares: Tensor) -> Tensor:
    """Return one share of the blur's width for all slices of a volume, **[...]**, from those of each, **[..., N]**.

    All slices went through one scanner: a pooled estimate. If at most 5 % of them disagree with the stated width, it is
    kept: 1. Else the median of what these show is meant for all; a slice that shows nothing has no say.
    """
    narrowed = shares < 1
    median = torch.where(narrowed, shares, torch.nan).nanmedian(-1).values
    return torch.where(narrowed.to(shares).mean(-1) > _FEW, median, 1.0)


def _fitted(stated: Degradation, share: Tensor, excess: Tensor) -> Degradation:
    part = stated.narrowed(share) if stated.blurred and bool((share < 1).any()) else stated
    return part.louder(excess) if bool((excess > 1).any()) else part
