"""The triple relation: compares the angle at item i between items j and k, for every triple.

    cos_ijk = <x_j - x_i, x_k - x_i> / (|x_j - x_i| |x_k - x_i|) = (G_ii - G_ij - G_ik + G_jk) / (r_ij r_ik),
    r_ij^2 = G_ii + G_jj - 2 G_ij

where G are the products of `gram`. A set has N W W triples but only N N products, so no list of triples is ever built.
Instead, each j is a block of all i, k > j and sets, as the angle is symmetric in j and k. Each block adds its gradient
in closed form. For short texts the number of operations determines the cost: if all j and k fit into one
block, there is only one. tests/helpers/reference.py computes the same loss in plain loops.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ckd_trainer.losses.geometry import Gram, chunk_numel, joined, rsqrt_or_zero

TensorFunction = Callable[[Tensor], Tensor]

# For each loss: its sum over a tensor of differences, and its derivative, which may overwrite the tensor.
_LOSSES = {
    "mse": (
        lambda difference: torch.linalg.vector_norm(difference).square(),
        lambda difference: difference.mul_(2),
    ),
    "l1": (lambda difference: difference.abs().sum(), torch.Tensor.sign_),
    "smooth_l1": (
        lambda difference: F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="sum"),
        lambda difference: difference.clamp_(-1, 1),
    ),
}


def triple_loss(
    student: Gram, teacher: Gram, mask: Tensor, *, angle_loss: str = "mse", window_size: int | None = None
) -> Tensor:
    """Compares the angles at each item between every two items in its window (the paper's triple-wise relation).

        sum_ijk loss(cos^S_ijk, cos^T_ijk) / number of triples

    over valid i, j, k with j and k in the window of i. An angle with a side of length 0 has cosine 0. Triples with
    j = i, k = i or j = k count, because the published weights were found with them.

    The sets are processed in chunks. Beside four tensors of the size of the products, this needs fewer than 48 tensors
    of `chunk_numel` elements (or of the N min(window_size, N) of one set if that is more). That is 200 MB on a CPU for
    up to 1024 items, with or without a window, whatever the batch size.

    Args:
        student, teacher: from `gram`, of (..., N) items; the widths of the vectors may differ.
        mask: (..., N), true or 1 for valid items.
        angle_loss: "mse", "l1" or "smooth_l1".
        window_size: odd, centered; None for all triples.

    Returns:
        a scalar; 0 if no item is valid.

    Raises:
        ValueError: an unknown angle_loss, or an even window.
    """
    if window_size is not None and (window_size < 1 or window_size % 2 == 0):
        raise ValueError(
            f"window_size is {window_size}, but a window is centered on an item: give an odd number or None."
        )
    if angle_loss not in _LOSSES:
        raise ValueError(f"angle_loss {angle_loss!r} is unknown: give {', '.join(_LOSSES)}.")
    mask = mask.bool()
    items = mask.shape[-1]
    total = _TripleSum.apply(
        student.products.reshape(-1, items, items),
        teacher.products.reshape(-1, items, items),
        mask.reshape(-1, items),
        angle_loss,
        window_size,
    )
    return total / triple_count(mask, window_size).clamp_min(1)


def triple_count(mask: Tensor, window_size: int | None = None) -> Tensor:
    """Returns the number of triples, the divisor of `triple_loss`."""
    mask = mask.bool()
    if window_size is None:
        return mask.sum(-1).pow(3).sum()
    reach = min(window_size // 2, mask.shape[-1])
    near = F.pad(mask, (reach, reach)).unfold(-1, 2 * reach + 1, 1).sum(-1)
    return near.square().masked_fill(~mask, 0).sum()


class _TripleSum(torch.autograd.Function):
    """Sums the losses of all triples of all sets, (sets, N, N), and computes the gradient in the same pass."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, mask: Tensor, angle_loss: str, window_size: int | None
    ) -> Tensor:
        sets, items, _ = student.shape
        near = min(window_size or items, items)
        chunks = max(1, math.ceil(sets * items * near / chunk_numel(student.device)))
        total, gradients = student.new_zeros(()), []
        for ours, theirs, valid in zip(*(tensor.chunk(chunks) for tensor in (student, teacher, mask)), strict=True):
            layout = (_Whole if near == items else _Window)(valid, window_size)
            angles = _Angles(layout, ours, theirs, ctx.needs_input_grad[0])
            total += angles.sum_losses(*_LOSSES[angle_loss])
            if ctx.needs_input_grad[0]:
                gradients.append(angles.gradient())
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(joined(gradients))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None, None


