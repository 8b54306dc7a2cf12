"""Random degradations for training, drawn over continuous ranges, and fixed ones for validation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from medfuse.errors import DegradationError
from medfuse.physics import (
    Degradation,
    Downsample,
    GaussianBlur,
    GaussianNoise,
    JointDegradation,
    LinearOperator,
    MotionBlur,
    Noise,
    PoissonNoise,
    RicianNoise,
    parse_degradation,
    replicate,
)
from medfuse.physics.specification import varied
from medfuse.transforms.typed import TORCH

_WIDTH_PX, _WIDTH_SHARE = 0.2, 0.1  # by which a width is stated wrongly at most
_MOTION_NOISE = 1.5 / 255.0  # weakest noise beside a motion: without any, conjugate gradients take ten times as long


@dataclass(frozen=True)
class DegradationPrior:
    """A distribution of degradations of one source.

    The kind of a degradation is drawn once a batch, its strengths for each sample. Weak ones are drawn more often than
    strong ones.

    Attributes:
        clean: Probability of no degradation at all.
        blur: Probability of a blur, when degraded.
        noise: Probability of noise, when degraded.
        downsample: Probability of down-sampling, when degraded.
        max_blur: Largest blur, std in px.
        max_noise: Largest noise std, fraction of full range.
        factors: Down-sampling factors.
        anisotropic: Probability that a blur differs between the axes.
        poisson: Probability that noise is Poisson.
        rician: Probability that noise is Rician.
        motion: Probability of a motion blur with noise, and nothing else, when degraded.
        max_motion: Longest path of a motion, px.
    """

    clean: float = 0.12
    blur: float = 0.55
    noise: float = 0.7
    downsample: float = 0.25
    max_blur: float = 6.0
    max_noise: float = 50.0 / 255.0
    factors: tuple[int, ...] = (2, 3, 4)
    anisotropic: float = 0.25
    poisson: float = 0.12
    rician: float = 0.12
    motion: float = 0.02
    max_motion: float = 20.0

    def sample(self, batch: int, generator: torch.Generator, *, ndim: int = 2) -> Degradation:
        """Draw a degradation with parameters for each of `batch` samples of `ndim` spatial axes."""

        def chance(p: float) -> bool:
            return float(torch.rand((), generator=generator)) < p

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator)

        if chance(self.clean):
            return Degradation()
        steps: list[LinearOperator | Noise] = []
        if ndim == 2 and chance(self.motion):
            blur = MotionBlur(1.0 + (self.max_motion - 1.0) * uniform(batch), 180.0 * uniform(batch))
            return Degradation((blur, self._noise(float(uniform()), uniform(batch), weakest=_MOTION_NOISE)))
        blurred, noisy, small = chance(self.blur), chance(self.noise), chance(self.downsample)
        if blurred or not (noisy or small):
            sigma = self.max_blur * uniform(batch, 1) ** 1.5
            steps.append(GaussianBlur(sigma * uniform(batch, ndim) if chance(self.anisotropic) else sigma.flatten()))
        shrink: list[LinearOperator | Noise] = []
        if small:
            factor = self.factors[int(torch.randint(len(self.factors), (), generator=generator))]
            shrink.append(Downsample(factor, "bicubic" if chance(0.5) else "average"))
        if noisy:
            noise = self._noise(float(uniform()), uniform(batch))
            return Degradation((*steps, noise, *shrink) if chance(0.5) else (*steps, *shrink, noise))
        return Degradation((*steps, *shrink))

    def _noise(self, kind: float, u: Tensor, *, weakest: float = 1e-3) -> Noise:
        sigma = (self.max_noise * u**1.5).clamp_min(weakest)
        if kind < self.poisson:
            return PoissonNoise(0.25 / sigma.clamp_min(0.01).square())
        return RicianNoise(sigma) if kind < self.poisson + self.rician else GaussianNoise(sigma)


def around(degradation: Degradation, batch: int, generator: torch.Generator) -> Degradation:
    """Vary a degradation for each of `batch` samples: the std of each blur and noise by a factor of 0.7 to 1.4.

    Steps without such a strength, decimation and motion, stay as they are; see `medfuse.physics.specification.STEPS`.
    """

    def step(given: LinearOperator | Noise) -> LinearOperator | Noise:
        return varied(given, 2.0 ** (torch.rand(batch, generator=generator) - 0.5))

    return replace(degradation, steps=tuple(map(step, degradation.known)))


def misstated(degradation: Degradation, generator: torch.Generator) -> Degradation:
    """State the width of each Gaussian blur wrongly: by up to 10 %, and then by up to 0.2 px, each evenly drawn."""

    def step(given: LinearOperator | Noise) -> LinearOperator | Noise:
        if not isinstance(given, GaussianBlur):
            return given
        share, px = (2 * torch.rand(given.sigma.shape, generator=generator) - 1 for _ in range(2))
        return GaussianBlur((given.sigma * (1 + _WIDTH_SHARE * share) + _WIDTH_PX * px).clamp_min(0))

    return replace(degradation, steps=tuple(map(step, degradation.known)))


def degrade(image: Tensor, degradation: JointDegradation, generator: torch.Generator, *, stored: bool) -> Tensor:
    """Degrade both channels of a batch and bring them back to the grid of the image.

    Args:
        image: Clean sources **[B, 2, *spatial]**, 0..1.
        degradation: What shall happen to them.
        generator: Source of all randomness.
        stored: Whether the observations are stored in 8 bit: clipped to 0..1 and rounded.

    Returns:
        **[B, 2, *spatial]**; a low-resolution source is replicated.
    """
    outputs = []
    for i, part in enumerate(degradation):
        y = part.simulate(image[:, i : i + 1], generator)
        if stored:
            y = (y.clamp(0.0, 1.0) * 255.0).round() / 255.0
        outputs.append(replicate(y, part.operator, image.shape[2:]))
    return torch.cat(outputs, 1)


def draw_steps(choices: Sequence[int], generator: torch.Generator) -> dict[str, int]:
    """Draw the number of steps T and which of them, `until`, is trained: each as often."""
    steps = choices[int(torch.randint(len(choices), (), generator=generator))]
    return {"steps": steps, "until": 1 + int(torch.randint(steps, (), generator=generator))}


class DegradeBatch:
    """Prepare a batch for MONAI's engines: degrade clean pairs, hand over the degradation, draw the number of steps.

    A batch with the key `scenario` (names, all equal) is degraded by that scenario, always in the same way; others at
    random: over the whole of the priors or, in some of the batches, around a scenario, see `around`. Training draws the
    number of steps T, and which of them is trained: each as often.
    """

    def __init__(
        self,
        *,
        source1: DegradationPrior | None = None,
        source2: DegradationPrior | None = None,
        scenarios: Mapping[str, Mapping[str, Any]] | None = None,
        near: float = 0.0,
        steps: tuple[int, ...] | None = None,
        stored: float = 0.5,
        misstated: float = 0.0,
        key: str = "image",
        seed: int = 0,
    ) -> None:
        """Make it.

        Args:
            source1: Prior of the degradations of source 1 (MRI, visible).
            source2: Prior of those of source 2 (PET, infrared), down-sampled more often by default.
            scenarios: Specifications by name, for batches with the key `scenario`.
            near: Probability that a batch is degraded around a scenario, each as often; at least one must be given.
            steps: Numbers of steps to draw from; None leaves it to the inferer.
            stored: Probability that a batch is stored in 8 bit, and clipped.
            misstated: Probability that the widths of a batch's blurs are stated wrongly, see `misstated`.
            key: Key of the clean pair **[B, 2, H, W]** in a batch.
            seed: Seed of all draws.

        Raises:
            DegradationError: `near` is no probability, or above 0 without scenarios.
        """
        self.priors = (
            DegradationPrior(downsample=0.15) if source1 is None else source1,
            DegradationPrior(downsample=0.35) if source2 is None else source2,
        )
        self.steps, self.key, self.seed, self.near = steps, key, seed, near
        self.stored, self.misstated = stored, misstated
        self.scenarios = {name: parse_degradation(spec) for name, spec in (scenarios or {}).items()}
        if not 0 <= near <= 1:
            raise DegradationError(f"near must be a probability, 0 to 1, got {near:g}; change it.")
        if near and not self.scenarios:
            raise DegradationError("the scenarios must be at least one to draw near them, got none; give some.")
        self._generator = torch.Generator().manual_seed(seed)
        self._noise: dict[torch.device, torch.Generator] = {}

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: torch.device | str | None = None,
        non_blocking: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor, tuple[()], dict[str, Any]]:
        """Return degraded inputs, clean targets, no arguments, and the inferer's keyword arguments."""
        clean = batchdata[self.key].to(device=device, non_blocking=non_blocking)
        if "scenario" in batchdata:
            fixed = self.scenarios[batchdata["scenario"][0]]
            inputs = degrade(clean, fixed, torch.Generator().manual_seed(self.seed), stored=True)
            return inputs, clean, (), {"degradation": fixed}
        generator = self._generator
        degradation = self._drawn(len(clean))
        stored = float(torch.rand((), generator=generator)) < self.stored
        stated = degradation
        if self.misstated and float(torch.rand((), generator=generator)) < self.misstated:
            stated = JointDegradation(*(misstated(part, generator) for part in degradation))
        kwargs: dict[str, Any] = {"degradation": stated}
        if self.steps is not None:
            kwargs |= draw_steps(self.steps, generator)
        if clean.device not in self._noise:  # drawn where the batch is: copies from the host would take longer
            self._noise[clean.device] = torch.Generator(clean.device).manual_seed(self.seed)
        return degrade(clean, degradation, self._noise[clean.device], stored=stored), clean, (), kwargs

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all draws, as a checkpoint holds it."""
        return {
            "draws": self._generator.get_state(),
            "noise": {str(device): generator.get_state() for device, generator in self._noise.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on drawing where another left off; on a device that it did not use, the noise starts from the seed."""
        self._generator.set_state(state["draws"].cpu())
        for device, noise in ((torch.device(name), noise) for name, noise in state["noise"].items()):
            if device.type == "cpu" or (device.index or 0) < torch.cuda.device_count():
                self._noise[device] = torch.Generator(device)
                self._noise[device].set_state(noise.cpu())

    def _drawn(self, batch: int) -> JointDegradation:
        generator = self._generator
        if self.near and float(torch.rand((), generator=generator)) < self.near:
            scenarios = list(self.scenarios.values())
            chosen = scenarios[int(torch.randint(len(scenarios), (), generator=generator))]
            return JointDegradation(*(around(part, batch, generator) for part in chosen))
        return JointDegradation(*(prior.sample(batch, generator) for prior in self.priors))


