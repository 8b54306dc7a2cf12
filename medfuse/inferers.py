"""MONAI inferers: bind, fit, sample, finish. For batches of slices, and for volumes slice by slice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from medfuse.diffusion import Evaluator, FusionState, sample
from medfuse.errors import DegradationError, GeometryError
from medfuse.estimation import estimate
from medfuse.fusion.finish import Finish
from medfuse.fusion.rule import Evidence
from medfuse.physics import JointDegradation, JointObservation, correction, fit, parse_degradation
from medfuse.physics.specification import AUTO
from medfuse.progress import bar

Spec = Mapping[str, Any] | JointDegradation | str | None
LIMIT = 3 * 2**18
"""Number of pixels on which the network runs at once, unless told otherwise."""
_OF_SAMPLES = ("converged", "chi2")  # results that are known of a sample as a whole


@dataclass(frozen=True)
class Settings:
    """What an inferer is told beside the degradation; each field is described there. Checked as it is made.

    Raises:
        DegradationError: A field is impossible.
    """

    steps: int = 3
    correction: str = "cut"
    convex: bool = False
    amp: bool | str = "auto"
    limit: int | None = LIMIT
    views: int = 1
    settle: Sequence[float | None] = (None, None)
    balance: int = 0
    fusion_rule: str = "predicted"

    def __post_init__(self) -> None:
        """Refuse what is impossible."""
        if self.steps < 1:
            raise DegradationError(f"the number of steps must be at least 1, got {self.steps}.")
        correction(self.correction, self.settle)
        Finish(self.fusion_rule, self.balance)
        self.evaluator(torch.device("cpu"))
        object.__setattr__(self, "settle", tuple(self.settle))

    def evaluator(self, device: torch.device) -> Evaluator:
        """Return how the network is run on a device."""
        autocast = torch.bfloat16 if uses_bfloat16(self.amp, device) else None
        return Evaluator(autocast=autocast, limit=self.limit, views=self.views)

    @property
    def finish(self) -> Finish:
        """How the fusion is finished; `convex` is the word for the rule of that name."""
        return Finish("convex" if self.convex else self.fusion_rule, self.balance)

    @property
    def record(self) -> dict[str, Any]:
        """What a result depends on beside weights, degradation and steps, as JSON."""
        return {
            "correction": self.correction,
            "fusion_rule": self.finish.rule,
            "views": self.views,
            "settle": list(self.settle),
            "balance": self.finish.steps,
        }


class FusionInferer(Inferer):
    """Restore and fuse two degraded sources in a few corrected DDIM steps.

    Works inside MONAI's engines and is callable by keyword. It holds settings only: a call changes nothing. All that it
    returns has the axes of an image, so MONAI's own `SliceInferer` and `SlidingWindowInferer` work over it, too.
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
        settle: Sequence[float | None] = (None, None),
        balance: int = 0,
        kinds: Sequence[str] = ("anatomy", "function"),
        fusion_rule: str = "predicted",
    ) -> None:
        """Make an inferer.

        Args:
            degradation: What happened to the sources: a specification (see `medfuse.physics.specification`), a
                `JointDegradation`, `auto`, or None for none. A call may override it. What is unknown is estimated
                first, of each image or volume by itself, see `medfuse.estimation.estimate`.
            steps: Number of reverse steps, 1 or more. A call may override it.
            correction: `cut` (default), `joint`, `paper` or `none`, see `medfuse.physics.corrections`.
            convex: The same as `fusion_rule="convex"`.
            amp: Run the network in bfloat16: yes, no, or `auto` (where the device computes it natively).
            trajectory: Return the state after each step too, as `states`; training needs them.
            limit: Number of pixels, B x H x W, on which the network runs at once; what is larger is cut into windows
                that overlap so far that the result is the same, see `medfuse.diffusion.Evaluator`. None for no limit.
            views: Number of mirrored views, 1 to 4, of which the network's answers are averaged (test-time
                augmentation): a little better, and so many times slower.
            settle: Standard deviations, for each source, by which local means of what it leaves of its data must exceed
                the noise to be believed; None: never. See `medfuse.physics.Cut`.
            balance: Number of steps by which the fused image is moved towards the source that it resembles less, see
                `medfuse.fusion.balance`. A convex one is left alone. A call may override it.
            kinds: What the sources are, for what is estimated: each `anatomy`, `function`, `visible` or `infrared`.
            fusion_rule: How the fused image comes of the restored sources, see `medfuse.fusion.rule`: `two_scale`,
                `convex` (`m x1 + (1 - m) x2`), or `predicted`, as the network learned it.

        Raises:
            DegradationError: The limit is not positive, or the steps, the correction, the views, the settling, the
                balance or the rule are impossible.
        """
        self.degradation, self.trajectory, self.kinds = degradation, trajectory, tuple(kinds)
        self.told = Settings(steps, correction, convex, amp, limit, views, settle, balance, fusion_rule)

    @property
    def settings(self) -> dict[str, Any]:
        """What a result depends on beside weights, degradation and steps, for the records."""
        return self.told.record

    def __call__(
        self,
        inputs: Tensor,
        network: Any,
        *,
        degradation: Spec = None,
        steps: int | None = None,
        until: int | None = None,
        misfit: bool = False,
        agreement: bool | Literal["chi2"] = False,
        balance: int | None = None,
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
            agreement: Return also how far the restored sources explain the data; `chi2`: without the residual.
            balance: Overrides the inferer's own.

        Returns:
            `source1`, `source2`, `fused`, `weight` (of source 1, 0..1), `std1`, `std2` (predicted std of the error of
            each restored source), each **[B, 1, H, W]**; what the data proved of each source, **[B, 2, 1, 1]** each:
            `proven_blur`, the share of its stated width that is undone, below 1 where the data show it to be narrower,
            `proven_noise`, the factor of its stated variance, above 1 where the data show more, and `converged`,
            1 where the last solve has, else 0; where asked for, `misfit`, `y - A x` of each source, **[B, 2, H, W]**;
            likewise the agreement, `chi2` **[B, 2, 1, 1]** and `residual` **[B, 2, H, W]**, see
            `medfuse.physics.Agreement`.

        Raises:
            GeometryError: Another shape.
        """
        if inputs.ndim != 4 or inputs.shape[1] != 2:
            raise GeometryError(f"inputs must have the shape [B, 2, H, W], got {list(inputs.shape)}.")
        told, stated = self._told(steps, balance), self._stated(degradation)
        if stated.unknown:
            if self.trajectory and len(inputs) > 1:
                raise DegradationError(
                    "images whose degradation is estimated must come one by one where the trajectory is asked for, got "
                    f"{len(inputs)}; state the degradation, or split the batch."
                )
            estimated = [estimate(stated, image, self.kinds).degradation for image in _plain(inputs)]
            options: dict[str, Any] = {"steps": steps, "until": until, "misfit": misfit, "agreement": agreement}
            return self._one_by_one(inputs, network, estimated, balance=balance, **options)
        fitted = fit(stated, _plain(inputs))
        found, observation = fitted.findings, JointObservation(*fitted.models)
        whole, left = self._sampled(observation, network, told, until=until, misfit=misfit, agreement=agreement)
        del fitted, observation  # a large image leaves little room
        result = self._finished(whole, left, inputs.shape[2:], told, until=until)
        known = {"proven_blur": found.blur, "proven_noise": found.noise}
        known |= {name: result.pop(name) for name in _OF_SAMPLES if name in result}
        return result | _with_axes(known, 2)

    def _one_by_one(
        self, inputs: Tensor, network: Any, known: Sequence[JointDegradation], **options: Any
    ) -> dict[str, Any]:
        """Fuse the samples of a batch one after another, each with a degradation of its own."""
        parts = [
            self(image[None], network, degradation=what, **options) for image, what in zip(inputs, known, strict=True)
        ]
        return _joined(parts)

    def _told(self, steps: int | None, balance: int | None) -> Settings:
        return replace(
            self.told,
            steps=self.told.steps if steps is None else steps,
            balance=self.told.balance if balance is None else balance,
        )

    def _stated(self, degradation: Spec) -> JointDegradation:
        return as_degradation(self.degradation if degradation is None else degradation)

    def _sampled(
        self,
        observation: JointObservation,
        network: Any,
        told: Settings,
        *,
        until: int | None,
        misfit: bool,
        agreement: bool | Literal["chi2"],
    ) -> tuple[list[FusionState], dict[str, Tensor]]:
        """Return the states that are wanted, the last one of them the result, and what is asked of its data."""
        steps = sample(
            network,
            observation,
            steps=told.steps,
            correct=correction(told.correction, told.settle),
            evaluate=told.evaluator(observation.source1.y.device),
            until=until,
        )
        whole = list(steps) if self.trajectory else [_last(steps, until or told.steps)]
        left: dict[str, Tensor] = {}
        if misfit:
            left["misfit"] = observation.misfit(whole[-1].images[:2])
        if agreement:
            found = observation.agreement(whole[-1].images[:2], residual=agreement != "chi2")
            left |= {name: value for name, value in found._asdict().items() if value is not None}
        return whole, left

    def _finished(
        self,
        whole: Sequence[FusionState],
        left: Mapping[str, Tensor],
        size: Sequence[int],
        told: Settings,
        *,
        until: int | None,
    ) -> dict[str, Any]:
        """Finish the fusion of continued images; return results of the given size."""
        states = [state.cropped(size) for state in whole]
        result: dict[str, Any] = {name: v if name in _OF_SAMPLES else v[_within(size)] for name, v in left.items()}
        final = states[-1]
        source1, source2, fused = final.images
        if until in (None, told.steps):
            fused = told.finish((source1, source2), Evidence(fused, final.weight, final.log_variance))
            if told.finish.rule != "predicted":
                states[-1] = final._replace(images=(source1, source2, fused))
        std = (0.5 * final.log_variance).exp()  # not before: large images leave little room
        result |= {
            "source1": source1,
            "source2": source2,
            "fused": fused,
            "weight": final.weight,
            "std1": std[:, 0:1],
            "std2": std[:, 1:2],
            "converged": final.converged.to(fused.dtype),  # 1, not True: MONAI's windows weigh what they are given
        }
        if self.trajectory:
            result["states"] = states
        return result


class VolumeFusionInferer(FusionInferer):
    """Fuse volumes slice by slice, many slices in a batch; 2-D images are fused as by the inner inferer.

    On a CPU slices go through one by one, so that the result does not depend on the number of slices in a batch: sums
    over several images round otherwise than those over one, by 1e-7 of full range, which bfloat16 in the network makes
    up to 1e-2 of the weight and of the fused image. On other devices the result depends on the batch so far. Each slice
    is corrected by the in-plane operator; a correction of the whole volume on the PET's own grid takes the place of the
    loop over slices. What the data prove of a blur is proven once for a volume, and a blur is narrowed alike in all its
    slices, see `medfuse.physics.fit`.
    """

    def __init__(
        self,
        inner: FusionInferer,
        *,
        spatial_dim: int = 2,
        slice_batch: int = 8,
        progress: bool = False,
        std: bool = True,
        agreement: bool | Literal["chi2"] = False,
    ) -> None:
        """Make a volumetric inferer.

        Args:
            inner: The inferer whose degradation and settings are meant.
            spatial_dim: Axis of a volume [X, Y, Z] along which to slice: 0, 1 or 2.
            slice_batch: Number of slices that are processed together, but on a CPU.
            progress: Show a progress bar.
            std: Return `std1` and `std2` of a volume, too; without, it takes less memory.
            agreement: Return how far the restored sources explain the data, whether a call asks for it or not.

        Raises:
            GeometryError: No such axis, or no slice in a batch.
        """
        super().__init__(inner.degradation, trajectory=False, kinds=inner.kinds, **asdict(inner.told))
        if spatial_dim not in (0, 1, 2) or slice_batch < 1:
            raise GeometryError(
                "spatial_dim must be 0, 1 or 2 and slice_batch 1 or more, "
                f"got {spatial_dim!r} and {slice_batch!r}; change them."
            )
        self.spatial_dim, self.slice_batch, self.progress = spatial_dim, slice_batch, progress
        self.std, self.agreement = std, agreement

    def __call__(
        self,
        inputs: Tensor,
        network: Any,
        *,
        degradation: Spec = None,
        steps: int | None = None,
        until: int | None = None,
        misfit: bool = False,
        agreement: bool | Literal["chi2"] = False,
        balance: int | None = None,
    ) -> dict[str, Any]:
        """Restore and fuse **[B, 2, X, Y, Z]** (or **[B, 2, H, W]**); arguments and results are as in `FusionInferer`.

        What the data proved of a volume is **[B, 2, 1, 1, 1]** each, one for all slices: `proven_noise` and `chi2` are
        means over the slices, and `converged` tells of all of them.

        Raises:
            GeometryError: Neither four nor five axes.
        """
        agreement = agreement or self.agreement
        if inputs.ndim == 4:
            return super().__call__(
                inputs,
                network,
                degradation=degradation,
                steps=steps,
                until=until,
                misfit=misfit,
                agreement=agreement,
                balance=balance,
            )
        if inputs.ndim != 5 or inputs.shape[1] != 2:
            raise GeometryError(f"inputs must be [B, 2, H, W] or [B, 2, X, Y, Z], got {list(inputs.shape)}.")
        told, stated = self._told(steps, balance), self._stated(degradation)
        if stated.unknown:
            how: dict[str, Any] = {"cut": False, "across": self.spatial_dim}
            estimated = [estimate(stated, image, self.kinds, **how).degradation for image in _plain(inputs)]
            options: dict[str, Any] = {"steps": steps, "until": until, "misfit": misfit, "agreement": agreement}
            return self._one_by_one(inputs, network, estimated, balance=balance, **options)
        axis, volumes = self.spatial_dim + 2, len(inputs)
        slices = _plain(inputs).movedim(axis, 1).flatten(0, 1)
        together = 1 if inputs.device.type == "cpu" else self.slice_batch
        found = fit(stated, slices, volumes=volumes, at_once=together).findings
        of_slices: dict[str, Tensor] = {}
        result: dict[str, Any] = {}
        for first in bar(range(0, len(slices), together), disable=not self.progress):
            some = slice(first, first + together)
            fitted = found.of(some).applied(stated)
            observation = JointObservation.from_images(stated.continued(slices[some]), fitted)
            whole, left = self._sampled(observation, network, told, until=until, misfit=misfit, agreement=agreement)
            part = self._finished(whole, left, slices.shape[2:], told, until=until)
            for name, values in part.items():
                if self.std or name not in ("std1", "std2"):
                    kept = of_slices if name in _OF_SAMPLES else result
                    if name not in kept:  # one place for all, which its parts fill
                        kept[name] = values.new_empty(len(slices), *values.shape[1:])
                    kept[name][some] = values
        result = {name: torch.unflatten(v, 0, (volumes, -1)).movedim(1, axis) for name, v in result.items()}
        known = {"proven_blur": found.blur, "proven_noise": found.noise, **of_slices}
        each = {name: torch.unflatten(v, 0, (volumes, -1)) for name, v in known.items()}
        one = {name: v.mean(1) for name, v in each.items()}
        one |= {"proven_blur": each["proven_blur"][:, 0], "converged": each["converged"].amin(1)}
        return result | _with_axes(one, 3)


def _joined(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the results of one image after another as those of a batch."""
    if len(results) == 1:
        return results[0]
    return {name: torch.cat([result[name] for result in results]) for name in results[0]}


def as_degradation(degradation: Spec) -> JointDegradation:
    """Return a degradation of both sources from any of its forms.

    Raises:
        DegradationError: It is none of them, or makes no sense.
    """
    if isinstance(degradation, JointDegradation):
        return degradation
    if degradation is not None and not isinstance(degradation, Mapping) and degradation != AUTO:
        raise DegradationError(
            f"a degradation must be a specification, a JointDegradation, `{AUTO}` or None, got "
            f"{type(degradation).__name__}."
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
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _with_axes(values: Mapping[str, Tensor], axes: int) -> dict[str, Tensor]:
    """Give what is known of both sources of each sample, **[B, 2]**, as many axes of length 1 as an image has."""
    return {name: v.reshape(*v.shape, *[1] * axes) for name, v in values.items()}


def _last(states: Iterator[FusionState], count: int) -> FusionState:
    """Return the last of so many states; each goes before the next is made, as a large one leaves little room."""
    for _ in range(count - 1):
        next(states)
    return next(states)


def _within(size: Sequence[int]) -> tuple[Any, ...]:
    return (..., *(slice(n) for n in size))


def _plain(inputs: Tensor) -> Tensor:
    return inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
