"""Inner products within a set of vectors, and the cosines and distances that follow from them.

A set is N vectors x_1..x_N of one width, of which a mask says which are real. Everything that CKD compares is a
function of their inner products, so the width appears once, in `gram`, and never beside a pair or triple of items.

Computation is in float32 (float64 where the input is) whatever the input's type and the autocast around it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Tensors = list[Tensor] | tuple[Tensor, ...]

# Rounding leaves a few units in the last place of the norms where the exact result is 0.
_ROUNDING_UNITS = 16


class Gram(NamedTuple):
    """Inner products of the vectors of each set around a centre m: c_i = x_i - m.

    Differences do not change when a centre is taken off, and float32 keeps their digits, as the hidden states of a
    transformer share a large common part. Cosines need the vectors as they are, and two numbers give that back:
    <x_i, x_j> = products_ij + offsets_i + offsets_j.
    """

    products: Tensor  # (..., N, N)  <c_i, c_j>
    offsets: Tensor  # (..., N)  <c_i, m> + |m|^2 / 2, of valid items


def gram(vectors: Tensor, mask: Tensor) -> Gram:
    """Returns the inner products within each set.

    Args:
        vectors: (..., N, width), any floating type. What masked items hold does not matter, be it NaN.
        mask: (..., N), true or 1 for valid items.

    Products with masked items are 0. See `stacked_gram` for what may be computed from them.
    """
    sets = stacked_gram([vectors.reshape(-1, *vectors.shape[-2:])], mask.reshape(-1, mask.shape[-1]), dim=1)
    return Gram(sets.products.view(*mask.shape, mask.shape[-1]), sets.offsets.view(mask.shape))


def stacked_gram(layers: Sequence[Tensor], mask: Tensor, dim: int) -> Gram:
    """Returns the inner products within each set of `torch.stack(layers, dim)`, which is never made as a whole.

    The centre of a set is the mean of its valid vectors weighted by 1 / |x_i|: a vector far longer than the others
    does not pull it away from them, so that their cosines keep their digits too.

    Whatever is computed from the result has to leave masked items out, and to be a function of differences or of
    `raw_products`: neither depends on the centre, which the backward pass takes for a constant.

    Beside the result, and in the backward pass the gradient of all layers in float32, this takes about three copies of
    a chunk: `numbers_at_once`, or the layers of one example where those are more (11 MB for 7 layers of 512 tokens of
    width 768), whatever the batch.

    Args:
        layers: (batch, length, width) each.
        mask: (batch, length).
        dim: 1 for sets of tokens, (batch, layers) of them; 2 for sets of layers, (batch, length) of them.
    """
    return Gram(*_InnerProducts.apply(mask.bool(), dim, *layers))


def raw_products(set_: Gram) -> Tensor:
    """Returns <x_i, x_j>, (..., N, N)."""
    return set_.products + set_.offsets[..., :, None] + set_.offsets[..., None, :]


def numbers_at_once(device: torch.device) -> int:
    """Returns how many numbers a temporary tensor of a loss should hold: 2^20 (4 MB in float32), on a GPU 2^23.

    A processor is fastest where the few that an operation touches stay in its cache, an accelerator where there is
    enough to do at once.
    """
    return 2**20 if device.type == "cpu" else 2**23


class _InnerProducts(torch.autograd.Function):
    """Keeps the layers that it was given for the backward pass, and no copy of them.

    For incoming gradients A of the products and b of the offsets, the gradient for x_i is
    sum_j (A_ij + A_ji) c_j + b_i m: one product of a matrix of items with the vectors.
    """

    @staticmethod
    def forward(ctx: Any, mask: Tensor, dim: int, *layers: Tensor) -> tuple[Tensor, Tensor]:
        parts = []
        with torch.autocast(mask.device.type, enabled=False):
            for valid, *chunk in _chunks(mask, layers):
                valid = valid.unsqueeze(dim)[..., None]
                items = _valid_items(chunk, valid, dim)
                # 1 / |x_i|; nothing for a vector that is 0, as masked ones are now
                weights = torch.linalg.vector_norm(items, dim=-1, keepdim=True).reciprocal_()
                weights.nan_to_num_(nan=math.nan, posinf=0)
                centre = weights.mT @ items / weights.sum(-2, keepdim=True).clamp_min(torch.finfo(items.dtype).tiny)
                items.addcmul_(valid.to(items.dtype), centre, value=-1)
                size = centre.square().sum(-1, keepdim=True)
                offsets = (items @ centre.mT).add_(size, alpha=0.5)
                products = items @ items.mT
                _clear_rounding(products, size)
                parts.append((products, offsets.squeeze(-1), centre))
        products, offsets, centres = map(joined, zip(*parts, strict=True))
        ctx.dim = dim
        ctx.save_for_backward(mask, centres, *layers)
        return products, offsets

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_products: Tensor, by_offsets: Tensor) -> tuple[Tensor | None, ...]:
        mask, centres, *layers = ctx.saved_tensors
        shape = [len(mask), mask.shape[-1], layers[0].shape[-1]]
        shape.insert(ctx.dim, len(layers))
        gradient, first = centres.new_empty(shape), 0
        with torch.autocast(mask.device.type, enabled=False):
            for valid, centre, by_product, by_offset, *chunk in _chunks(
                mask, layers, centres, by_products, by_offsets
            ):
                valid = valid.unsqueeze(ctx.dim)[..., None]
                items = _valid_items(chunk, valid, ctx.dim).addcmul_(valid.to(centre.dtype), centre, value=-1)
                part, first = gradient[first : first + len(valid)], first + len(valid)
                torch.matmul(by_product + by_product.mT, items, out=part)
                part.addcmul_(by_offset[..., None], centre)
        parts = gradient.unbind(ctx.dim)
        return None, None, *(part.to(layer.dtype) for part, layer in zip(parts, layers, strict=True))


def _clear_rounding(products: Tensor, size: Tensor) -> None:
    """Puts items at the centre m that are there up to rounding: what is left of them has no direction.

    size: |m|^2, (..., 1, 1).
    """
    rounding = _ROUNDING_UNITS * torch.finfo(products.dtype).eps
    at_centre = diagonal(products) <= rounding**2 * size.squeeze(-1)
    products.masked_fill_(at_centre[..., None] | at_centre[..., None, :], 0)


def _chunks(mask: Tensor, layers: Sequence[Tensor], *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Returns the mask, the others and the layers a few examples at a time."""
    size = max(1, numbers_at_once(mask.device) // max(1, len(layers) * layers[0][:1].numel()))
    if size >= len(mask):
        return iter([(mask, *others, *layers)])
    return zip(*(tensor.split(size) for tensor in (mask, *others, *layers)), strict=True)


def joined(parts: Tensors) -> Tensor:
    """Returns the parts as one tensor, without a copy where it is one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _valid_items(layers: Tensors, valid: Tensor, dim: int) -> Tensor:
    """Returns a stacked copy in float32 or wider, zero where it is masked."""
    items = torch.stack(layers, dim)
    items = items.to(torch.promote_types(items.dtype, torch.float32))
    # The bits of a masked number, NaN or not, and those of 0; four times as fast on a processor as masked_fill_.
    bits = torch.int32 if items.dtype == torch.float32 else torch.int64
    items.view(bits).bitwise_and_(-valid.to(bits))
    return items


def diagonal(matrix: Tensor) -> Tensor:
    """Returns a view of the diagonal of the last two dimensions."""
    return matrix.diagonal(dim1=-2, dim2=-1)


def squared_distances(products: Tensor) -> Tensor:
    """Returns |x_i - x_j|^2 from the products, (..., N, N); 0 where the two are equal up to rounding."""
    squares = diagonal(products)
    size = squares[..., :, None] + squares[..., None, :]
    distances = size - 2 * products
    return distances.masked_fill(_vanishes(distances, size), 0)


def rsqrt_or_zero(squares: Tensor, size: Tensor) -> Tensor:
    """Returns 1 / sqrt(squares), and 0 where the square vanishes against the size of the terms that it came from."""
    zero = _vanishes(squares, size)
    return squares.masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)


def _vanishes(difference: Tensor, size: Tensor) -> Tensor:
    """True where a difference of terms of this size is 0 up to rounding."""
    return difference <= _ROUNDING_UNITS * torch.finfo(size.dtype).eps * size
