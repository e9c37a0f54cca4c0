"""Compares whole Gram matrices of a set, regardless of the scale of its vectors."""

import torch
from torch import Tensor

from ckd_trainer.losses.geometry import Gram, raw_products


def gram_matrix_loss(student: Gram, teacher: Gram, mask: Tensor, *, centered: bool = False) -> Tensor:
    """The squared distance of normalized Gram matrices, mean over sets.

    With K_ij = <x_i, x_j> over the valid items of a set and |K| its Frobenius norm,

        |K^S / |K^S| - K^T / |K^T||^2  =  2 - 2 <K^S, K^T> / (|K^S| |K^T|)

    The loss is 0 if the two sets of vectors differ only by a rotation or a factor. With `centered`, the vectors are
    taken relative to their mean; the loss is then 2 - 2 CKA, the linear centered kernel alignment of Kornblith et al.
    (2019, arXiv 1905.00414), and a shift of all vectors does not matter either. A matrix of zeros stays 0.

    Args:
        student, teacher: from `gram`, of (..., N) items; the widths of the vectors may differ.
        mask: (..., N), true or 1 for valid items. A set without valid items counts with loss 0.

    Returns:
        a scalar.
    """
    mask = mask.bool()
    ours, theirs = (_normalized(side, mask, centered) for side in (student, teacher))
    return (ours - theirs).square().sum((-2, -1)).mean()


def _normalized(set_: Gram, mask: Tensor, centered: bool) -> Tensor:
    """Returns K / |K|, (..., N, N), with zeros at masked items."""
    pairs = mask[..., :, None] & mask[..., None, :]
    if centered:
        sizes = mask.sum(-1)[..., None, None].clamp_min(1)
        products = set_.products.masked_fill(~pairs, 0)
        means = products.sum(-1, keepdim=True) / sizes
        matrix = (products - means - means.mT + means.sum(-2, keepdim=True) / sizes).masked_fill(~pairs, 0)
    else:
        matrix = raw_products(set_).masked_fill(~pairs, 0)
    square = matrix.square().sum((-2, -1), keepdim=True)
    zero = square <= torch.finfo(square.dtype).tiny
    return matrix * square.masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)
