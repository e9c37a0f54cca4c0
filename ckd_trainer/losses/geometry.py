"""Inner products within a set of vectors, and the cosines and distances that follow from them.

A set is N vectors x_1..x_N of the same width, with a mask of the valid ones. Everything that CKD compares is a
function of their inner products. The width therefore enters once, in `gram`, and not in the cost of each pair or
triple.

Computation is in float32 (float64 for float64 inputs), whatever the input's type and the surrounding autocast.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Tensors = list[Tensor] | tuple[Tensor, ...]

# Where the exact result is 0, rounding leaves a few units in the last place of the norms.
_ROUNDING_UNITS = 16


class Gram(NamedTuple):
    """Inner products within each set, of its vectors relative to a center m: c_i = x_i - m.

    Subtracting a center does not change differences. It preserves their digits in float32, because the hidden states
    of a transformer share a large common part. Cosines need the raw products, which one more number per item gives
    back: <x_i, x_j> = products_ij + offsets_i + offsets_j.
    """

    products: Tensor  # (..., N, N)  <c_i, c_j>
    offsets: Tensor  # (..., N)  <c_i, m> + |m|^2 / 2, and 0 of masked items


def gram(vectors: Tensor, mask: Tensor) -> Gram:
    """Returns the inner products within each set.

    Args:
        vectors: (..., N, width), any floating type. Masked items may hold anything, even NaN.
        mask: (..., N), true or 1 for valid items.

    Products with masked items are 0. `stacked_gram` explains what may be computed from the result.
    """
    sets = stacked_gram([vectors.reshape(-1, *vectors.shape[-2:])], mask.reshape(-1, mask.shape[-1]), dim=1)
    return Gram(sets.products.view(*mask.shape, mask.shape[-1]), sets.offsets.view(mask.shape))


def stacked_gram(layers: Sequence[Tensor], mask: Tensor, dim: int, pooling: Tensor | None = None) -> Gram:
    """Returns the inner products within each set of `torch.stack(layers, dim)`, without building the whole stack.

    With a matrix A (`pooling`), the items are not tokens but A times the tokens of a layer, such as their means over
    words. If the items of a set are those of one layer, and K are the inner products of its tokens, the result is
    A K A^T.

    The center of a set is the mean of its valid vectors, weighted by 1 / |x_i|. A vector that is far longer than the
    others therefore does not pull the center away from them, and their cosines keep their digits.

    Any function of the result must ignore masked items, and must depend only on differences or on `raw_products`.
    These do not depend on the center, which the backward pass treats as a constant.

    Memory does not depend on the batch size. Beside the result, this needs about three copies of a chunk; the backward
    pass also needs the gradient of all layers in float32. A chunk has `chunk_numel` elements, or those of the layers
    of one example if these are more (11 MB for 7 layers of 512 tokens of width 768).

    Args:
        layers: (batch, length, width) each.
        mask: (batch, items). The items are tokens, so there are `length`, or those of `pooling`.
        dim: 1 for (batch, layers) sets of tokens; 2 for (batch, length) sets of layers.
        pooling: A, (batch, items, length), with zeros for masked items. Tokens that are in no item may hold anything.
    """
    return Gram(*_InnerProducts.apply(mask.bool(), pooling, dim, *layers))


def raw_products(set_: Gram) -> Tensor:
    """Returns <x_i, x_j>, (..., N, N)."""
    return set_.products + set_.offsets[..., :, None] + set_.offsets[..., None, :]


def chunk_numel(device: torch.device) -> int:
    """Returns the number of elements that a temporary tensor should have: 2^20 (4 MB in float32), or 2^23 on a GPU.

    A CPU is fastest when the tensors of an operation stay in its cache, a GPU when each operation has enough work.
    """
    return 2**20 if device.type == "cpu" else 2**23


class _InnerProducts(torch.autograd.Function):
    """Saves its input layers for the backward pass, without a copy.

    For incoming gradients B of the products and b of the offsets, the gradient of x_i is
    sum_j (B_ij + B_ji) c_j + b_i m: one product of an N x N matrix with the vectors. With pooling, A^T times these is
    the gradient of the tokens.
    """

    @staticmethod
    def forward(ctx: Any, mask: Tensor, pooling: Tensor | None, dim: int, *layers: Tensor) -> tuple[Tensor, Tensor]:
        parts = []
        with torch.autocast(mask.device.type, enabled=False):
            for (valid, *others), chunk in _chunks(layers, mask, *_given(pooling)):
                items = _items(chunk, valid, dim, *others)
                valid = valid.unsqueeze(dim)[..., None]
                # 1 / |x_i|, and 0 for zero vectors, which include masked ones
                weights = torch.linalg.vector_norm(items, dim=-1, keepdim=True).reciprocal_()
                weights.nan_to_num_(nan=math.nan, posinf=0)
                center = weights.mT @ items / weights.sum(-2, keepdim=True).clamp_min(torch.finfo(items.dtype).tiny)
                items.addcmul_(valid.to(items.dtype), center, value=-1)
                size = center.square().sum(-1, keepdim=True)
                # Not |m|^2 / 2 of masked items: |m|^2 may be so small that 1 / |m|^2 overflows.
                offsets = (items @ center.mT).addcmul_(valid.to(items.dtype), size, value=0.5)
                products = items @ items.mT
                _clear_rounding(products, size)
                parts.append((products, offsets.squeeze(-1), center))
        products, offsets, centers = map(joined, zip(*parts, strict=True))
        ctx.dim = dim
        ctx.save_for_backward(mask, pooling, centers, *layers)
        return products, offsets

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_products: Tensor, by_offsets: Tensor) -> tuple[Tensor | None, ...]:
        mask, pooling, centers, *layers = ctx.saved_tensors
        shape = list(layers[0].shape)
        shape.insert(ctx.dim, len(layers))
        gradient, first = centers.new_empty(shape), 0
        with torch.autocast(mask.device.type, enabled=False):
            for (valid, center, by_product, by_offset, *others), chunk in _chunks(
                layers, mask, centers, by_products, by_offsets, *_given(pooling)
            ):
                items = _items(chunk, valid, ctx.dim, *others)
                items.addcmul_(valid.unsqueeze(ctx.dim)[..., None].to(center.dtype), center, value=-1)
                part, first = gradient[first : first + len(valid)], first + len(valid)
                by_item = part if pooling is None else torch.empty_like(items)
                torch.matmul(by_product + by_product.mT, items, out=by_item)
                by_item.addcmul_(by_offset[..., None], center)
                if others:
                    part.copy_(_times(others[0].mT, by_item, ctx.dim))
        parts = gradient.unbind(ctx.dim)
        return None, None, None, *(part.to(layer.dtype) for part, layer in zip(parts, layers, strict=True))


def _clear_rounding(products: Tensor, size: Tensor) -> None:
    """Sets the products of items that equal the center m up to rounding to 0: their remainder has no direction.

    size: |m|^2, (..., 1, 1).
    """
    rounding = _ROUNDING_UNITS * torch.finfo(products.dtype).eps
    at_center = diagonal(products) <= rounding**2 * size.squeeze(-1)
    products.masked_fill_(at_center[..., None] | at_center[..., None, :], 0)


def _given(pooling: Tensor | None) -> list[Tensor]:
    return [] if pooling is None else [pooling]


def _chunks(layers: Tensors, *others: Tensor) -> Iterator[tuple[Tensors, Tensors]]:
    """Returns chunks of a few examples each of the others and of the layers."""
    size = max(1, chunk_numel(layers[0].device) // max(1, len(layers) * layers[0][:1].numel()))
    if size >= len(layers[0]):
        return iter([(others, layers)])
    parts = (zip(*(tensor.split(size) for tensor in tensors), strict=True) for tensors in (others, layers))
    return zip(*parts, strict=True)


def joined(parts: Tensors) -> Tensor:
    """Returns the concatenated parts; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _items(layers: Tensors, valid: Tensor, dim: int, pooling: Tensor | None = None) -> Tensor:
    """Returns the stacked items in float32 or wider, with zeros at masked ones."""
    if pooling is None:
        return _valid_vectors(layers, valid.unsqueeze(dim)[..., None], dim)
    in_item = pooling.any(-2).unsqueeze(dim)[..., None]
    return _times(pooling, _valid_vectors(layers, in_item, dim), dim)