class RandDegrade(RandomizableTransform):
    """Degrade a clean pair **[2, *spatial]** at random, or by a fixed specification.

    The degradation that was drawn is in the attribute-free second result: `(degraded, JointDegradation)`.
    """

    backend = TORCH

    def __init__(
        self,
        degradation: Mapping[str, Any] | JointDegradation | None = None,
        *,
        prior: DegradationPrior | None = None,
        stored: bool = False,
        prob: float = 1.0,
    ) -> None:
        """Make the transform.

        Args:
            degradation: A fixed degradation; random ones from `prior` where None.
            prior: Distribution for both sources.
            stored: Whether the result is clipped and rounded to 8 bit.
            prob: Probability of a degradation.
        """
        RandomizableTransform.__init__(self, prob)
        self.fixed = (
            degradation
            if degradation is None or isinstance(degradation, JointDegradation)
            else parse_degradation(degradation)
        )
        self.prior = DegradationPrior() if prior is None else prior
        self.stored = stored

    def __call__(self, image: Tensor) -> tuple[Tensor, JointDegradation]:
        """Degrade `image` **[2, *spatial]**.

        Raises:
            DegradationError: The image has not two channels.
        """
        self.randomize(None)
        if image.shape[0] != 2:
            raise DegradationError(f"a pair must have two channels, got {image.shape[0]}.")
        generator = torch.Generator().manual_seed(int(self.R.randint(2**31)))
        if not self._do_transform:
            return image, JointDegradation()
        drawn = self.fixed or JointDegradation(
            *(self.prior.sample(1, generator, ndim=image.ndim - 1) for _ in range(2))
        )
        return degrade(image[None], drawn, generator, stored=self.stored)[0], drawn


class RandDegraded(RandomizableTransform, MapTransform):
    """Dictionary version of `RandDegrade`; stores the degradation under `<key>_degradation`, the clean pair too."""

    backend = RandDegrade.backend

    def __init__(self, keys: KeysCollection, *, allow_missing_keys: bool = False, **kwargs: Any) -> None:
        """Make the transform; `kwargs` are those of `RandDegrade`."""
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.transform = RandDegrade(**kwargs)

    def set_random_state(self, seed: int | None = None, state: Any = None) -> RandDegraded:
        """Seed this transform and the one it wraps."""
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Degrade the pair under each key."""
        result = dict(data)
        for key in self.key_iterator(result):
            result[f"{key}_clean"] = result[key]
            result[key], result[f"{key}_degradation"] = self.transform(result[key])
        return result


RandDegradeD = RandDegradeDict = RandDegraded
__all__ = ["DegradationPrior", "DegradeBatch", "RandDegrade", "RandDegraded", "degrade"]
