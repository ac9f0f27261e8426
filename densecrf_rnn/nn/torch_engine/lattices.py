"""Filter with built lattices: splat, blur, slice, their transposes, and the diagonal."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..._limits import BLUR_SIDE
from ..ops.kernels import Lattice
from .sums import gathered, segmented


class Lattices(NamedTuple):
    """The lattices of a batch, in the form that filters read; U = M + 1 rows of vertex values.

    `Lattice.links` are `links` and, in the first column of a last plane, `begins`. `Lattice.facts`
    is the `order` that sorts the E corners of the points inside the mask, [E], or [1, E] if the
    blurs in both orders of the axes are averaged. Row M stands for vertices that are missing, and
    for those of points outside, and is 0. With one lattice for a batch of B images, the rows of
    values hold the channels of all images: R = B; else R = 1.
    """

    vertex: Tensor  # [P, d+1] int32
    weight: Tensor  # [P, d+1]
    links: Tensor  # [d+1, U, 3] int32: each vertex, and the next one back and forth along the axis
    begins: Tensor  # [U] int32: where the corners of each vertex begin
    point: Tensor  # [E] int32: the point of each corner, sorted by vertex
    share: Tensor  # [E]: its weight, times the scale of the filter
    blur: Tensor  # [U, 3]: the weights of the blur
    scale: float  # of the filter: 1 / (1 + 2^-d)
    symmetric: bool
    images: int  # that share one lattice, R

    @classmethod
    def of(cls, lattice: Lattice, batch: int) -> "Lattices":
        """Prepare lattices for filtering values of a batch of images."""
        if lattice.links.dim() != 3:
            raise ValueError("the lattice was built by another engine; build it with this backend")
        own, _, corners = lattice.vertex.shape
        weight = lattice.weight.detach().reshape(-1, corners)
        order = lattice.facts.flatten()
        scale = _scale(corners)
        blur = weight.new_full((lattice.links.shape[1], 3), BLUR_SIDE)
        blur[:, 0] = 1
        return cls(
            lattice.vertex.reshape(-1, corners),
            weight,
            lattice.links[:-1],
            lattice.links[-1, :, 0].contiguous(),
            order // corners,
            weight.reshape(-1).index_select(0, order) * scale,
            blur,
            scale,
            lattice.facts.dim() == 2,
            batch if own == 1 else 1,
        )

    def rows(self, values: Tensor) -> Tensor:
        """Return values [B, N, C] as rows of points, [P, R C]."""
        if self.images > 1:
            return values.transpose(0, 1).reshape(values.shape[1], -1)
        return values.reshape(-1, values.shape[2])

    def as_images(self, rows: Tensor, like: Tensor) -> Tensor:
        """Undo `rows`: return values [B, N, C] in the shape of `like`."""
        if self.images > 1:
            return rows.view(like.shape[1], self.images, -1).transpose(0, 1)
        return rows.view(like.shape[0], like.shape[1], -1)

    def splat(self, values: Tensor, transpose: bool) -> Tensor:
        """Return the sums at the vertices, times the scale of the filter, [U, R, C]."""
        found = segmented(self.rows(values), self.point, self.begins, self.share)
        return found.view(len(found), self.images, -1)

    def blurred(self, rows: Tensor, transpose: bool) -> Tensor:
        """Blur rows [U, R, C] along all axes, with `transpose` from last to first."""
        shape = rows.shape
        rows = rows.flatten(1)
        found = self._along_axes(rows, transpose)
        if self.symmetric:
            found = (found + self._along_axes(rows, not transpose)) / 2
        return found.view(shape)

    def _along_axes(self, rows: Tensor, reverse: bool) -> Tensor:
        links = self.links.unbind()
        for near in reversed(links) if reverse else links:
            rows = gathered(rows, near, self.blur)
        return rows

    def slice(self, rows: Tensor, like: Tensor, transpose: bool) -> Tensor:
        """Return the values at the points, [B, N, C], from rows [U, R, C]."""
        found = gathered(rows.flatten(1), self.vertex, self.weight)
        return self.as_images(found, like)

    def corner_products(self, values: Tensor, rows: Tensor) -> Tensor:
        """Return the inner product of values [B, N, C] and each corner's row, [own, N, d+1]."""
        given, rows = self.rows(values), rows.flatten(1)
        found = [
            (given * rows.index_select(0, corner)).sum(1) for corner in self.vertex.unbind(1)
        ]
        shape = (-1, values.shape[1], self.vertex.shape[1])
        return torch.stack(found, dim=1).view(shape)


