"""The observation of a volume by a scanner: rigid transform, Gaussian PSF in mm, sampling on the scanner's own grid.

    y_p = sum_v x_v K(M p + t - v),    K of covariance C = U diag(sigma^2) U'

`M p + t` is where voxel `p` of the data lies among the voxels `v` of the image, `sigma` the std of the PSF along the
axes of the DATA's grid, `U` those axes in the image's. The kernel is a product of three parts; their covariances add
up to C:

    box of a voxel    h_i^2 / 12        activity is constant within a voxel of the image, so rows sum to one
    Gaussian          the rest          axis by axis on the image's grid, onto nodes sigma / 1.4 apart
    cubic B-spline    node_i^2 / 3      from the nodes to any point: 64 neighbours

**The extent of voxels is within the PSF, not added to it**: C is the covariance of the whole way from a voxel of the
image to a voxel of the data, as a PSF is that was measured on reconstructed images. An image whose values are means
over thick slices, t mm, is blurred by `t^2 / 12` already; so much less is left of the PSF to blur it.

Where a turned, anisotropic PSF has a covariance off the axes of the image, the image's axes take its narrowest width,
and the rest is integrated along the data's axes by Gauss-Hermite nodes. Nothing but a list of voxels is stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medfuse.errors import DegradationError, GeometryError
from medfuse.physics.operators.base import LinearOperator
from medfuse.physics.operators.blur import FWHM_PER_SIGMA
from medfuse.physics.operators.cosine import apply_along
from medfuse.physics.space import Grid
from medfuse.threads import side_by_side

_NODES_PER_SIGMA = 1.4
_AT_ONCE = 2**15  # voxels of the data that are sampled together: their weights stay in the cache
_LISTED = 2**20
_WITHIN = 0.99  # share of a voxel's kernel that must lie in the image's field of view
_NEGLIGIBLE = 0.03  # correlation of a PSF between axes of the image that is left out
WIDEST_PSF = 20.0
"""FWHM of a PSF, mm, at most: beyond all scanners."""
_ORTHOGONAL = 1e-3
_NARROWEST = 0.75  # voxels of the image, at which the Gaussian between box and spline vanishes
_SMOOTH = 0.85  # voxels, to which thick slices narrow a PSF at most: beyond, the edges of voxels would show

_BAND = 24  # rows of a matrix that are taken at once; of the last axis all: small products would depend on threads
_NOTHING = 1e-8  # of its largest value, what is 0 of it
Bands = list[tuple[int, Tensor]]
"""Rows of a matrix, some at a time: the first column that they look at, and their values from there on."""

# Nodes and weights of Gauss-Hermite quadrature for a normal variable, exact to the degrees 5, 9 and 13.
_QUADRATURE = {
    3: ((0.0, 2 / 3), (math.sqrt(3.0), 1 / 6)),
    5: ((0.0, 8 / 15), (1.355626179974266, 0.2220759220056126), (2.856970013872806, 0.011257411327720691)),
    7: (
        (0.0, 16 / 35),
        (1.1544053947399682, 0.24012317860501271),
        (2.3667594107345415, 0.030757123967586497),
        (3.7504397177257425, 0.00054826885597221),
    ),
}


class ScannerSampling(LinearOperator):
    """What a scanner with a Gaussian PSF measures of a volume on another grid, after a rigid transform.

    Voxels of the data whose kernel reaches out of the image's field of view are outside: they are zero after `forward`
    and without a say in `adjoint`. `inside` tells which are left, `seen` which voxels of the image they look at.
    """

    def __init__(
        self,
        image: Grid,
        data: Grid,
        fwhm_mm: float | Sequence[float],
        transform: Sequence[Sequence[float]] | Tensor | None = None,
        slices_mm: Sequence[float] | None = None,
    ) -> None:
        """Bind to two grids.

        Args:
            image: Grid of the image that is observed, three axes, mm.
            data: Grid of the observation, three axes, mm.
            fwhm_mm: Full width of the PSF at half its maximum along each axis of `data`, mm; or one number.
            transform: **[4, 4]**, rigid; maps points of the world of `data` to that of `image`, mm, as
                `RigidRegistration.matrix` does. None: they are one world.
            slices_mm: Along each axis of `image`, over how many mm its values are means, where that counts, else 0; of
                the PSF no less is left than the voxels can hold. None: nowhere.

        Raises:
            GeometryError: A grid that is not of three orthogonal axes, a transform that is not rigid, or grids that
                share nothing.
            DegradationError: A PSF that is narrower than a voxel, or wider than 20 mm.
        """
        for name, grid in (("MRI", image), ("PET", data)):
            _check_grid(grid, name)
        self.transform = _rigid(transform)
        moved = self.transform @ _tensor(data.affine)
        self._image, self._data = image, data
        self.fwhm_mm = _widths(fwhm_mm, data)
        spacing, steps = _tensor(image.spacing), _tensor(data.spacing)
        axes = _tensor(image.axes)  # rows: unit vectors of the image's axes
        turn = axes @ (moved[:3, :3] / steps)  # the data's axes, mm along those of the image
        origin = axes @ (moved[:3, 3] - _tensor(image.position((0, 0, 0))))
        variances = (_tensor(self.fwhm_mm) / FWHM_PER_SIGMA).square()
        along, rest = _split(turn, variances)
        self.slices_mm = tuple(float(v) for v in slices_mm or (0.0, 0.0, 0.0))
        held = (_SMOOTH * spacing / FWHM_PER_SIGMA).square()
        whole = along
        along = torch.maximum(whole - _tensor(self.slices_mm).square() / 12, torch.minimum(whole, held))
        self.narrowed = bool((along < whole).any())
        node = along.sqrt() / _NODES_PER_SIGMA
        gaussian = along - node.square() / 3 - spacing.square() / 12
        if bool((gaussian <= 0).any()):
            narrow = [round(v, 2) for v in self.fwhm_mm]
            least = [round(_NARROWEST * h, 2) for h in image.spacing]
            raise DegradationError(
                f"a PSF must be at least 0.75 voxels of the image wide, {least} mm along its axes, got {narrow} mm; "
                "check the PSF, or give an image with finer voxels."
            )
        self._variances, self._node = gaussian, node
        self._margin = [
            math.ceil(3.5 * math.sqrt(g) / s) + 2 for g, s in zip(gaussian.tolist(), node.tolist(), strict=True)
        ]
        extent = spacing * (_tensor(image.shape) - 1)
        self._nodes = tuple(
            math.ceil(e / s) + 1 + 2 * m for e, s, m in zip(extent.tolist(), node.tolist(), self._margin, strict=True)
        )
        self._matrix = (turn * steps) / node[:, None]  # from the index of a voxel of the data to that of a node
        self._offset = origin / node + _tensor(self._margin)
        self._shifts = [(turn @ d / node, w) for d, w in _quadrature(rest, variances)]
        self._gaussians = self._in_bands()
        self._rows = self._found_inside()
        if not len(self._rows):
            raise GeometryError(
                "the PET must lie at least partly within the MRI's field of view, got none of its voxels there with "
                "99 % of their kernel; check the affines and the transform, or take a thicker MRI than the PSF is wide."
            )

    @property
    def domain(self) -> Grid:
        """Grid of the image."""
        return self._image

    @property
    def range(self) -> Grid:
        """Grid of the data."""
        return self._data

    def like(
        self,
        *,
        image: Grid | None = None,
        data: Grid | None = None,
        transform: Tensor | None = None,
        wider: float = 1.0,
    ) -> ScannerSampling:
        """Return the same with another grid or transform, or with a PSF wider by a factor; errors as of a new one."""
        return ScannerSampling(
            image or self._image,
            data or self._data,
            [wider * w for w in self.fwhm_mm],
            self.transform if transform is None else transform,
            self.slices_mm,
        )

    @property
    def inside(self) -> Tensor:
        """Which voxels of the data have 99 % of their kernel in the image's field of view, bool **[*data]**."""
        found = torch.zeros(math.prod(self._data.shape), dtype=torch.bool)
        found[self._rows] = True
        return found.reshape(self._data.shape)

    @property
    def seen(self) -> Tensor:
        """Which voxels of the image lie in the field of view of the data that are `inside`, bool **[*image]**."""
        volume = math.prod(self._data.spacing) / math.prod(self._image.spacing)
        ones = torch.ones((1, 1, *self._data.shape))
        return self.adjoint(ones)[0, 0] * volume > 0.5

    def forward(self, x: Tensor) -> Tensor:
        """Observe `x` **[B, C, *image]**; voxels of the data that are not inside are zero."""
        shape = self.out_spatial(x.shape[2:])
        for axis, (there, _) in enumerate(self._gaussians):
            x = _banded(there, x, axis)
        flat, rows = x.reshape(-1, math.prod(self._nodes)), self._rows.to(x.device)

        def seen(some: Tensor) -> Tensor:
            found = [flat.new_zeros(len(some)) for _ in flat]
            for leap, first, along, weight in self._lines(some, flat):
                for nodes, values in zip(flat, found, strict=True):
                    line = torch.zeros_like(values)
                    for c, w in enumerate(along):
                        line.addcmul_(nodes[leap + c :].index_select(0, first), w)
                    values.addcmul_(line, weight)
            return torch.stack(found)

        sampled = torch.cat(list(_each(seen, torch.split(rows, _AT_ONCE), x.device)), 1)
        y = sampled.new_zeros((len(flat), math.prod(shape))).index_copy(1, rows, sampled)
        return y.reshape(*x.shape[:2], *shape)

    def adjoint(self, y: Tensor, spatial: Sequence[int] | None = None) -> Tensor:
        """Apply the transpose to `y` **[B, C, *data]**.

        Raises:
            GeometryError: Data of another shape than that of their grid.
        """
        if tuple(y.shape[2:]) != self._data.shape:
            raise GeometryError(f"data must be on the operator's grid {self._data.shape}, got {tuple(y.shape[2:])}.")
        rows = self._rows.to(y.device)
        flat = y.reshape(-1, math.prod(self._data.shape)).index_select(1, rows)
        chunks = list(zip(torch.split(rows, _AT_ONCE), torch.split(flat, _AT_ONCE, 1), strict=True))

        def added(some: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
            found = [y.new_zeros(math.prod(self._nodes)) for _ in flat]
            for which, stack in some:
                for leap, first, along, weight in self._lines(which, stack):
                    for values, nodes in zip(stack, found, strict=True):
                        line = values * weight
                        for c, w in enumerate(along):
                            nodes[leap + c :].scatter_add_(0, first, line * w)
            return torch.stack(found)

        middle = (len(chunks) + 1) // 2  # two sums, however many threads there are: the order of additions is the same
        halves = [half for half in (chunks[:middle], chunks[middle:]) if half]
        x = _sum(_each(added, halves, y.device)).reshape(*y.shape[:2], *self._nodes)
        for axis, (_, back) in reversed(list(enumerate(self._gaussians))):
            x = _banded(back, x, axis)
        return x

    def lift(self, y: Tensor) -> Tensor:
        """Return maps **[B, C, *data]** interpolated to the image's grid, **[B, C, *image]**; beyond them the nearest.

        Linear: for maps of coefficients and for display, never for what is to be restored.
        """
        steps = _tensor(self._image.spacing) / self._node
        halves = (_tensor(self._data.shape) - 1).clamp_min(1) / 2
        inverse = torch.linalg.inv(self._matrix) / halves[:, None]  # from -1 to 1 over the data
        turn, offset = (inverse * steps).flip(0), (inverse @ (_tensor(self._margin) - self._offset) - 1).flip(0)
        plane = torch.stack(
            torch.meshgrid(*(torch.arange(n) for n in self._image.shape[1:]), indexing="ij"), -1
        ).double()
        plane = plane @ turn[:, 1:].mT + offset
        maps = y.reshape(1, -1, *self._data.shape)  # all in one: they share where they are looked at

        def lifted(first: int) -> Tensor:
            grid = (plane + turn[:, 0] * first).to(y)[None, None]
            return F.grid_sample(maps, grid, padding_mode="border", align_corners=True)

        return torch.cat(list(_each(lifted, range(self._image.shape[0]), y.device)), 2).reshape(
            *y.shape[:2], *self._image.shape
        )

    def _in_bands(self) -> list[tuple[Bands, Bands]]:
        """Return the matrix of each axis, from voxels to nodes and back: a Gaussian, mean over each voxel."""
        sizes = zip(
            self._image.shape, self._image.spacing, self._nodes, self._node, self._margin, self._variances, strict=True
        )
        found = []
        for axis, (voxels, spacing, nodes, node, margin, variance) in enumerate(sizes):
            edges = (torch.arange(voxels + 1, dtype=torch.float64) - 0.5) * spacing
            at = (torch.arange(nodes, dtype=torch.float64) - margin) * node
            matrix = torch.special.ndtr((edges - at[:, None]) / variance.sqrt()).diff(dim=1)
            matrix = torch.where(matrix > _NOTHING * matrix.max(), matrix, 0.0)
            there, back = (_bands(m, _BAND if axis < 2 else len(m)) for m in (matrix, matrix.mT))
            found.append((there, back))
        return found

    def _found_inside(self) -> Tensor:
        """Return the voxels of the data, by running index, whose kernel lies in the image's field of view."""
        axes = list(zip(self._image.spacing, self._image.shape, self._node, self._variances, self._margin, strict=True))
        found = []
        for start in range(0, math.prod(self._data.shape), _LISTED):
            rows = torch.arange(start, min(start + _LISTED, math.prod(self._data.shape)))
            centre = self._placed(rows)
            share = torch.ones(len(rows), dtype=torch.float64)
            for d, (spacing, voxels, node, variance, margin) in enumerate(axes):
                edges = torch.tensor([-0.5 * spacing, (voxels - 0.5) * spacing], dtype=torch.float64)
                wide = (variance + node.square() / 3).sqrt()
                at = [((centre[d] + delta[d] - margin) * node, w) for delta, w in self._shifts]
                parts = (w * torch.special.ndtr((edges - x[:, None]) / wide).diff(dim=1)[:, 0] for x, w in at)
                share = share * _sum(parts)
            found.append(rows[share >= _WITHIN])
        return torch.cat(found)

    def _placed(self, rows: Tensor) -> Tensor:
        """Return where voxels of the data lie among the nodes, **[3, N]** float64."""
        _, n1, n2 = self._data.shape
        index = torch.stack([rows // (n1 * n2), rows // n2 % n1, rows % n2]).to(torch.float64)
        return self._matrix.to(index.device) @ index + self._offset.to(index.device)[:, None]

    def _lines(self, rows: Tensor, like: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield one line after another of the 4 x 4 x 4 nodes about voxels, along the last axis.

        First by how much the running index of its nodes is above that of the first line, then the first node of that
        **[N]**, the weights along the line **[4, N]**, and that of the line **[N]**.
        """
        centre, (_, m1, m2) = self._placed(rows), self._nodes
        for shift, share in self._shifts:
            at = centre + shift.to(centre.device)[:, None]
            low = at.floor()
            w0, w1, w2 = _bspline((at - low).to(like.dtype)).unbind(1)
            i, j, k = low.to(torch.int64) - 1
            first = (i * m1 + j) * m2 + k
            for a, b in product(range(4), range(4)):
                yield (a * m1 + b) * m2, first, w2, w0[a] * w1[b] * share


def _each(work: Callable[[Any], Tensor], items: Sequence[Any], device: torch.device) -> Iterator[Tensor]:
    """Give what `work` returns of each item, on a CPU by several threads."""
    return side_by_side(work, items) if device.type == "cpu" else map(work, items)


def _sum(terms: Iterator[Tensor]) -> Tensor:
    """Return the sum of at least one tensor, two of them in memory at a time."""
    total = next(terms)
    for term in terms:
        total = total + term
    return total


def _bspline(f: Tensor) -> Tensor:
    """Return the four weights of a cubic B-spline at fractions `f` **[3, N]** between nodes, **[4, 3, N]**."""
    g = 1 - f
    f2, g2 = f * f, g * g
    return torch.stack([g2 * g, 4 - 6 * f2 + 3 * f2 * f, 4 - 6 * g2 + 3 * g2 * g, f2 * f]) / 6


def _bands(matrix: Tensor, count: int) -> Bands:
    """Return so many rows of a matrix at a time, with the columns in which they are not 0."""
    found = []
    for rows in torch.split(matrix, count):
        columns = torch.nonzero(rows.any(0))[:, 0].tolist() or [0]  # far from the image all is 0
        found.append((columns[0], rows[:, columns[0] : columns[-1] + 1].contiguous()))
    return found


def _banded(bands: Bands, x: Tensor, axis: int) -> Tensor:
    """Apply a matrix along a spatial axis of `x` **[B, C, *spatial]**."""
    shape = (*x.shape[: axis + 2], sum(len(rows) for _, rows in bands), *x.shape[axis + 3 :])
    out, at = x.new_empty(shape), 0
    for first, rows in bands:
        part = x.narrow(axis + 2, first, rows.shape[1])
        out.narrow(axis + 2, at, len(rows)).copy_(apply_along(rows.to(x), part, axis))
        at += len(rows)
    return out


def _tensor(values: object) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _split(turn: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Split a PSF into variances along the axes of the image, and what is left of it along those of the data."""
    covariance = turn @ variances.diag() @ turn.mT
    along = covariance.diagonal()
    off = covariance / (along[:, None] * along).sqrt() - torch.eye(3, dtype=along.dtype)
    if float(off.abs().max()) <= _NEGLIGIBLE:
        return along, torch.zeros_like(along)
    least = variances.min()
    return least.expand(3), variances - least


def _quadrature(rest: Tensor, variances: Tensor) -> list[tuple[Tensor, float]]:
    """Return shifts along the axes of the data, mm **[3]**, and weights that make up a Gaussian of variances `rest`."""
    nodes = [(torch.zeros(3, dtype=torch.float64), 1.0)]
    for d, variance in enumerate(rest.tolist()):
        ratio = variance / float(variances.min())
        if ratio < 1e-6:
            continue
        rule = _QUADRATURE[3 if ratio < 0.3 else 5 if ratio < 1.2 else 7]
        unit = torch.zeros(3, dtype=torch.float64)
        unit[d] = math.sqrt(variance)
        signed = [(s * z, w) for z, w in rule for s in ((1.0,) if z == 0 else (1.0, -1.0))]
        nodes = [(at + z * unit, v * w) for at, v in nodes for z, w in signed]
    return nodes


def _check_grid(grid: Grid, name: str) -> None:
    if grid.ndim != 3:
        raise GeometryError(f"the {name} must be a volume of three axes, got {grid.ndim}; give a volume.")
    axes = _tensor(grid.axes)
    if float((axes @ axes.mT - torch.eye(3, dtype=axes.dtype)).abs().max()) > _ORTHOGONAL:
        raise GeometryError(
            f"the axes of the {name} must be at right angles, got a sheared affine {grid.affine}; "
            "resample it to a grid that is not."
        )


def _rigid(transform: Sequence[Sequence[float]] | Tensor | None) -> Tensor:
    matrix = torch.eye(4, dtype=torch.float64) if transform is None else _tensor(transform)
    if matrix.shape != (4, 4) or not bool(torch.isfinite(matrix).all()):
        raise GeometryError(f"a transform must be 4 x 4 and finite, got {tuple(matrix.shape)}; check it.")
    turn = matrix[:3, :3]
    off = float((turn @ turn.mT - torch.eye(3, dtype=turn.dtype)).abs().max())
    if off > _ORTHOGONAL or float(torch.linalg.det(turn)) < 0 or not torch.equal(matrix[3], _tensor([0, 0, 0, 1])):
        raise GeometryError(f"a transform must be rigid, got {matrix.tolist()}; leave out scale, shear and reflection.")
    return matrix


def narrowest_mean(data: Grid) -> list[float]:
    """Return the FWHM of the mean over a voxel along each axis, mm: no PSF of voxels is narrower."""
    return [FWHM_PER_SIGMA * step / math.sqrt(12.0) for step in data.spacing]


def narrowest_psf(data: Grid, image: Grid) -> list[float]:
    """Return the least FWHM of a PSF along each axis of the data's grid that `ScannerSampling` takes, mm."""
    least = 1.001 * _NARROWEST * max(image.spacing)
    return [max(width, least) for width in narrowest_mean(data)]


def _widths(fwhm_mm: float | Sequence[float], data: Grid) -> tuple[float, ...]:
    several = [fwhm_mm] * 3 if isinstance(fwhm_mm, (int, float)) else list(fwhm_mm)
    if len(several) != 3 or not all(math.isfinite(v) and v > 0 for v in several):
        raise DegradationError(f"the FWHM of a PSF must be one positive number or three, in mm, got {fwhm_mm}.")
    if max(several) > WIDEST_PSF:
        raise DegradationError(f"the FWHM of a PSF must be at most {WIDEST_PSF:g} mm, got {several}; check its unit.")
    least = narrowest_mean(data)
    if any(v < 0.999 * low for v, low in zip(several, least, strict=True)):
        raise DegradationError(
            "the FWHM of a PSF must be at least that of the mean over a voxel, "
            f"{[round(v, 2) for v in least]} mm along the axes of the PET, got {several} mm; check the PSF."
        )
    return tuple(float(v) for v in several)
