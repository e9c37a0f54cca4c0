"""The compact storage format of Gram matrices in the teacher cache.

A set of n valid items is stored as the n (n - 1) / 2 cosines <c_i, c_j> / (|c_i| |c_j|), j < i, of its centered
vectors. They are stored row by row, as 16-bit integers in steps of 1 / 32767. The scales |c_i| and the offset of each
item are stored in float32. The steps are equally fine for small and large cosines. As the center is subtracted first,
they are also fine relative to the differences that make up distances and angles. float16 products would keep three
digits of numbers that mostly cancel.

Valid items come first in a set, whichever side a batch is padded on.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ckd_trainer.losses import Gram
from ckd_trainer.utils.padding import valid_before, valid_first

_STEPS = 32767  # steps of a cosine from 0 to 1, the most that 16 bits can represent


class CompactGram(NamedTuple):
    """Sets of N items in compact form."""

    cosines: Tensor  # (..., N (N - 1) / 2), int16
    scales: Tensor  # (..., 2, N), float32: |c_i|, offset


def pack(sets: Gram) -> CompactGram:
    """Returns the compact form of sets whose items are all valid. Cosines are rounded to 16 bits."""
    items = sets.offsets.shape[-1]
    rows, columns = torch.tril_indices(items, items, -1, device=sets.products.device)
    norms = sets.products.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    lengths = norms[..., rows] * norms[..., columns]
    cosines = sets.products[..., rows, columns] / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
    cosines = (cosines.clamp(-1, 1) * _STEPS).round().to(torch.int16)
    return CompactGram(cosines, torch.stack((norms, sets.offsets), dim=-2).float())


def pack_words(sets: Gram, mask: Tensor) -> CompactGram:
    """Returns (batch, layers) sets of tokens in compact form, with the n valid tokens of an example first.

    The triangle is stored row by row, so their n (n - 1) / 2 cosines and n norms come first, too.
    """
    order = valid_first(mask)[:, None].expand(sets.offsets.shape)
    rows = sets.products.gather(-2, order[..., None].expand(sets.products.shape))
    products = rows.gather(-1, order[..., None, :].expand(sets.products.shape))
    return pack(Gram(products, sets.offsets.gather(-1, order)))


def pack_layers(sets: Gram, mask: Tensor) -> CompactGram:
    """Returns (batch, length) sets of layers in compact form, with the sets of an example's valid tokens first."""
    order = valid_first(mask)
    cosines, scales = pack(sets)
    return CompactGram(cosines.take_along_dim(order[..., None], 1), scales.take_along_dim(order[..., None, None], 1))


def unpack_words(compact: CompactGram, mask: Tensor) -> Gram:
    """Returns (batch, layers) sets of tokens at the positions of a batch's mask, and 0 elsewhere.

    Args:
        compact: from `pack_words`, cut or padded to any common size of at least one cosine.
        mask: (batch, length), true or 1 for valid tokens. Each example has as many as when it was packed.
    """
    mask = mask.bool()[:, None]
    rank = valid_before(mask)  # (batch, 1, length)
    index = _triangle(rank).expand(-1, compact.cosines.shape[1], -1, -1)
    cosines = compact.cosines.gather(-1, index.flatten(-2)).view(index.shape)
    return _gram(cosines, compact.scales.take_along_dim(rank[:, :, None], -1) * mask[:, :, None])


def unpack_layers(compact: CompactGram, mask: Tensor) -> Gram:
    """Returns (batch, length) sets of layers at the positions of a batch's mask, and 0 elsewhere."""
    mask = mask.bool()
    rank = valid_before(mask)[..., None]  # (batch, length, 1)
    cosines, scales = compact.cosines.take_along_dim(rank, 1), compact.scales.take_along_dim(rank[..., None], 1)
    places = _triangle(torch.arange(scales.shape[-1], device=scales.device))
    return _gram(cosines[..., places], scales * mask[..., None, None])


def _triangle(rank: Tensor) -> Tensor:
    """Returns the index in the triangle of each pair's cosine, (..., N, N); any valid index on the diagonal."""
    larger, smaller = (choose(rank[..., :, None], rank[..., None, :]) for choose in (torch.maximum, torch.minimum))
    return (larger * (larger - 1) // 2 + smaller).masked_fill_(larger == smaller, 0)


def _gram(cosines: Tensor, scales: Tensor) -> Gram:
    norms, offsets = scales.unbind(-2)
    products = cosines.to(norms.dtype).div_(_STEPS).mul_(norms[..., :, None]).mul_(norms[..., None, :])
    products.diagonal(dim1=-2, dim2=-1).copy_(norms.square())
    return Gram(products, offsets)