def filtered(values: Tensor, lattice: Lattice, transpose: bool) -> Tensor:
    """Return K values or, with `transpose`, K' values, [B, N, C]."""
    if values.numel() == 0:
        return torch.empty_like(values, memory_format=torch.contiguous_format)
    k = Lattices.of(lattice, len(values))
    rows = k.blurred(k.splat(values, transpose), transpose)
    return k.slice(rows, values, transpose).contiguous()


def weight_gradient(values: Tensor, cotangent: Tensor, lattice: Lattice, transpose: bool) -> Tensor:
    """Return the gradient with respect to the barycentric weights, in their shape.

    It is that of <cotangent, K values> or, with `transpose`, of <cotangent, K' values>.
    """
    if values.numel() == 0:
        return torch.zeros_like(lattice.weight)
    k = Lattices.of(lattice, len(values))
    sliced = k.blurred(k.splat(values, transpose), transpose)
    spread = k.blurred(k.splat(cotangent, transpose), not transpose)
    return k.corner_products(cotangent, sliced) + k.corner_products(values, spread)


def self_response(lattice: Lattice, cotangent: Tensor | None) -> Tensor:
    """Return the diagonal of the kernel K of each lattice, [B, N].

    With a cotangent [B, N], return instead the gradient of <cotangent, diagonal> with respect to
    the barycentric weights, [B, N, D+1].
    """
    images, points, corners = lattice.vertex.shape
    out = lattice.weight.new_zeros(images * points, *([corners] if cotangent is not None else []))
    shape = (images, points, *out.shape[1:])
    if out.numel() == 0:
        return out.view(shape)
    weight = lattice.weight.detach().reshape(-1, corners)
    scale = _scale(corners)
    walks = _Walks(lattice)
    for a in range(corners):
        for b in range(a, corners):
            share = walks.share(a, b) * scale
            if cotangent is None:
                out += share * weight[:, a] * weight[:, b]
            else:
                share *= cotangent.reshape(-1)
                out[:, a] += share * weight[:, b]  # a = b adds twice: the derivative of a square
                out[:, b] += share * weight[:, a]
    return out.view(shape)


def _scale(corners: int) -> float:
    """Return the scale of the filter, for which a vertex's own value has weight 1."""
    return 1 / (1 + 2 * BLUR_SIDE**corners)


class _Walks:
    """The blur weight between each pair of a point's vertices.

    One step along every axis in the same direction returns to the start. So exactly two routes lead
    from one vertex to another: along the axes that separate them in one direction, or along all
    other axes in the opposite one. Blurring in reverse order takes the same routes backward.
    """

    def __init__(self, lattice: Lattice) -> None:
        self._links = lattice.links
        self._corners = lattice.vertex.shape[2]
        self._corner = [c.contiguous() for c in lattice.vertex.reshape(-1, self._corners).unbind(1)]
        self._missing = lattice.links.shape[1] - 1
        self._dtype = lattice.weight.dtype
        # On which axis each step from a point's corner k to its corner k + 1 is, [P, d+1] of bool.
        self._path = [
            torch.stack(
                [
                    self._next(axis, here, 1) == there
                    for axis in range(self._corners)
                ]
            )
            for here, there in zip(self._corner, self._corner[1:], strict=False)
        ]

    def _next(self, axis: int, at: Tensor, side: int) -> Tensor:
        return self._links[axis, :, 1 + side].index_select(0, at)

    def share(self, a: int, b: int) -> Tensor:
        """Return the blur weight from corner a to b >= a, both ways if they differ, [P]."""
        if a == b:  # one step along every axis and back to the start, or no step at all
            loops = self._exists(a, None, 0) + self._exists(a, None, 1)
            return 1 + loops * BLUR_SIDE**self._corners
        between = torch.stack(self._path[a:b]).any(0)
        near, far = BLUR_SIDE ** (b - a), BLUR_SIDE ** (self._corners - b + a)
        forth = self._exists(a, between, 1) * near + self._exists(a, ~between, 0) * far
        back = self._exists(b, between, 0) * near + self._exists(b, ~between, 1) * far
        return forth + back

    def _exists(self, corner: int, axes: Tensor | None, side: int) -> Tensor:
        """Return 1 where all vertices of a walk along `axes` [d+1, P] exist, else 0. [P]"""
        at = self._corner[corner]
        for axis in range(self._corners):
            on = self._next(axis, at, side)
            at = on if axes is None else torch.where(axes[axis], on, at)
        return (at != self._missing).to(self._dtype)
