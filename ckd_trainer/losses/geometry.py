"""Cosines, distances and angles within a set of vectors, from inner products alone.

A set is N vectors x_1..x_N of one width, of which a mask says which are real. Everything that CKD compares is a
function of their inner products, so the width appears once, in `gram`, and never beside a pair or triple of items.

Computation is in float32 (float64 where the input is) whatever the input's type and the autocast around it.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rounding leaves a few units in the last place of the norms where the exact result is 0.
_ROUNDING_UNITS = 16


class Gram(NamedTuple):
    """Inner products of the vectors of each set, as they are and less the mean m of the set's valid vectors.

    Cosines need the vectors as they are. Differences do not change when the mean is taken off, and float32 keeps its
    digits: the hidden states of a transformer share a large common part.
    """

    raw: Tensor  # (..., N, N)  <x_i, x_j>
    centred: Tensor  # (..., N, N)  <x_i - m, x_j - m>


def gram(vectors: Tensor, mask: Tensor) -> Gram:
    """Returns the inner products within each set.

    Args:
        vectors: (..., N, width), any floating type. What masked items hold does not matter, be it NaN.
        mask: (..., N), true or 1 for valid items.

    Rows and columns of masked items are finite and meaningless.
    """
    return Gram(*_InnerProducts.apply(vectors, mask.bool()))


class _InnerProducts(torch.autograd.Function):
    """Keeps the vectors that it was given for the backward pass, and no copy of them.

    With w the share of each item in the mean and P = I - 1 w^T, the products are X X^T and P X (P X)^T. For incoming
    gradients R and C the gradient is (R + R^T + P^T (C + C^T) P) X: matrices of items, and one product with X.
    """

    @staticmethod
    def forward(ctx, vectors, mask):
        ctx.save_for_backward(vectors, mask)
        with torch.autocast(vectors.device.type, enabled=False):
            items = _valid_items(vectors, mask)
            centred = items - _shares(mask, items) @ items
            return items @ items.mT, centred @ centred.mT

    @staticmethod
    @once_differentiable
    def backward(ctx, raw_gradient, centred_gradient):
        vectors, mask = ctx.saved_tensors
        with torch.autocast(vectors.device.type, enabled=False):
            items = _valid_items(vectors, mask)
            shares = _shares(mask, items)
            centred = centred_gradient + centred_gradient.mT
            centred = centred - centred.sum(-1, keepdim=True) * shares  # (C + C^T) P
            centred = centred - centred.sum(-2, keepdim=True) * shares.mT  # P^T (C + C^T) P
            gradient = (raw_gradient + raw_gradient.mT + centred) @ items
            return gradient.masked_fill_(~mask[..., None], 0).to(vectors.dtype), None


def _valid_items(vectors: Tensor, mask: Tensor) -> Tensor:
    """Returns the vectors in float32 or wider, zero where they are masked."""
    return vectors.to(torch.promote_types(vectors.dtype, torch.float32)).masked_fill(~mask[..., None], 0)


def _shares(mask: Tensor, like: Tensor) -> Tensor:
    """Returns the share of each item in the mean of the valid ones, (..., 1, N)."""
    return (mask / mask.sum(-1, keepdim=True).clamp_min(1)).to(like.dtype)[..., None, :]


def cosines(raw: Tensor) -> Tensor:
    """Returns <x_i, x_j> / (|x_i| |x_j|) from the raw products, (..., N, N); 0 where a vector is zero."""
    squared_norms = _diagonal(raw)
    inverse_norms = _rsqrt_or_zero(squared_norms, torch.zeros_like(squared_norms))
    return raw * inverse_norms[..., :, None] * inverse_norms[..., None, :]


def squared_distances(centred: Tensor) -> Tensor:
    """Returns |x_i - x_j|^2 from the centred products, (..., N, N); 0 where the two are equal up to rounding."""
    squares = _diagonal(centred)
    size = squares[..., :, None] + squares[..., None, :]
    distances = size - 2 * centred
    return distances.masked_fill(_vanishes(distances, size), 0)


def angles(centred: Tensor, mask: Tensor, window_size: int | None = None) -> Tensor:
    """Returns the cosine of the angle at item i between items j and k, for every j and k in the window of i.

    cos = <x_j - x_i, x_k - x_i> / (|x_j - x_i| |x_k - x_i|)
        = (G_ii - G_ij - G_ik + G_jk) / (r_ij r_ik),  r_ij^2 = G_ii + G_jj - 2 G_ij

    Args:
        centred: (..., N, N), the centred products of sets of N items.
        mask: (..., N), true for valid items.
        window_size: odd; j and k are at most window_size // 2 places from i. None: no limit.

    Returns:
        (..., N, W, W) with W = window_size, j and k counted from the window's start; (..., N, N, N), j and k counted
        from the set's start, where the window is None or no smaller than the set. 0 where r_ij or r_ik is 0 and where
        an item is masked or out of the window.
    """
    if _covers(window_size, mask):
        near = centred[..., None, :, :]  # (..., 1, j, k), the same for each i
        to_centre = centred  # (..., i, j)
    else:
        near = _neighbourhoods(centred, window_size // 2)  # (..., i, j, k)
        to_centre = near[..., window_size // 2, :]

    centre = _diagonal(centred)[..., None]  # (..., i, 1)  G_ii
    squares = _diagonal(near)  # (..., i or 1, j)  G_jj
    size = centre + squares
    inverse_lengths = _rsqrt_or_zero(size - 2 * to_centre, size)  # (..., i, j)  1 / r_ij
    inverse_lengths = inverse_lengths * _in_window(mask, window_size)
    # <x_j - x_i, x_k - x_i> from G_jk, with half of G_ii on either side
    offset = 0.5 * centre - to_centre
    inner = near + offset[..., :, None] + offset[..., None, :]  # (..., i, j, k)
    return inner * inverse_lengths[..., :, None] * inverse_lengths[..., None, :]


def count_triples(mask: Tensor, window_size: int | None = None) -> Tensor:
    """Returns how many triples (i, j, k) of valid items have j and k in the window of i, over all sets (a scalar).

    Triples with j = i, k = i or j = k are counted, as the published weights were found with them.
    """
    return _in_window(mask, window_size).sum(-1).square().sum()


def _covers(window_size: int | None, mask: Tensor) -> bool:
    """True where listing the whole set for each item costs no more than listing its window."""
    return window_size is None or window_size >= mask.shape[-1]


def _in_window(mask: Tensor, window_size: int | None) -> Tensor:
    """Returns (..., i, j), true where both items are valid and j is in the window of i; j counted as in `angles`."""
    mask = mask.bool()
    if not _covers(window_size, mask):
        reach = window_size // 2
        return mask[..., :, None] & F.pad(mask, (reach, reach)).unfold(-1, window_size, 1)
    valid = mask[..., :, None] & mask[..., None, :]
    if window_size is None:
        return valid
    places = torch.arange(mask.shape[-1], device=mask.device)
    return valid & ((places[:, None] - places[None, :]).abs() <= window_size // 2)


def _neighbourhoods(matrix: Tensor, reach: int) -> Tensor:
    """Returns a view (..., N, W, W) whose entry (i, a, b) is matrix[i - reach + a, i - reach + b]; 0 off the edges."""
    window = 2 * reach + 1
    padded = F.pad(matrix, (reach, reach, reach, reach))
    *batch, row, column = padded.stride()
    shape = (*matrix.shape[:-1], window, window)
    return padded.as_strided(shape, (*batch, row + column, row, column))


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1)


def _vanishes(difference: Tensor, size: Tensor) -> Tensor:
    """True where a difference of terms of this size is 0 up to rounding."""
    return difference <= _ROUNDING_UNITS * torch.finfo(size.dtype).eps * size


def _rsqrt_or_zero(squares: Tensor, size: Tensor) -> Tensor:
    """Returns 1 / sqrt(squares), and 0 with gradient 0 where the square vanishes against the size of its terms."""
    zero = _vanishes(squares, size)
    return squares.masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)
