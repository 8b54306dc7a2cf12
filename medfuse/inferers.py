"""MONAI inferers: fusion of batches of slices, and of volumes slice by slice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SliceInferer
from torch import Tensor

from medfuse.balance import balanced
from medfuse.diffusion import Settle, blur_shares, check_settings, sample
from medfuse.errors import DegradationError, GeometryError
from medfuse.physics import JointDegradation, common_share, parse_degradation

Spec = Mapping[str, Any] | JointDegradation | None
LIMIT = 3 * 2**18
"""Number of pixels on which the network runs at once, unless told otherwise."""


class FusionInferer(Inferer):
    """Restore and fuse two degraded sources in a few corrected DDIM steps.

    Works inside MONAI's engines and is callable by keyword. It holds settings only: a call changes nothing.
    """

    def __init__(
        self,
        degradation: Spec = None,
        *,
        steps: int = 3,
        correction: str = "cut",
        convex: bool = False,
        amp: bool | str = "auto",
        trajectory: bool = False,
        limit: int | None = LIMIT,
        views: int = 1,
        settle: Settle = (None, None),
        balance: int = 0,
    ) -> None:
        """Make an inferer.

        Args:
            degradation: What happened to the sources: a specification (see `medfuse.physics.degradation`), a
                `JointDegradation`, or None for none. A call may override it.
            steps: Number of reverse steps, 1 or more. A call may override it.
            correction: `cut` (default), `joint`, `paper` or `none`, see `medfuse.physics.JointObservation.correct`.
            convex: Force the fused image to `m x1 + (1 - m) x2`.
            amp: Run the network in bfloat16: yes, no, or `auto` (where the device computes it natively).
            trajectory: Return the state after each step too, as `states`; training needs them.
            limit: Number of pixels, B x H x W, on which the network runs at once; what is larger is cut into windows
                that overlap so far that the result is the same, see `medfuse.diffusion.evaluate`. None for no limit.
            views: Number of mirrored views, 1 to 4, of which the network's answers are averaged: a little better, and
                so many times slower.
            settle: Standard deviations, for each source, by which local means of what it leaves of its data must exceed
                the noise to be believed; None: never. See `medfuse.diffusion.sample`.
            balance: Number of steps by which the fused image is moved towards the source that it resembles less, see
                `medfuse.balance`. A convex one is left alone. A call may override it.

        Raises:
            DegradationError: The limit is not positive, or the steps, the correction, the views, the settling or the
                balance are impossible.
        """
        _check_balance(balance)
        if limit is not None and limit < 1:
            raise DegradationError(f"the limit must be a number of pixels, 1 or more, got {limit}; raise it.")
        check_settings(steps, correction, views, settle)
        self.degradation = degradation
        self.steps, self.correction, self.convex = steps, correction, convex
        self.amp, self.trajectory, self.limit, self.views, self.balance = amp, trajectory, limit, views, balance
        self.settle = tuple(settle)

    @property
    def settings(self) -> dict[str, Any]:
        """What a result depends on beside weights, degradation and steps, for the records."""
        return {
            "correction": self.correction,
            "convex": self.convex,
            "views": self.views,
            "settle": list(self.settle),
            "balance": 0 if self.convex else self.balance,
        }

    def __call__(
        self,
        inputs: Tensor,
        network: Any,
        *,
        degradation: Spec = None,
        steps: int | None = None,
        until: int | None = None,
        misfit: bool = False,
        balance: int | None = None,
        blur_share: Tensor | None = None,
    ) -> dict[str, Any]:
        """Restore and fuse.

        Args:
            inputs: **[B, 2, H, W]**: source 1 (MRI or visible) and source 2 (PET or infrared) on one grid, scaled so
                that 0..1 is the full range; values beyond are kept.
            network: A `medfuse.diffusion.FusionModel` or its TorchScript export.
            degradation: Overrides the inferer's own.
            steps: Overrides the inferer's own.
            until: Stop after this step, and track gradients through it alone, see `medfuse.diffusion.sample`.
            misfit: Return also what the restored sources leave of the data.
            balance: Overrides the inferer's own.
            blur_share: Share of its stated width that the blur of each source has, **[B, 2]**; None: as the data allow.

        Returns:
            `source1`, `source2`, `fused`, `weight` (of source 1, 0..1), `std1`, `std2` (predicted std of the error of
            each restored source), each **[B, 1, H, W]**; `blur_share`, the share of its stated width to which the blur
            of each source was undone, **[B, 2]**, below 1 where the data show it to be narrower; where asked for,
            `misfit`, `y - A x` of each source, **[B, 2, H, W]**.
        """
        balance = self.balance if balance is None else balance
        _check_balance(balance)
        states = sample(
            network,
            inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs,
            as_degradation(self.degradation if degradation is None else degradation),
            steps=self.steps if steps is None else steps,
            correction=self.correction,
            convex=self.convex,
            autocast=torch.bfloat16 if uses_bfloat16(self.amp, inputs.device) else None,
            until=until,
            trajectory=self.trajectory,
            misfit=misfit,
            limit=self.limit,
            views=self.views,
            settle=self.settle,
            blur_share=blur_share,
        )
        final = states[-1]
        fused = final.x[:, 2:3]
        if not self.convex:  # before anything else is made: it takes room where an image is large
            fused = balanced(fused, final.x[:, :2], steps=balance)
        std = (0.5 * final.log_variance).exp()
        result: dict[str, Any] = {
            "source1": final.x[:, 0:1],
            "source2": final.x[:, 1:2],
            "fused": fused,
            "weight": final.weight,
            "std1": std[:, 0:1],
            "std2": std[:, 1:2],
            "blur_share": final.blur_share,
        }
        if misfit:
            result["misfit"] = final.misfit
        if self.trajectory:
            result["states"] = states
        return result


def _check_balance(steps: int) -> None:
    if steps < 0:
        raise DegradationError(f"the steps of the balance must be 0 or more, got {steps}.")


class VolumeFusionInferer(SliceInferer):
    """Fuse volumes slice by slice, many slices in a batch; 2-D images go straight to the inner inferer.

    On a CPU slices go through one by one, so that the result does not depend on the number of slices in a batch: sums
    over several images round otherwise than those over one, by 1e-7 of full range, which bfloat16 in the network makes
    up to 1e-2 of the weight and of the fused image. On other devices the result depends on the batch so far.
    `SliceInferer` drops keyword arguments, hence they are bound to the network here. Each slice is corrected by the
    in-plane operator; a correction of the whole volume on the PET's own grid takes the place of the inner call, not of
    this class. A blur that the data show to be narrower than stated is narrowed alike in all slices of a volume, see
    `medfuse.physics.common_share`.
    """

    def __init__(
        self, inner: FusionInferer, *, spatial_dim: int = 2, slice_batch: int = 8, progress: bool = False
    ) -> None:
        """Make a volumetric inferer.

        Args:
            inner: What fuses a batch of slices.
            spatial_dim: Axis of a volume [X, Y, Z] along which to slice: 0, 1 or 2.
            slice_batch: Number of slices that are processed together, but on a CPU.
            progress: Show a progress bar.
        """
        super().__init__(
            roi_size=(-1, -1), sw_batch_size=slice_batch, spatial_dim=spatial_dim, overlap=0.0, progress=progress
        )
        self.inner = inner

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the inner inferer."""
        return self.inner.settings

    def __call__(self, inputs: Tensor, network: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Restore and fuse **[B, 2, X, Y, Z]** (or **[B, 2, H, W]**); returns what the inner inferer returns.

        Of a volume, too, `blur_share` is **[B, 2]**: one for all slices.

        Raises:
            GeometryError: Neither four nor five axes.
        """
        if inputs.ndim == 4:
            return self.inner(inputs, network, **kwargs)
        if inputs.ndim != 5:
            raise GeometryError(f"inputs must be [B, 2, H, W] or [B, 2, X, Y, Z], got {list(inputs.shape)}.")

        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        told, share = kwargs.pop("degradation", None), kwargs.pop("blur_share", None)
        degradation = as_degradation(self.inner.degradation if told is None else told)
        share = self._blur_share(plain, degradation) if share is None else share
        of_slices = iter(share.repeat_interleave(inputs.shape[self.spatial_dim + 2], 0))

        def fuse(slices: Tensor, *_: Any) -> dict[str, Tensor]:
            shares = torch.stack([next(of_slices) for _ in slices])
            results = [
                self.inner(some, network, degradation=degradation, blur_share=share, **kwargs)
                for some, share in zip(*(v.split(at_once(v)) for v in (slices, shares)), strict=True)
            ]
            return {k: torch.cat([result[k] for result in results]) for k in results[0] if k != "blur_share"}

        return super().__call__(plain, fuse) | {"blur_share": share}

    def _blur_share(self, volumes: Tensor, degradation: JointDegradation) -> Tensor:
        """Return the share of the stated width of each source's blur that is undone in each volume, **[B, 2]**."""
        if not any(part.blurred for part in degradation):
            return volumes.new_ones(len(volumes), 2)
        slices = volumes.movedim(self.spatial_dim + 2, 1).flatten(0, 1)
        parts = slices.split(at_once(slices, self.sw_batch_size))
        shares = torch.cat([blur_shares(part, degradation) for part in parts])
        return common_share(shares.unflatten(0, (len(volumes), -1)).movedim(1, -1))


def at_once(images: Tensor, batch: int | None = None) -> int:
    """Return how many images may go through together: on a CPU one, for what is computed must not depend on others."""
    return 1 if images.device.type == "cpu" else batch or len(images)


def as_degradation(degradation: Spec) -> JointDegradation:
    """Return a degradation of both sources from any of its forms.

    Raises:
        DegradationError: It is none of them, or makes no sense.
    """
    if isinstance(degradation, JointDegradation):
        return degradation
    if degradation is not None and not isinstance(degradation, Mapping):
        raise DegradationError(
            f"a degradation must be a specification, a JointDegradation or None, got {type(degradation).__name__}."
        )
    return parse_degradation(degradation)


def uses_bfloat16(amp: bool | str, device: torch.device) -> bool:
    """Tell whether the network should run in bfloat16 on a device.

    Raises:
        DegradationError: `amp` is neither a boolean nor `auto`.
    """
    if isinstance(amp, bool):
        return amp
    if amp != "auto":
        raise DegradationError(f"amp must be true, false or `auto`, got {amp!r}.")
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
