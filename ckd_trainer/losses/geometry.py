"""Cosines, distances and angles within a set of vectors, from inner products alone.

A set is N vectors x_1..x_N of one width, of which a mask says which are real. Everything that CKD compares is a
function of their inner products, so the width appears once, in `gram`, and never beside a pair or triple of items.

Computation is in float32 (float64 where the input is) whatever the input's type and the autocast around it.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Rounding leaves a few units in the last place of the norms where the exact result is 0.
_ROUNDING_UNITS = 16


class Gram(NamedTuple):
    """Inner products of N vectors per set; m is the mean of the set's valid vectors.

    Differences do not change when the mean is taken off, and float32 keeps its digits: hidden states of
    transformers share a large common part. The other two fields give the products with the mean back.
    """

    centred: Tensor  # (..., N, N)  <x_i - m, x_j - m>
    with_mean: Tensor  # (..., N)  <x_i - m, m>
    mean_square: Tensor  # (...)  <m, m>


def gram(vectors: Tensor, mask: Tensor) -> Gram:
    """Returns the inner products within each set.

    Args:
        vectors: (..., N, width), any floating type. What masked items hold does not matter, be it NaN.
        mask: (..., N), true or 1 for valid items.

    Rows and columns of masked items are finite and meaningless.
    """
    mask = mask.bool()
    with torch.autocast(vectors.device.type, enabled=False):
        vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
        vectors = vectors.masked_fill(~mask[..., None], 0)
        mean = vectors.sum(-2, keepdim=True) / mask.sum(-1).clamp_min(1)[..., None, None]  # (..., 1, width)
        centred = vectors - mean
        return Gram(
            centred=centred @ centred.transpose(-1, -2),
            with_mean=(centred @ mean.transpose(-1, -2)).squeeze(-1),
            mean_square=mean.square().sum((-1, -2)),
        )


def cosines(products: Gram) -> Tensor:
    """Returns <x_i, x_j> / (|x_i| |x_j|), (..., N, N); 0 where a vector is zero."""
    with_mean, mean_square = products.with_mean, products.mean_square[..., None]
    squared_norms = _diagonal(products.centred) + 2 * with_mean + mean_square
    size = _diagonal(products.centred) + mean_square
    inverse_norms = _rsqrt_or_zero(squared_norms, size)
    raw = products.centred + (with_mean + mean_square)[..., :, None] + with_mean[..., None, :]
    return raw * inverse_norms[..., :, None] * inverse_norms[..., None, :]


def squared_distances(products: Gram) -> Tensor:
    """Returns |x_i - x_j|^2, (..., N, N); exactly 0 where the two are equal up to rounding."""
    squares = _diagonal(products.centred)
    size = squares[..., :, None] + squares[..., None, :]
    distances = size - 2 * products.centred
    return distances.masked_fill(_vanishes(distances, size), 0)


def angles(products: Gram, mask: Tensor, window_size: int | None = None) -> Tensor:
    """Returns the cosine of the angle at item i between items j and k, for every j and k in the window of i.

    cos = <x_j - x_i, x_k - x_i> / (|x_j - x_i| |x_k - x_i|)
        = (G_ii - G_ij - G_ik + G_jk) / (r_ij r_ik),  r_ij^2 = G_ii + G_jj - 2 G_ij

    Args:
        products: of sets of N items.
        mask: (..., N), true for valid items.
        window_size: odd; j and k are at most window_size // 2 places from i. None: no limit.

    Returns:
        (..., N, W, W) with W = window_size, j and k counted from the window's start; (..., N, N, N), j and k counted
        from the set's start, where the window is None or no smaller than the set. 0 where r_ij or r_ik is 0 and where
        an item is masked or out of the window.
    """
    if _covers(window_size, mask):
        near = products.centred[..., None, :, :]  # (..., 1, j, k), the same for each i
        to_centre = products.centred  # (..., i, j)
    else:
        near = _neighbourhoods(products.centred, window_size // 2)  # (..., i, j, k)
        to_centre = near[..., window_size // 2, :]

    centre = _diagonal(products.centred)[..., None]  # (..., i, 1)  G_ii
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
