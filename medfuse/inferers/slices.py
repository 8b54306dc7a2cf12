"""The inferer of batches of slices: bind, fit, sample, finish."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from torch import Tensor

from medfuse.diffusion import FusionState, sample
from medfuse.errors import DegradationError, GeometryError
from medfuse.estimation import estimate
from medfuse.fusion.rule import Evidence
from medfuse.inferers.settings import LIMIT, Settings
from medfuse.physics import JointDegradation, JointObservation, correction, fit, parse_degradation
from medfuse.physics.specification import AUTO

Spec = Mapping[str, Any] | JointDegradation | str | None
Result = dict[str, Any]
OF_SAMPLES = ("converged", "chi2")  # results that are known of a sample as a whole
IMAGES = ("source1", "source2", "fused", "weight", "std1", "std2")  # results of every step


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
        amp: bool | str = "auto",
        trajectory: bool = False,
        limit: int | None = LIMIT,
        views: int = 1,
        settle: Sequence[float | None] = (None, None),
        patches: int = 0,
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
            amp: Run the network in bfloat16: yes, no, or `auto` (where the device computes it natively).
            trajectory: Return the state after each step too, as `states`; training needs them.
            limit: Number of pixels, B x H x W, on which the network runs at once; what is larger is cut into windows
                that overlap so far that the result is the same, see `medfuse.diffusion.Evaluator`. None for no limit.
            views: Number of mirrored views, 1 to 4, of which the network's answers are averaged (test-time
                augmentation): a little better, and so many times slower.
            settle: Standard deviations, for each source, by which local means of what it leaves of its data must exceed
                the noise to be believed; None: never. See `medfuse.physics.Cut`.
            patches: Number of patches of a restored source that are alike and filtered together, 1, 2, 4, 8 or 16,
                where nothing but white noise was stated; 0: none are. See `medfuse.physics.Cut`.
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
        self.told = Settings(steps, correction, amp, limit, views, settle, patches, balance, fusion_rule)

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
        save_intermediates: bool = False,
        intermediate_steps: int = 1,
    ) -> Any:
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
            save_intermediates: Return also what was believed on the way, as MONAI's diffusion inferers do.
            intermediate_steps: Keep every so many steps of it; the last one is always kept.

        Returns:
            `source1`, `source2`, `fused`, `weight` (of source 1, 0..1), `std1`, `std2` (predicted std of the error of
            each restored source), each **[B, 1, H, W]**; what the data proved of each source, **[B, 2, 1, 1]** each:
            `proven_blur`, the share of its stated width that is undone, below 1 where the data show it to be narrower,
            `proven_noise`, the factor of its stated variance, above 1 where the data show more, and `converged`,
            1 where the last solve has, else 0; where asked for, `misfit`, `y - A x` of each source, **[B, 2, H, W]**;
            likewise the agreement, `chi2` **[B, 2, 1, 1]** and `residual` **[B, 2, H, W]**, see
            `medfuse.physics.Agreement`. With `save_intermediates` two things: that, and a list of `source1`, `source2`,
            `fused` (before the last step as the network predicts it), `weight`, `std1` and `std2` of each kept step.

        Raises:
            GeometryError: Another shape.
            DegradationError: The steps to run or to keep, or the degradation, are impossible.
        """
        if inputs.ndim != 4 or inputs.shape[1] != 2:
            raise GeometryError(f"inputs must have the shape [B, 2, H, W], got {list(inputs.shape)}.")
        told, stated = self._told(steps, balance), self._stated(degradation)
        which = kept(until or told.steps, intermediate_steps) if save_intermediates else ()
        if stated.unknown:
            if self.trajectory and len(inputs) > 1:
                raise DegradationError(
                    "images whose degradation is estimated must come one by one where the trajectory is asked for, got "
                    f"{len(inputs)}; state the degradation, or split the batch."
                )
            estimated = [estimate(stated, image, self.kinds).degradation for image in plain(inputs)]
            options: dict[str, Any] = {"steps": steps, "until": until, "misfit": misfit, "agreement": agreement}
            options["balance"] = balance
            options |= {"save_intermediates": save_intermediates, "intermediate_steps": intermediate_steps}
            return self._one_by_one(inputs, network, estimated, options)
        fitted = fit(stated, plain(inputs))
        found, observation = fitted.findings, JointObservation(*fitted.models)
        whole = self._sampled(observation, network, told, until=until, kept=which)
        left = left_of(observation, whole[-1].images[:2], misfit=misfit, agreement=agreement)
        del fitted, observation  # a large image leaves little room
        result = self._finished(whole, left, inputs.shape[2:], told, until=until)
        known = {"proven_blur": found.blur, "proven_noise": found.noise}
        known |= {name: result.pop(name) for name in OF_SAMPLES if name in result}
        states = result.pop("states")
        result |= with_axes(known, 2)
        if self.trajectory:
            result["states"] = states
            states = [states[step - 1] for step in which]
        if not which:
            return result
        return result, [*map(named, states[:-1]), {name: result[name] for name in IMAGES}]

    def _one_by_one(
        self, inputs: Tensor, network: Any, known: Sequence[JointDegradation], options: Mapping[str, Any]
    ) -> Any:
        """Fuse the samples of a batch one after another, each with a degradation of its own."""
        parts = [
            self(image[None], network, degradation=what, **options) for image, what in zip(inputs, known, strict=True)
        ]
        if not options["save_intermediates"]:
            return joined(parts)
        on_the_way = zip(*(part[1] for part in parts), strict=True)
        return joined([part[0] for part in parts]), [joined(step) for step in on_the_way]

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
        kept: Sequence[int] = (),
    ) -> list[FusionState]:
        """Return the states that are wanted, the last one of them the result."""
        steps = sample(
            network,
            observation,
            steps=told.steps,
            correct=correction(told.correction, told.settle, told.patches),
            evaluate=told.evaluator(observation.source1.y.device),
            until=until,
        )
        count = until or told.steps
        return _those(steps, range(1, count + 1) if self.trajectory else kept or (count,))

    def _finished(
        self,
        whole: Sequence[FusionState],
        left: Mapping[str, Tensor],
        size: Sequence[int],
        told: Settings,
        *,
        until: int | None,
    ) -> Result:
        """Finish the fusion of continued images; return results of the given size, all states among them."""
        states = [state.cropped(size) for state in whole]
        result: Result = {name: v if name in OF_SAMPLES else v[_within(size)] for name, v in left.items()}
        final = states[-1]
        source1, source2, fused = final.images
        if until in (None, told.steps):
            fused = told.finish((source1, source2), Evidence(fused, final.weight, final.log_variance))
            if told.finish.rule != "predicted":
                states[-1] = final._replace(images=(source1, source2, fused))
        result |= named(final._replace(images=(source1, source2, fused)))  # not before: large images leave little room
        result["converged"] = final.converged.to(fused.dtype)  # 1, not True: MONAI's windows weigh what they are given
        return result | {"states": states}