def _times(matrix: Tensor, stacked: Tensor, dim: int) -> Tensor:
    """Returns a matrix (batch, n, m) times each layer of `torch.stack(layers, dim)`, whose length is m."""
    matrix = matrix.to(stacked.dtype)
    if dim == 1:
        return matrix[:, None] @ stacked
    return (matrix @ stacked.flatten(2)).unflatten(2, stacked.shape[2:])


def _valid_vectors(layers: Tensors, valid: Tensor, dim: int) -> Tensor:
    """Returns a stacked copy in float32 or wider, with zeros at masked vectors."""
    items = torch.stack(layers, dim)
    items = items.to(torch.promote_types(items.dtype, torch.float32))
    # A bitwise and with 0 clears any number, NaN included, four times as fast on a CPU as masked_fill_.
    bits = torch.int32 if items.dtype == torch.float32 else torch.int64
    items.view(bits).bitwise_and_(-valid.to(bits))
    return items


def diagonal(matrix: Tensor) -> Tensor:
    """Returns a view of the diagonal of the last two dimensions."""
    return matrix.diagonal(dim1=-2, dim2=-1)


def squared_distances(products: Tensor) -> Tensor:
    """Returns |x_i - x_j|^2 from the products, (..., N, N); 0 where x_i and x_j are equal up to rounding."""
    squares = diagonal(products)
    size = squares[..., :, None] + squares[..., None, :]
    distances = size - 2 * products
    return distances.masked_fill(_vanishes(distances, size), 0)


def rsqrt_or_zero(squares: Tensor, size: Tensor) -> Tensor:
    """Returns 1 / sqrt(squares), and 0 where a square is negligible relative to the terms it was computed from."""
    zero = _vanishes(squares, size)
    return squares.masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)


def _vanishes(difference: Tensor, size: Tensor) -> Tensor:
    """Returns whether a difference between terms of this size is 0 up to rounding."""
    return difference <= _ROUNDING_UNITS * torch.finfo(size.dtype).eps * size
