"""Slices of a volume, of which patches that are alike are filtered together with those of the slices beside them.

Slices come some at a time, and each goes through two rounds as soon as the one after it has gone through the round
before; so few are held at once, and results depend on the two slices to either side alone.

Reference:
    docs/explanation/method.md, "Across slices".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

from medfuse.diffusion import FusionState
from medfuse.physics import Grain, JointObservation, collaborated_across, grain

SLAB = 16
"""Slices that are restored before any of them is filtered; results do not depend on it."""

_ROUNDS = 2  # the second finds what is alike in what the first made of all slices

Each = Callable[[Callable[[Sequence["Sampled"]], "Sampled"], Sequence[Sequence["Sampled"]]], Iterable["Sampled"]]


class Sampled(NamedTuple):
    """A slice that was restored, before its fusion is finished.

    Attributes:
        states: Those that are wanted, the last one of them the result.
        known: What the filter knows of each source, None of one that it leaves alone.
    """

    states: Sequence[FusionState]
    known: Sequence[Grain | None]

    @classmethod
    def of(cls, states: Sequence[FusionState], observation: JointObservation) -> Sampled:
        """Join what was sampled with what the filter knows of it."""
        final = states[-1]
        known = [grain(m, final.images[i], final.log_variance[:, i : i + 1]) for i, m in enumerate(observation)]
        return cls(states, known)

    def split(self) -> list[Sampled]:
        """Return the slices of a batch one by one."""
        if len(self.states[-1].weight) == 1:
            return [self]  # the same, as slices that are equal are filtered once
        return [
            Sampled([_part(state, k) for state in self.states], [_grain(one, k) for one in self.known])
            for k in range(len(self.states[-1].weight))
        ]


def filtered(slabs: Iterable[Sequence[Sampled]], patches: int, each: Each) -> Iterator[Sequence[Sampled]]:
    """Give slices whose sources are filtered, each as soon as those that it depends on are known.

    Args:
        slabs: Consecutive slices of one volume, some at a time.
        patches: How many patches are filtered together.
        each: Does a work for each of some items, as `map` does.
    """
    for _ in range(_ROUNDS):
        slabs = _once(slabs, partial(_with_beside, patches=patches), each)
    yield from slabs


def _once(
    slabs: Iterable[Sequence[Sampled]], work: Callable[[Sequence[Sampled]], Sampled], each: Each
) -> Iterator[Sequence[Sampled]]:
    held: list[Sampled] = []
    first = 0  # of those held that is not done
    for slab in chain(slabs, [()]):
        held += slab
        end = len(held) - bool(slab)  # one waits for its neighbour, but not at the end
        windows = [(held[i], *held[max(i - 1, 0) : i], *held[i + 1 : i + 2]) for i in range(first, end)]
        names = [tuple(map(id, window)) for window in windows]
        once = dict(zip(names, windows, strict=True))  # as around a head, where many slices are empty
        done = dict(zip(once, each(work, list(once.values())), strict=True))
        held, first = held[max(end - 1, 0) :], min(end, 1)
        if names:
            yield [done[name] for name in names]


def _with_beside(window: Sequence[Sampled], patches: int) -> Sampled:
    """Return the first of some slices, filtered with the others; its fused image follows them by m and 1 - m."""
    own = window[0]
    final = own.states[-1]
    *sources, fused = final.images
    for i, weight in enumerate((final.weight, 1 - final.weight)):
        known = [one.known[i] for one in window]
        if all(one is not None for one in known):
            beside = [one.states[-1].images[i] for one in window]
            found = collaborated_across(beside, [one for one in known if one is not None], patches)
            fused = fused + weight * (found - sources[i])
            sources[i] = found
    return Sampled([*own.states[:-1], final._replace(images=(*sources, fused))], own.known)


def _part(state: FusionState, k: int) -> FusionState:
    one = slice(k, k + 1)
    return FusionState([v[one] for v in state.images], state.weight[one], state.log_variance[one], state.converged[one])


def _grain(known: Grain | None, k: int) -> Grain | None:
    return None if known is None else Grain(*(v[k : k + 1] for v in known))