def joined(results: Sequence[Result]) -> Result:
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


def with_axes(values: Mapping[str, Tensor], axes: int) -> dict[str, Tensor]:
    """Give what is known of both sources of each sample, **[B, 2]**, as many axes of length 1 as an image has."""
    return {name: v.reshape(*v.shape, *[1] * axes) for name, v in values.items()}


def kept(count: int, every: int) -> tuple[int, ...]:
    """Return which of the steps to keep, counted from 1: every so many, and the last one.

    Raises:
        DegradationError: Less than one at a time.
    """
    if every < 1:
        raise DegradationError(f"intermediate_steps must be 1 or more, got {every!r}; change it.")
    return tuple(step for step in range(1, count + 1) if (count - step) % every == 0)


def _those(states: Iterator[FusionState], wanted: Collection[int]) -> list[FusionState]:
    """Return states by their numbers; each other goes before the next is made, as a large one leaves little room."""
    found = []
    for step in range(1, max(wanted) + 1):
        state = next(states)
        if step in wanted:
            found.append(state)
        del state
    return found


def left_of(
    observation: JointObservation, sources: Sequence[Tensor], *, misfit: bool, agreement: bool | Literal["chi2"]
) -> dict[str, Tensor]:
    """Return what is asked of what restored sources leave of their data."""
    left: dict[str, Tensor] = {}
    if misfit:
        left["misfit"] = observation.misfit(sources)
    if agreement:
        found = observation.agreement(sources, residual=agreement != "chi2")
        left |= {name: value for name, value in found._asdict().items() if value is not None}
    return left


def named(state: FusionState) -> Result:
    """Return the images of a state by their names."""
    std = (0.5 * state.log_variance).exp()
    return dict(zip(IMAGES, (*state.images, state.weight, std[:, 0:1], std[:, 1:2]), strict=True))


def _within(size: Sequence[int]) -> tuple[Any, ...]:
    return (..., *(slice(n) for n in size))


def plain(inputs: Tensor) -> Tensor:
    """Return a tensor without metadata."""
    return inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
