"""The triple relation: the angle at item i between items j and k, compared for every triple.

    cos_ijk = <x_j - x_i, x_k - x_i> / (|x_j - x_i| |x_k - x_i|) = (G_ii - G_ij - G_ik + G_jk) / (r_ij r_ik),
    r_ij^2 = G_ii + G_jj - 2 G_ij

with G the products of `gram`. A set has N W W triples and N N products, so no list of triples is ever made: they are
gone through by j, a block of all i, k > j and sets at a time (an angle between j and k is the one between k and j),
and each block leaves its gradient behind, in closed form. tests/reference.py has the same loss in plain loops.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ckd_trainer.losses.geometry import Gram, numbers_at_once, rsqrt_or_zero

# For each loss of a difference: the sum over a tensor of differences, and the derivative by each of them.
_LOSSES = {
    "mse": (lambda difference: difference.square().sum(), lambda difference: 2 * difference),
    "l1": (lambda difference: difference.abs().sum(), torch.sign),
    "smooth_l1": (
        lambda difference: F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="sum"),
        lambda difference: difference.clamp(-1, 1),
    ),
}


def triple_loss(
    student: Gram, teacher: Gram, mask: Tensor, *, angle_loss: str = "mse", window_size: int | None = None
) -> Tensor:
    """Compares the angles at each item between every two items in its window (the paper's triple-wise relation).

        sum_ijk loss(cos^S_ijk, cos^T_ijk) / number of triples

    over valid i, j, k with j and k in the window of i; an angle with a side of length 0 has cosine 0. Triples with
    j = i, k = i or j = k are counted, as the published weights were found with them.

    Beside the products and their gradient this takes about ten blocks of N min(window_size, N) numbers for one set,
    or of 2^17 numbers for several sets where that is more: 6 MB at most for windows up to 255 and 512 items, 11 MB
    for all triples of 512 items, whatever the batch.

    Args:
        student, teacher: from `gram`, of (..., N) items; their widths may have differed.
        mask: (..., N), true or 1 for valid items.
        angle_loss: "mse", "l1" or "smooth_l1".
        window_size: odd, centred; None for all triples.

    Returns:
        a scalar; 0 where no item is valid.

    Raises:
        ValueError: an unknown angle_loss.
    """
    if angle_loss not in _LOSSES:
        raise ValueError(f"angle_loss {angle_loss!r} is not known: give {', '.join(_LOSSES)}.")
    mask = mask.bool()
    items = mask.shape[-1]
    total = _TripleSum.apply(
        student.products.reshape(-1, items, items),
        teacher.products.reshape(-1, items, items),
        mask.reshape(-1, items),
        angle_loss,
        window_size,
    )
    return total / _count_triples(mask, window_size).clamp_min(1)


def _count_triples(mask: Tensor, window_size: int | None) -> Tensor:
    """Returns the number of triples over all sets, a scalar."""
    if window_size is None:
        return mask.sum(-1).pow(3).sum()
    reach = window_size // 2
    before = F.pad(mask.long().cumsum(-1), (reach + 1, 0))  # of the items up to each place, reach + 1 places earlier
    upto = F.pad(mask.long(), (0, reach)).cumsum(-1)[..., reach:]
    in_window = upto - before[..., : mask.shape[-1]]
    return (in_window.square() * mask).sum()


class _TripleSum(torch.autograd.Function):
    """Sums the losses of all triples of all sets, (sets, N, N), and takes their gradient on the way."""

    @staticmethod
    def forward(ctx, student, teacher, mask, angle_loss, window_size):
        sets, items, _ = student.shape
        near = min(window_size or items, items)
        chunks = max(1, sets * items * near // numbers_at_once(student.device))
        total, gradients = student.new_zeros(()), []
        for ours, theirs, valid in zip(*(tensor.chunk(chunks) for tensor in (student, teacher, mask)), strict=True):
            layout = (_Whole if near == items else _Window)(valid, window_size)
            value, gradient = _sum_over_triples(
                layout, ours, theirs, *_LOSSES[angle_loss], with_gradient=ctx.needs_input_grad[0]
            )
            total += value
            gradients.append(gradient)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None, None


class _Whole:
    """Products by place, for sets in which j and k are any items. Table: (N, N, sets)."""

    def __init__(self, mask: Tensor, window_size: int | None):
        places = torch.arange(mask.shape[-1], device=mask.device)
        far = (places[:, None] - places).abs() > (window_size or 2 * len(places)) // 2
        self.outside = far[..., None] | ~mask.T[:, None] | ~mask.T[None, :]  # (k, i, sets)

    def table(self, products):
        return products.permute(1, 2, 0).contiguous()

    def products(self, table):
        return table.permute(2, 0, 1)

    def own_squares(self, table):
        """G_ii, (i, sets)."""
        return table.diagonal(dim1=0, dim2=1).T

    def near_squares(self, table):
        """G_kk, (k, i or 1, sets)."""
        return self.own_squares(table)[:, None]

    def to_centre(self, table):
        """G_ik, (k, i, sets)."""
        return table

    def between(self, table, j):
        """G_jk for k > j, (k, i or 1, sets)."""
        return table[j, j + 1 :, None]

    def add_near_squares(self, table, gradient):
        self.own_squares(table).add_(gradient.sum(1))

    def add_to_centre(self, table, gradient):
        table += gradient


class _Window:
    """Products by distance, for sets in which j and k are at most `reach` places from i.

    Table: (window, N + 2 reach, sets), entry (d, p) the product of the items at places p - reach and p - reach + d,
    0 off the edges. j and k count from the window's start, so that all i of a block lie side by side.
    """

    def __init__(self, mask: Tensor, window_size: int):
        self.items, self.window, self.reach = mask.shape[-1], window_size, window_size // 2
        near = F.pad(mask, (self.reach, self.reach)).unfold(-1, window_size, 1)  # (sets, i, k)
        self.outside = ~(near & mask[..., None]).permute(2, 1, 0)

    def table(self, products):
        # The last `window` columns are there for the view to stay within the tensor; nothing reads them.
        padded = F.pad(products, (self.reach, self.reach + self.window, self.reach, self.reach))
        return self._by_distance(padded).contiguous()

    def products(self, table):
        padded = table.new_zeros(table.shape[2], table.shape[1], table.shape[1] + self.window)
        self._by_distance(padded).copy_(table)
        inside = slice(self.reach, self.reach + self.items)
        return padded[:, inside, inside]

    def _by_distance(self, padded):
        sets, row, column = padded.stride()
        return padded.as_strided((self.window, *padded.shape[1::-1]), (column, row + column, sets))

    def own_squares(self, table):
        return table[0, self.reach : self.reach + self.items]

    def near_squares(self, table):
        return table[0].unfold(0, self.items, 1).transpose(1, 2)

    def to_centre(self, table):
        return torch.stack([self._product_with_centre(table, k) for k in range(self.window)])

    def between(self, table, j):
        return table[1 : self.window - j, j : j + self.items]

    def add_near_squares(self, table, gradient):
        for k in range(self.window):
            table[0, k : k + self.items] += gradient[k]

    def add_to_centre(self, table, gradient):
        for k in range(self.window):
            self._product_with_centre(table, k).add_(gradient[k])

    def _product_with_centre(self, table, k):
        first = min(k, self.reach)
        return table[abs(k - self.reach), first : first + self.items]


def _sum_over_triples(layout, student, teacher, loss, derivative, *, with_gradient):
    """Returns the sum of the losses over a chunk of sets and its gradient by the student's products, or None."""
    ours, theirs = _Angles(layout, student), _Angles(layout, teacher)
    if with_gradient:
        ours.start_gradient()
    # j = k: the cosine is 1, or 0 where the side has no length
    total = loss((ours.inverse > 0).to(student.dtype) - (theirs.inverse > 0).to(student.dtype))
    for j in range(len(ours.inverse) - 1):
        cosines = ours.cosines(j)
        differences = cosines - theirs.cosines(j)
        total += 2 * loss(differences)  # (i, j, k) and (i, k, j)
        if with_gradient:
            ours.accumulate(j, cosines, 2 * derivative(differences))
    return total, ours.gradient() if with_gradient else None


class _Angles:
    """The angles of one side: cos_ijk = (G_jk + half_ij + half_ik) inverse_ij inverse_ik, half_ij = G_ii / 2 - G_ij.

    Attributes:
        half, inverse: (k, i, sets); inverse is 1 / r_ik, 0 where there is no such side.
    """

    def __init__(self, layout, products: Tensor):
        self.layout, self.table = layout, layout.table(products)
        own, to_centre = layout.own_squares(self.table), layout.to_centre(self.table)
        size = own + layout.near_squares(self.table)
        self.half = own / 2 - to_centre
        self.inverse = rsqrt_or_zero(size - 2 * to_centre, size).masked_fill_(layout.outside, 0)
        self.half_scaled = self.half * self.inverse

    def start_gradient(self) -> None:
        # by_inverse is kept times inverse, as the derivative of a cosine by inverse_ij is cos / inverse_ij
        self.by_table, self.by_half, self.by_inverse = map(torch.zeros_like, (self.table, self.half, self.half))

    def cosines(self, j: int) -> Tensor:
        """Returns cos_ijk for all k > j, (k, i, sets)."""
        after = slice(j + 1, None)
        inner = self.layout.between(self.table, j) + self.half[j]
        return torch.addcmul(self.half_scaled[after], inner, self.inverse[after]).mul_(self.inverse[j])

    def accumulate(self, j: int, cosines: Tensor, by_cosine: Tensor) -> None:
        """Adds the gradient that comes from the angles of one j."""
        after = slice(j + 1, None)
        change = by_cosine * cosines
        self.by_inverse[j] += change.sum(0)
        self.by_inverse[after] += change
        by_inner = by_cosine.mul_(self.inverse[after]).mul_(self.inverse[j])
        self.by_half[j] += by_inner.sum(0)
        self.by_half[after] += by_inner
        between = self.layout.between(self.by_table, j)
        between += by_inner.sum_to_size(between.shape)

    def gradient(self) -> Tensor:
        """Returns the gradient by the products, (sets, N, N)."""
        by_square = self.inverse.square().mul_(self.by_inverse).mul_(-0.5)  # by r_ik^2: r^-1 has -r^-3 / 2
        own = self.layout.own_squares(self.by_table)
        own += by_square.sum(0) + self.by_half.sum(0) / 2
        self.layout.add_near_squares(self.by_table, by_square)
        self.layout.add_to_centre(self.by_table, -2 * by_square - self.by_half)
        return self.layout.products(self.by_table)