class _Whole:
    """Products indexed by position, for sets in which j and k are any items. Table: (N, N, ..., sets)."""

    def __init__(self, mask: Tensor, window_size: int | None) -> None:
        items = mask.shape[-1]
        self.one_block = 2 * mask.numel() * items**2 <= chunk_numel(mask.device)
        self.inside = mask.T[:, None] & mask.T[None]  # (k, i, sets)
        if window_size is not None and window_size // 2 < items - 1:
            places = torch.arange(items, device=mask.device)
            self.inside &= ((places[:, None] - places).abs() <= window_size // 2)[..., None]

    def table(self, *sides: Tensor) -> Tensor:
        return torch.stack([products.permute(1, 2, 0) for products in sides], dim=2)

    def products(self, table: Tensor) -> Tensor:
        return table.permute(2, 0, 1)

    def own_squares(self, table: Tensor) -> Tensor:
        """G_ii, (i, ..., sets)."""
        return table.diagonal(dim1=0, dim2=1).movedim(-1, 0)

    def near_squares(self, table: Tensor) -> Tensor:
        """G_kk, (k, i or 1, ..., sets)."""
        return self.own_squares(table)[:, None]

    def to_center(self, table: Tensor) -> Tensor:
        """G_ik, (k, i, ..., sets)."""
        return table

    def between(self, table: Tensor, j: int) -> Tensor:
        """G_jk for k > j, (k, i or 1, ..., sets)."""
        return table[j, j + 1 :, None]

    def add_near_squares(self, table: Tensor, gradient: Tensor) -> None:
        self.own_squares(table).add_(gradient.sum(1))

    def add_to_center(self, table: Tensor, gradient: Tensor) -> None:
        table += gradient


class _Window:
    """Products indexed by distance, for sets in which j and k are at most `reach` positions from i.

    Table: (window, N + 2 reach, ..., sets). Entry (d, p) is the product of the items at positions p - reach and
    p - reach + d, and 0 outside the set. j and k count from the start of the window, so all i of a block are adjacent.
    """

    one_block = False

    def __init__(self, mask: Tensor, window_size: int) -> None:
        self.items, self.window, self.reach = mask.shape[-1], window_size, window_size // 2
        near = F.pad(mask, (self.reach, self.reach)).unfold(-1, window_size, 1)  # (sets, i, k)
        self.inside = (near & mask[..., None]).permute(2, 1, 0)

    def table(self, *sides: Tensor) -> Tensor:
        table = sides[0].new_zeros(self.window, self.items + 2 * self.reach, len(sides), len(sides[0]))
        for side, products in enumerate(sides):
            for distance in range(self.window):
                self._inside(table, distance)[:, side] = products.diagonal(distance, 1, 2).T
        return table

    def products(self, table: Tensor) -> Tensor:
        products = table.new_zeros(table.shape[-1], self.items, self.items)
        for distance in range(self.window):
            products.diagonal(distance, 1, 2).copy_(self._inside(table, distance).T)
        return products

    def _inside(self, table: Tensor, distance: int) -> Tensor:
        return table[distance, self.reach : self.reach + self.items - distance]

    def own_squares(self, table: Tensor) -> Tensor:
        return table[0, self.reach : self.reach + self.items]

    def near_squares(self, table: Tensor) -> Tensor:
        return table[0].unfold(0, self.items, 1).movedim(-1, 1)

    def to_center(self, table: Tensor) -> Tensor:
        return torch.stack([self._product_with_center(table, k) for k in range(self.window)])

    def between(self, table: Tensor, j: int) -> Tensor:
        return table[1 : self.window - j, j : j + self.items]

    def add_near_squares(self, table: Tensor, gradient: Tensor) -> None:
        for k in range(self.window):
            table[0, k : k + self.items] += gradient[k]

    def add_to_center(self, table: Tensor, gradient: Tensor) -> None:
        for k in range(self.window):
            self._product_with_center(table, k).add_(gradient[k])

    def _product_with_center(self, table: Tensor, k: int) -> Tensor:
        first = min(k, self.reach)
        return table[abs(k - self.reach), first : first + self.items]


class _Angles:
    """The angles of both sides: cos_ijk = (G_jk + half_ij + half_ik) inverse_ij inverse_ik, half_ij = G_ii / 2 - G_ij.

    Args:
        student, teacher: products, (sets, N, N). Every operation processes both.
        with_gradient: compute the gradient of the student's products.
    """

    def __init__(self, layout: _Whole | _Window, student: Tensor, teacher: Tensor, with_gradient: bool) -> None:
        self.layout, self.table, self.with_gradient = layout, layout.table(student, teacher), with_gradient
        own, to_center = layout.own_squares(self.table), layout.to_center(self.table)
        size = own + layout.near_squares(self.table)
        # (k, i, 2, sets); inverse is 1 / r_ik, and 0 if the side is masked or has length 0
        self.half = own / 2 - to_center
        self.inverse = rsqrt_or_zero(size - 2 * to_center, size).mul_(layout.inside[:, :, None])
        self.half_scaled = self.half * self.inverse
        if with_gradient:
            # by_inverse holds the gradient of inverse times inverse: the derivative of cos by inverse_ij is
            # cos / inverse_ij
            self.student_inverse = self.inverse[:, :, 0].contiguous()
            self.by_half = torch.zeros_like(self.student_inverse)
            self.by_inverse = torch.zeros_like(self.student_inverse)
            self.by_table = torch.zeros_like(self.table[:, :, 0])

    def sum_losses(self, loss: TensorFunction, derivative: TensorFunction) -> Tensor:
        """Returns the sum of a loss over all triples, and accumulates what `gradient` needs."""
        if self.layout.one_block:
            everything = (slice(None), None)  # all j, broadcast over all k
            total, by_length, by_inner = self._block(loss, derivative, self.table[:, :, None], everything, slice(None))
            if self.with_gradient:
                self.by_inverse += by_length.sum(0)
                self.by_half += by_inner.sum(0)
                self.by_table.add_(by_inner.sum(2), alpha=0.5)  # once for (j, k), once for (k, j)
            return total
        # j = k: the cosine is 1, or 0 if the side has length 0
        total = loss((self.inverse > 0).to(self.inverse.dtype).diff(dim=2))
        for j in range(len(self.inverse) - 1):
            after = slice(j + 1, None)
            value, by_length, by_inner = self._block(loss, derivative, self.layout.between(self.table, j), j, after)
            total += 2 * value  # (i, j, k) and (i, k, j)
            if self.with_gradient:
                self.by_inverse[j] += by_length.sum(0)
                self.by_inverse[after] += by_length
                self.by_half[j] += by_inner.sum(0)
                self.by_half[after] += by_inner
                between = self.layout.between(self.by_table, j)
                between += by_inner.sum_to_size(between.shape)
        return total

    def _block(
        self, loss: TensorFunction, derivative: TensorFunction, between: Tensor, j: int | tuple[slice, None], ks: slice
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns the sum over a block and, with_gradient, each angle's contribution to by_inverse and by_half."""
        inner = between + self.half[j]  # (..., k, i, 2, sets)
        cosines = torch.addcmul(self.half_scaled[ks], inner, self.inverse[ks]).mul_(self.inverse[j])
        student, teacher = cosines.unbind(-2)
        differences = student - teacher
        total = loss(differences)
        if not self.with_gradient:
            return total, None, None
        by_cosine = derivative(differences)
        by_length = student.mul_(by_cosine)
        return total, by_length, by_cosine.mul_(self.student_inverse[ks]).mul_(self.student_inverse[j])

    def gradient(self) -> Tensor:
        """Returns the gradient of the student's products, (sets, N, N)."""
        # of r_ik^2: d r^-1 / d r^2 = -r^-3 / 2
        by_square = self.student_inverse.square_().mul_(self.by_inverse).mul_(-0.5)
        own = self.layout.own_squares(self.by_table)
        own += by_square.sum(0) + self.by_half.sum(0) / 2
        self.layout.add_near_squares(self.by_table, by_square)
        self.layout.add_to_center(self.by_table, -2 * by_square - self.by_half)
        # Doubled, as (i, j, k) and (i, k, j) both count. Contiguous, so that the product with the vectors is fast.
        return self.layout.products(self.by_table).contiguous().mul_(2)
