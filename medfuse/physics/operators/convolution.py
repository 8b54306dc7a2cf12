"""Convolution with any kernel, which conjugate gradients solve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medfuse.errors import DegradationError, GeometryError
from medfuse.physics.operators.base import LinearOperator
from medfuse.physics.operators.cosine import reflect_index


class Convolution(LinearOperator):
    """Convolution with any kernel, on an image continued by half-sample reflection."""

    def __init__(self, kernel: Tensor) -> None:
        """Make a convolution.

        Args:
            kernel: **[b, *k]** with odd sizes and its origin in the centre; b = 1 or the batch size.

        Raises:
            DegradationError: An even size or a non-finite value.
        """
        if any(k % 2 == 0 for k in kernel.shape[1:]):
            raise DegradationError(f"a kernel must have odd sizes, got {tuple(kernel.shape[1:])}.")
        if not bool(torch.isfinite(kernel).all()):
            raise DegradationError("a kernel must be finite, got NaN or infinity.")
        self.kernel = kernel

    @property
    def shift_invariant(self) -> bool:
        """It is, up to the borders."""
        return True

    def _transfer(self, padded: Sequence[int], like: Tensor) -> Tensor:
        kernel = self.kernel.to(like)
        transfer: Tensor = torch.fft.rfftn(kernel, s=tuple(padded), dim=tuple(range(1, kernel.ndim)))[:, None]
        return transfer

    def _extension(self, spatial: Sequence[int], device: torch.device) -> list[Tensor]:
        if self.kernel.ndim - 1 != len(spatial):
            raise GeometryError(f"an image must have the kernel's {self.kernel.ndim - 1} axes, got {len(spatial)}.")
        return [reflect_index(n, k // 2, device) for n, k in zip(spatial, self.kernel.shape[1:], strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve `x` **[B, C, *spatial]**."""
        spatial = x.shape[2:]
        for d, index in enumerate(self._extension(spatial, x.device)):
            x = x.index_select(d + 2, index)
        dims, padded = tuple(range(2, x.ndim)), x.shape[2:]
        y: Tensor = torch.fft.irfftn(torch.fft.rfftn(x, dim=dims) * self._transfer(padded, x), s=padded, dim=dims)
        for d, n in enumerate(spatial):
            y = y.narrow(d + 2, padded[d] - n, n)
        return y

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Apply the transpose to `y` **[B, C, *spatial]**."""
        shape = y.shape[2:]
        extension = self._extension(shape, y.device)
        padded = tuple(len(index) for index in extension)
        widths = [w for p, n in reversed(list(zip(padded, shape, strict=True))) for w in (p - n, 0)]
        dims = tuple(range(2, y.ndim))
        spectrum = torch.fft.rfftn(torch.nn.functional.pad(y, widths), dim=dims)
        x: Tensor = torch.fft.irfftn(spectrum * self._transfer(padded, y).conj(), s=padded, dim=dims)
        for d, index in enumerate(extension):
            x = x.new_zeros((*x.shape[: d + 2], shape[d], *x.shape[d + 3 :])).index_add(d + 2, index, x)
        return x


class MotionBlur(Convolution):
    """Uniform motion along a line in the plane of two axes."""

    def __init__(
        self, length: float | Tensor, angle: float | Tensor, *, ndim: int = 2, plane: tuple[int, int] = (-2, -1)
    ) -> None:
        """Make a motion blur.

        Args:
            length: Length of the path in pixels (at least 1), a number or a tensor **[B]**.
            angle: Degrees, counter-clockwise from the second axis of the plane, a number or a tensor **[B]**.
            ndim: Number of spatial axes.
            plane: The two spatial axes (rows, columns) in which the motion takes place.

        Raises:
            DegradationError: A length below 1, or a value that is not finite.
        """
        size, turn = torch.broadcast_tensors(
            torch.as_tensor(length, dtype=torch.float64).reshape(-1),
            torch.as_tensor(angle, dtype=torch.float64).reshape(-1),
        )
        if not bool((size >= 1).all() & size.isfinite().all() & turn.isfinite().all()):
            raise DegradationError(
                f"the length of a motion must be at least 1 px and its angle finite, got {length} and {angle}."
            )
        self.length, self.angle = size, turn
        planar = torch.stack(
            [_line_kernel(float(n), float(a), float(size.max())) for n, a in zip(size, turn, strict=True)]
        )
        shape = [1] * ndim
        shape[plane[0]], shape[plane[1]] = planar.shape[1], planar.shape[2]
        if plane[0] % ndim > plane[1] % ndim:
            planar = planar.mT
        super().__init__(planar.reshape(len(planar), *shape))


def _line_kernel(length: float, angle: float, longest: float) -> Tensor:
    """Sample a centred line of unit mass with bilinear weights, 16 points per pixel."""
    radius = math.ceil(longest / 2) + 1
    points = max(math.ceil(length * 16), 1)
    t = ((torch.arange(points, dtype=torch.float64) + 0.5) / points - 0.5) * (length - 1)
    y = radius - t * math.sin(math.radians(angle))
    x = radius + t * math.cos(math.radians(angle))
    kernel = torch.zeros(2 * radius + 1, 2 * radius + 1, dtype=torch.float64)
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = y.floor().long() + dy, x.floor().long() + dx
            weight = (1 - (y - row).abs()) * (1 - (x - column).abs())
            kernel.index_put_((row, column), weight, accumulate=True)
    return kernel / kernel.sum()
