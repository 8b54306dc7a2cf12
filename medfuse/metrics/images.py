"""The images that a fusion is judged by, with what several metrics share computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from medfuse.errors import GeometryError
from medfuse.metrics.anatomy import anatomy_in_uptake
from medfuse.metrics.color import colour_fidelity
from medfuse.metrics.filters import PEAK, as_levels
from medfuse.metrics.gradients import edge_preservation
from medfuse.metrics.information import visual_information_fidelity
from medfuse.metrics.restoration import leakage, psnr_gain
from medfuse.metrics.structure import peak_signal_to_noise_ratio, structural_similarity

Pair = tuple[Tensor | None, Tensor | None]


@dataclass(frozen=True)
class Images:
    """A batch of fused images with their sources, float64 on 0..255.

    Make it with `Images.of`, which checks, scales and clips. Sources may have a batch of 1, which then stands for all.

    Attributes:
        fused: **[B, 1, H, W]**.
        sources: The clean sources, **[B or 1, 1, H, W]** each.
        degraded: The sources as the method saw them, on the same grid, not clipped; or None.
        restored: The sources as the method restored them; or None.
        colours: The coloured source and the fused image in colour, sRGB **[B or 1, 3, H, W]** each; or None.
    """

    fused: Tensor
    sources: tuple[Tensor, Tensor]
    degraded: Pair = (None, None)
    restored: Pair = (None, None)
    colours: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(
        cls,
        fused: Tensor,
        source1: Tensor,
        source2: Tensor,
        *,
        data_range: float,
        degraded: Pair = (None, None),
        restored: Pair = (None, None),
        colours: tuple[Tensor, Tensor] | None = None,
    ) -> Images:
        """Check images and bring them to 0..255; fused and restored ones are clipped to their range.

        Args:
            fused: **[B, 1, H, W]**, at least 17 x 17.
            source1: Clean source 1, **[B or 1, 1, H, W]**.
            source2: Clean source 2.
            data_range: Full range of all images.
            degraded: Degraded sources of the same size, or None.
            restored: Restored sources, or None.
            colours: The coloured source and the fused image in colour, **[B or 1, 3, H, W]** each, or None.

        Raises:
            GeometryError: If shapes are wrong or do not fit.
            ImageError: If an image holds NaN or infinity, or the range is not positive.
        """
        optional = {
            f"{kind}{i}": image
            for kind, pair in (("degraded", degraded), ("restored", restored))
            for i, image in enumerate(pair, start=1)
            if image is not None
        }
        named = {"fused": fused, "source1": source1, "source2": source2, **optional}
        levels = dict(zip(named, as_levels(data_range, 17, **named), strict=True))
        if any(len(image) > len(fused) for image in levels.values()):
            raise GeometryError(f"fused must have a sample for each of the sources, got {len(fused)}; repeat it.")
        for name in ("fused", "restored1", "restored2"):
            if name in levels:
                levels[name] = levels[name].clamp(0, PEAK)
        scaled = None if colours is None else (colours[0] * (PEAK / data_range), colours[1] * (PEAK / data_range))
        return cls(
            levels["fused"],
            (levels["source1"], levels["source2"]),
            (levels.get("degraded1"), levels.get("degraded2")),
            (levels.get("restored1"), levels.get("restored2")),
            scaled,
        )

    @property
    def given(self) -> frozenset[str]:
        """What there is beside the clean sources and the fused image, as `Metric.needs` names it."""
        pairs = (("degraded", self.degraded), ("restored", self.restored))
        names = {f"{kind}{i}" for kind, pair in pairs for i, image in enumerate(pair, start=1) if image is not None}
        return frozenset(names | ({"colours"} if self.colours is not None else set()))

    @cached_property
    def ssim(self) -> tuple[Tensor, Tensor]:
        """SSIM with each source, **[B]**."""
        first, second = (structural_similarity(s, self.fused, data_range=PEAK) for s in self.sources)
        return first, second

    @cached_property
    def psnr(self) -> tuple[Tensor, Tensor]:
        """PSNR against each source, dB **[B]**."""
        first, second = (peak_signal_to_noise_ratio(s, self.fused, data_range=PEAK) for s in self.sources)
        return first, second

    @cached_property
    def vif(self) -> tuple[Tensor, Tensor]:
        """VIF of each source, **[B]**."""
        first, second = (visual_information_fidelity(s, self.fused, data_range=PEAK) for s in self.sources)
        return first, second

    @cached_property
    def edge(self) -> tuple[Tensor, Tensor]:
        """Edge preservation of each source, **[B]**."""
        first, second = (edge_preservation(s, self.fused, data_range=PEAK) for s in self.sources)
        return first, second

    @cached_property
    def anatomy(self) -> dict[str, Tensor]:
        """What is kept of the detail of source 1, as anatomy, and of source 2, as function, in uptake; each **[B]**."""
        return anatomy_in_uptake(*self.sources, self.fused, data_range=PEAK)

    @cached_property
    def leak(self) -> tuple[Tensor, Tensor]:
        """Leakage of each source's degradation, **[B]**."""
        first, second = leakage(*self.sources, *_both(self.degraded), self.fused, data_range=PEAK).unbind(1)
        return first, second

    @cached_property
    def colour(self) -> dict[str, Tensor]:
        """Fidelity of colour, each **[B]**."""
        reference, image = _both(self.colours or (None, None))
        return colour_fidelity(reference, image, data_range=PEAK)

    def against_source(self, index: int, kind: str) -> Tensor:
        """Return the PSNR in dB of a degraded or restored source, clipped to its range, against the clean one."""
        image = (self.degraded if kind == "degraded" else self.restored)[index]
        (image,) = _present(image)
        return self._spread(peak_signal_to_noise_ratio(self.sources[index], image.clamp(0, PEAK), data_range=PEAK))

    def restored_ssim(self, index: int) -> Tensor:
        """Return the SSIM of a restored source with the clean one, **[B]**."""
        (image,) = _present(self.restored[index])
        return self._spread(structural_similarity(self.sources[index], image, data_range=PEAK))

    def gain(self, index: int) -> Tensor:
        """Return by how many dB the restored source is better than the degraded one, **[B]**."""
        degraded, restored = _both((self.degraded[index], self.restored[index]))
        return self._spread(psnr_gain(self.sources[index], degraded, restored, data_range=PEAK))

    def seen_as_degraded(self) -> Images:
        """Return the same fusion beside the degraded sources, as if those were what it should show."""
        return Images(self.fused, _both(self.degraded))

    def _spread(self, values: Tensor) -> Tensor:
        return values.expand(len(self.fused))


def floors(source1: Tensor, source2: Tensor) -> dict[str, Tensor]:
    """Return the three fusions that any method must beat, of sources **[B, 1, H, W]** or any one shape.

    A copy of source 1 wins many metrics, which is why no figure should be read without it.
    """
    return {"copy": source1, "average": (source1 + source2) / 2, "maximum": torch.maximum(source1, source2)}


def _both(pair: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    first, second = _present(*pair)
    return first, second


def _present(*images: Tensor | None) -> list[Tensor]:
    present = [i for i in images if i is not None]
    if len(present) < len(images):
        raise GeometryError("This metric needs images that were not given; give degraded, restored or colour images.")
    return present
