"""The inferer of volumes, slice by slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor

from medfuse.diffusion import FusionState
from medfuse.errors import GeometryError
from medfuse.estimation import estimate
from medfuse.inferers.bootstrap import observed_again
from medfuse.inferers.neighbours import SLAB, Sampled, filtered
from medfuse.inferers.sensitivity import changes_of, variants
from medfuse.inferers.settings import Settings
from medfuse.inferers.slices import (
    IMAGES,
    OF_SAMPLES,
    FusionInferer,
    Result,
    Spec,
    kept,
    left_of,
    named,
    plain,
    with_axes,
)
from medfuse.physics import Findings, JointDegradation, JointObservation, data_alone, fit, is_grainy
from medfuse.progress import bar
from medfuse.threads import side_by_side

_PIXELS = 2**19  # of slices that are computed side by side, at most: 2**17 take 0.1 GB
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # bits of a number of so many bytes


class VolumeFusionInferer(FusionInferer):
    """Fuse volumes slice by slice, many slices in a batch; 2-D images are fused as by the inner inferer.

    On a CPU slices go through one by one, several side by side, so that the result does not depend on the number of
    slices in a batch: sums over several images round otherwise than those over one, by 1e-7 of full range, which
    bfloat16 in the network makes up to 1e-2 of the weight and of the fused image. Each has its share of torch's
    threads, which is one unless there are at least twice as many threads as slices side by side; sums by two or more
    round otherwise, too. Slices that are equal, such as empty ones, are computed once. On other devices the result
    depends on the batch so far. Each slice is corrected by the in-plane operator; a correction of the whole volume on
    the PET's own grid takes the place of the loop over slices. Patches that are alike are sought in the slices beside,
    too, but for gradients, see `medfuse.inferers.neighbours`. What the data prove of a blur is proven once for a
    volume, and a blur is narrowed alike in all its slices, see `medfuse.physics.fit`.
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
        draws: int = 0,
        alone: bool = False,
        sensitivity: bool = False,
    ) -> None:
        """Make a volumetric inferer.

        Args:
            inner: The inferer whose degradation and settings are meant.
            spatial_dim: Axis of a volume [X, Y, Z] along which to slice: 0, 1 or 2.
            slice_batch: Number of slices that are processed together, but on a CPU.
            progress: Show a progress bar.
            std: Return `std1` and `std2` of a volume, too; without, it takes less memory.
            agreement: Return how far the restored sources explain the data, whether a call asks for it or not.
            draws: Number of times that a restored volume is observed and restored again, each as long as the first:
                `draws1` and `draws2` **[B, draws, X, Y, Z]**, float16, are by how much the sources then came out
                otherwise.
            alone: Return what the data alone say of both sources of a volume, `alone` **[B, 2, X, Y, Z]**, see
                `medfuse.physics.data_alone`.
            sensitivity: Restore a volume up to four times more, widths and then levels 20 % less and more, and return
                what changes, `sensitivity` **[B, 2, 2, 2, 3]**, see `medfuse.inferers.sensitivity.changes_of`.

        Raises:
            GeometryError: No such axis, no slice in a batch, or a negative number of draws.
        """
        super().__init__(inner.degradation, trajectory=False, kinds=inner.kinds, **asdict(inner.told))
        if spatial_dim not in (0, 1, 2) or slice_batch < 1 or draws < 0:
            raise GeometryError(
                "spatial_dim must be 0, 1 or 2, slice_batch 1 or more, and draws 0 or more, "
                f"got {spatial_dim!r}, {slice_batch!r} and {draws!r}; change them."
            )
        self.spatial_dim, self.slice_batch, self.progress = spatial_dim, slice_batch, progress
        self.std, self.agreement, self.draws, self.alone = std, agreement, draws, alone
        self.sensitivity = sensitivity

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
        """Restore and fuse **[B, 2, X, Y, Z]** (or **[B, 2, H, W]**); arguments and results are as in `FusionInferer`.

        What the data proved of a volume is **[B, 2, 1, 1, 1]** each, one for all slices: `proven_noise` and `chi2` are
        means over the slices, and `converged` tells of all of them.

        Raises:
            GeometryError: Neither four nor five axes.
        """
        agreement = agreement or self.agreement
        options: dict[str, Any] = {"steps": steps, "until": until, "misfit": misfit, "agreement": agreement}
        options["balance"] = balance
        options |= {"save_intermediates": save_intermediates, "intermediate_steps": intermediate_steps}
        if inputs.ndim == 4:
            return super().__call__(inputs, network, degradation=degradation, **options)
        if inputs.ndim != 5 or inputs.shape[1] != 2:
            raise GeometryError(f"inputs must be [B, 2, H, W] or [B, 2, X, Y, Z], got {list(inputs.shape)}.")
        told, stated = self._told(steps, balance), self._stated(degradation)
        if stated.unknown:
            whole_volume: dict[str, Any] = {"cut": False, "across": self.spatial_dim}
            estimated = [estimate(stated, image, self.kinds, **whole_volume).degradation for image in plain(inputs)]
            return self._one_by_one(inputs, network, estimated, options)
        which = kept(until or told.steps, intermediate_steps) if save_intermediates else ()
        axis, volumes = self.spatial_dim + 2, len(inputs)
        slices = plain(inputs).movedim(axis, 1).flatten(0, 1)
        on_cpu = inputs.device.type == "cpu"
        together = 1 if on_cpu else self.slice_batch
        most = max(1, _PIXELS // math.prod(slices.shape[2:]))
        spread = partial(side_by_side, most=most) if on_cpu else map
        found = fit(stated, slices, volumes=volumes, at_once=together, each=spread).findings

        def sample(observation: JointObservation, told: Settings) -> list[FusionState]:
            return self._sampled(observation, network, told, until=until, kept=which)

        def finish(observation: JointObservation, states: Sequence[FusionState]) -> Result:
            left = left_of(observation, states[-1].images[:2], misfit=misfit, agreement=agreement)
            part = self._finished(states, left, slices.shape[2:], told, until=until)
            for number, state in enumerate(part.pop("states")[:-1]):
                part |= {(name, number): value for name, value in named(state).items()}
            if self.alone:
                part["alone"] = torch.cat([data_alone(model) for model in observation], 1)[
                    ..., : slices.shape[2], : slices.shape[3]
                ]
            return part

        work = _Slices(slices, volumes, together, stated, found, told, spread, sample, finish)
        beside = until in (None, told.steps) and work.share_patches
        parts = work.with_neighbours() if beside else work.by_themselves()
        of_slices: dict[str, Tensor] = {}
        result: dict[Any, Any] = {}
        for some, part in bar(parts, disable=not self.progress, total=len(slices) if beside else len(work.parts)):
            for name, values in part.items():
                if self.std or not {"std1", "std2"} & {name, name[0]}:  # a name, or a name and a step
                    places = of_slices if name in OF_SAMPLES else result
                    if name not in places:  # one place for all, which its parts fill
                        places[name] = values.new_empty(len(slices), *values.shape[1:])
                    places[name][some] = values
        result = {name: torch.unflatten(v, 0, (volumes, -1)).movedim(1, axis) for name, v in result.items()}
        known = {"proven_blur": found.blur, "proven_noise": found.noise, **of_slices}
        each = {name: torch.unflatten(v, 0, (volumes, -1)) for name, v in known.items()}
        one = {name: v.mean(1) for name, v in each.items()}
        one |= {"proven_blur": each["proven_blur"][:, 0], "converged": each["converged"].amin(1)}
        names = [name for name in IMAGES if name in result]
        on_the_way = [{name: result.pop((name, number)) for name in names} for number in range(len(which) - 1)]
        result |= with_axes(one, 3)
        if self.draws:
            restored = torch.cat([result["source1"], result["source2"]], 1)
            found_draws = self._drawn(plain(inputs), restored, network, stated, steps=steps)
            for k, drawn in enumerate(found_draws):
                result[f"draws{k + 1}"] = drawn * one["proven_noise"][:, k].sqrt().to(drawn).reshape(-1, 1, 1, 1, 1)
        if self.sensitivity:
            result["sensitivity"] = self._sensitivity(inputs, result, network, stated, steps=steps)
        return (result, [*on_the_way, {name: result[name] for name in names}]) if which else result

    def _again(self, stated: JointDegradation) -> VolumeFusionInferer:
        """Return what restores the same volumes once more, and fuses nothing."""
        told: dict[str, Any] = asdict(self.told) | {"fusion_rule": "convex", "balance": 0}
        inner = FusionInferer(stated, **told)
        return VolumeFusionInferer(inner, spatial_dim=self.spatial_dim, slice_batch=self.slice_batch, std=False)

    def _sensitivity(
        self, inputs: Tensor, result: Any, network: Any, stated: JointDegradation, *, steps: int | None
    ) -> Tensor:
        """Return what changes of both sources where what was stated is wrong, **[B, 2, 2, 2, 3]**."""

        def sources(found: Any) -> list[Tensor]:
            return [found[name][:, 0] for name in ("source1", "source2")]

        again = (None if other is None else self._again(other) for other in variants(stated))
        others = (None if call is None else sources(call(inputs, network, steps=steps)) for call in again)
        return changes_of(sources(result), others, stated)

    def _drawn(
        self, given: Tensor, restored: Tensor, network: Any, stated: JointDegradation, *, steps: int | None
    ) -> Tensor:
        """Return by how much volumes **[B, 2, X, Y, Z]** come out otherwise when observed again, **[2, B, n, ...]**."""
        axis, volumes = self.spatial_dim + 2, len(given)
        seen, believed = (v.movedim(axis, 1).flatten(0, 1) for v in (given, restored))
        again = self._again(stated)
        generator = torch.Generator(given.device)
        found = given.new_empty(2, volumes, self.draws, *given.shape[2:], dtype=torch.float16)
        for draw in bar(range(self.draws), disable=not self.progress):
            generator.manual_seed(draw)  # the same draws for the same input
            slices = observed_again(believed, seen, stated, generator)
            y = torch.unflatten(slices, 0, (volumes, -1)).movedim(1, axis)
            result = again(y, network, steps=steps)
            for k in (0, 1):
                found[k, :, draw] = (result[f"source{k + 1}"] - restored[:, k : k + 1])[:, 0]
        return found


@dataclass(frozen=True)
class _Slices:
    """The slices of some volumes, and how each of them comes to its results.

    Attributes:
        slices: All of them, **[N, 2, H, W]**.
        volumes: Of how many volumes.
        together: How many go through the network at once.
        stated: What happened to them.
        found: What the data prove of each.
        told: How they are restored.
        each: Does a work for each of some items, as `map` does.
        sample: Restores slices that are bound to their data.
        finish: Makes the results of what was restored.
    """

    slices: Tensor
    volumes: int
    together: int
    stated: JointDegradation
    found: Findings
    told: Settings
    each: Callable[..., Iterable[Any]]
    sample: Callable[[JointObservation, Settings], list[FusionState]]
    finish: Callable[[JointObservation, Sequence[FusionState]], Result]

    @property
    def depth(self) -> int:
        """How many slices a volume has."""
        return len(self.slices) // self.volumes

    @cached_property
    def parts(self) -> list[slice]:
        """The slices that go through the network at once, all of one volume."""
        ends = range(self.depth, len(self.slices) + 1, self.depth)
        firsts = ((first, end) for end in ends for first in range(end - self.depth, end, self.together))
        return [slice(first, min(first + self.together, end)) for first, end in firsts]

    @cached_property
    def first_like(self) -> list[int]:
        """The first of the parts that is equal to each, where a part is a slice."""
        if self.together > 1 or self.slices.requires_grad:  # a gradient is that of each slice by itself
            return list(range(len(self.parts)))
        return _first_of_equal(self.slices, self.found)

    @property
    def share_patches(self) -> bool:
        """Whether patches are filtered together with those of the slices beside; not where gradients are asked for."""
        grainy = self.told.correction == "cut" and self.told.patches > 0 and any(map(is_grainy, self.stated))
        return grainy and self.depth > 1 and not self.slices.requires_grad

    def observed(self, some: slice) -> JointObservation:
        """Bind slices to their data."""
        images = self.stated.continued(self.slices[some])
        return JointObservation.from_images(images, self.found.of(some).applied(self.stated))

    def by_themselves(self) -> Iterator[tuple[slice, Result]]:
        """Give which slices, and their results."""

        def fused(some: slice) -> Result:
            observation = self.observed(some)
            return self.finish(observation, self.sample(observation, self.told))

        yield from zip(self.parts, self._each_once(fused, range(len(self.parts)), {}), strict=True)

    def with_neighbours(self) -> Iterator[tuple[slice, Result]]:
        """Give which slice, and its results; its sources are filtered with those of the slices beside it."""
        by_itself = replace(self.told, patches=0)

        def sampled(some: slice) -> Sampled:
            observation = self.observed(some)
            return Sampled.of(self.sample(observation, by_itself), observation)

        def finished(one: tuple[slice, Sampled]) -> Result:
            return self.finish(self.observed(one[0]), one[1].states)

        of_volume, some = len(self.parts) // self.volumes, max(1, SLAB // self.together)
        known: dict[int, Sampled] = {}  # of slices that others are equal to
        for volume in range(self.volumes):
            numbers = range(volume * of_volume, (volume + 1) * of_volume)
            slabs = (self._each_once(sampled, numbers[k : k + some], known) for k in range(0, of_volume, some))
            single = ([one for part in slab for one in part.split()] for slab in slabs)
            first = volume * self.depth
            for slab in filtered(single, self.told.patches, self.each):
                places = [slice(first + k, first + k + 1) for k in range(len(slab))]
                first += len(slab)
                yield from zip(places, self.each(finished, list(zip(places, slab, strict=True))), strict=True)

    def _each_once(self, work: Callable[[slice], Any], numbers: range, known: dict[int, Any]) -> Iterator[Any]:
        """Do a work for some of the parts, in their order; what is done of one serves all that are equal to it."""
        like = self.first_like
        done = iter(self.each(work, [self.parts[k] for k in numbers if like[k] == k]))
        for k in numbers:
            result = known[like[k]] if like[k] < k else next(done)
            if like[k] == k and k in self._repeated:
                known[k] = result
            yield result

    @cached_property
    def _repeated(self) -> set[int]:
        """Parts that others are equal to."""
        return {first for k, first in enumerate(self.first_like) if first < k}


def _first_of_equal(slices: Tensor, found: Findings) -> list[int]:
    """Return, of each of the slices **[N, 2, H, W]**, the first that is equal in all that a result depends on.

    Around a head there are many that are empty.
    """
    bits = slices.detach().view(_WORDS[slices.element_size()])
    sums = bits.sum((1, 2, 3), dtype=bits.dtype).tolist()  # whatever overflows does so for equal slices alike
    told = torch.cat([values.detach().flatten(1) for values in found], 1).double().cpu().numpy()
    seen: dict[tuple[int, bytes], list[int]] = {}
    first: list[int] = []
    for number, (total, findings) in enumerate(zip(sums, told, strict=True)):
        alike = seen.setdefault((total, findings.tobytes()), [])
        first.append(next((k for k in alike if torch.equal(bits[k], bits[number])), number))
        if first[number] == number:
            alike.append(number)
    return first
