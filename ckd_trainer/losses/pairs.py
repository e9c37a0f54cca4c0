"""The pair relation: compares the distance between every two items of a set."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ckd_trainer.losses.geometry import (
    Gram,
    chunk_numel,
    diagonal,
    joined,
    raw_products,
    rsqrt_or_zero,
    squared_distances,
)

_ELEMENTWISE = {"l1": F.l1_loss, "mse": F.mse_loss, "smooth_l1": F.smooth_l1_loss}
# distance -> the losses that can compare it, and the normalizations of these losses
DISTANCE_LOSSES = {"cosine": ("kl",), "l2": tuple(_ELEMENTWISE)}
NORMALIZATIONS = {"cosine": ("pairs", "items"), "l2": ("pairs",)}


def pair_loss(
    student: Gram,
    teacher: Gram,
    mask: Tensor,
    *,
    distance: str = "cosine",
    distance_loss: str = "kl",
    relation_temperature: float = 1.0,
    relation_normalization: str = "pairs",
    normalize_distances: bool = False,
) -> Tensor:
    """Compares the distances between the items of each set (the paper's pairwise relation).

    Let w be the mask, P_i the softmax over valid j != i of cosine(x_i, x_j) / relation_temperature, and d the squared
    distance. The loss is

        cosine, kl:              sum_i w_i sum_{j != i} w_j P^T_ij (log P^T_ij - log P^S_ij) / Z
        l2, l1|mse|smooth_l1:    sum_i w_i sum_{j != i} w_j loss(d^S_ij, d^T_ij) / Z

    where Z is the sum over sets of n^2, and n the number of valid items of a set. A cosine with a zero vector is 0.

    The divergence of one item does not grow with n, so the cosine form with this Z falls as 1/n. With
    relation_normalization items, Z is the sum over sets of n, and the loss is the mean divergence per item, whatever
    n. For sets of the same size n,

        loss with items = n * loss with pairs,    so    weight with items = weight with pairs / n

    is equivalent. The l2 form is a mean over pairs and does not fall with n, so it supports pairs only.

    The cosine form processes the sets in chunks. Beside four tensors of the size of the products, it needs fewer than
    48 tensors of `chunk_numel` elements (or of the N^2 of one set if that is more). That is 200 MB on a CPU for up to
    1024 items, whatever the batch size. The l2 form needs a few tensors of the size of the products.

    Args:
        student, teacher: from `gram`, of (..., N) items; the widths of the vectors may differ.
        mask: (..., N), true or 1 for valid items.
        distance: "cosine" (with distance_loss "kl") or "l2" (with "l1", "mse" or "smooth_l1").
        relation_temperature: divides the cosines; 1 in the paper.
        relation_normalization: "pairs" (as in the paper) or "items".
        normalize_distances: divide d by its mean over the set's pairs of valid items with a distance above 0.

    Returns:
        a scalar; 0 if no set has two valid items.

    Raises:
        ValueError: the distance does not support the loss or the normalization.
    """
    if distance_loss not in DISTANCE_LOSSES.get(distance, ()):
        raise ValueError(
            f"distance_loss {distance_loss!r} does not compare distance {distance!r}: cosine goes with kl, l2 with "
            f"{', '.join(_ELEMENTWISE)}."
        )
    if relation_normalization not in NORMALIZATIONS[distance]:
        raise ValueError(
            f"relation_normalization {relation_normalization!r} does not go with distance {distance!r}: give "
            f"{' or '.join(NORMALIZATIONS[distance])}."
        )
    mask = mask.bool()
    if distance == "cosine":
        items = mask.shape[-1]
        total = _CosineDivergence.apply(
            *(side.products.reshape(-1, items, items) for side in (student, teacher)),
            *(side.offsets.reshape(-1, items) for side in (student, teacher)),
            mask.reshape(-1, items),
            relation_temperature,
        )
    else:
        pairs = _pairs(mask)
        ours, theirs = squared_distances(student.products), squared_distances(teacher.products)
        if normalize_distances:
            ours, theirs = (distances / _mean_distance(distances, pairs) for distances in (ours, theirs))
        total = _ELEMENTWISE[distance_loss](ours, theirs, reduction="none").masked_fill(~pairs, 0).sum()
    return total / pair_count(mask, relation_normalization).clamp_min(1)


def pair_count(mask: Tensor, relation_normalization: str = "pairs") -> Tensor:
    """Returns Z, the divisor of `pair_loss`."""
    sizes = mask.bool().sum(-1)
    return (sizes.square() if relation_normalization == "pairs" else sizes).sum()


def _pairs(mask: Tensor) -> Tensor:
    """Returns a mask (..., N, N), true for pairs of two different valid items."""
    same = torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
    return mask[..., :, None] & mask[..., None, :] & ~same


class _CosineDivergence(torch.autograd.Function):
    """Sums the divergences of all items of all sets, (sets, N, N), and computes the gradient in the same pass.

    The derivative with respect to the cosine of i and j is (P^S_ij - P^T_ij) / relation_temperature.
    """

    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        student_offsets: Tensor,
        teacher_offsets: Tensor,
        mask: Tensor,
        temperature: float,
    ) -> Tensor:
        chunks = max(1, math.ceil(student.numel() / chunk_numel(student.device)))
        total, gradients = student.new_zeros(()), []
        tensors = (student, teacher, student_offsets, teacher_offsets, mask)
        for *grams, valid in zip(*(tensor.chunk(chunks) for tensor in tensors), strict=True):
            products, offsets = grams[:2], grams[2:]
            pairs = _pairs(valid)
            excluded = ~pairs
            # Both sides together: for short texts, the number of operations determines the cost.
            cosines, inverse = _cosines(Gram(torch.stack(products), torch.stack(offsets)))
            scores = cosines / temperature  # not in place: the gradient needs the cosines
            # A softmax in steps: torch's own is ten times slower on rows of a few numbers.
            largest = scores.masked_fill(excluded, torch.finfo(scores.dtype).min).amax(-1, keepdim=True)
            probabilities = (scores - largest).clamp_max_(0).exp_().mul_(pairs)
            sums = probabilities.sum(-1, keepdim=True)
            probabilities /= sums.clamp_min_(torch.finfo(scores.dtype).tiny)  # 0 in rows without a pair
            logarithms = scores.sub_(largest).sub_(sums.log())
            total += (logarithms[1] - logarithms[0]).mul_(probabilities[1]).sum()
            if ctx.needs_input_grad[0]:
                by_cosine = (probabilities[0] - probabilities[1]).div_(temperature)
                gradients.append(_by_products(by_cosine, cosines[0], inverse[0]))
        if gradients:
            ctx.save_for_backward(*map(joined, zip(*gradients, strict=True)))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        by_products, by_offsets = ctx.saved_tensors
        return upstream * by_products, None, upstream * by_offsets, None, None, None


def _cosines(set_: Gram) -> tuple[Tensor, Tensor]:
    """Returns <x_i, x_j> / (|x_i| |x_j|), 0 for zero vectors, and the factors 1 / |x_i|."""
    products = raw_products(set_)
    size = diagonal(set_.products) + 2 * set_.offsets.abs()
    inverse = rsqrt_or_zero(diagonal(products), size)
    return products.mul_(inverse[..., :, None]).mul_(inverse[..., None, :]), inverse


def _by_products(by_cosine: Tensor, cosines: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of products and offsets, given that of the cosines (with a zero diagonal)."""
    by_square = (by_cosine + by_cosine.mT).mul_(cosines).sum(-1).mul_(inverse.square()).mul_(-0.5)  # of <x_i, x_i>
    gradient = by_cosine.mul_(inverse[..., :, None]).mul_(inverse[..., None, :])
    diagonal(gradient).copy_(by_square)
    return gradient, gradient.sum(-1) + gradient.sum(-2)


def _mean_distance(distances: Tensor, pairs: Tensor) -> Tensor:
    """Returns the mean over a set's pairs with a distance above 0, (..., 1, 1); 1 if there are none."""
    apart = pairs & (distances > 0)
    count = apart.sum((-1, -2), keepdim=True)
    mean = distances.masked_fill(~apart, 0).sum((-1, -2), keepdim=True) / count.clamp_min(1)
    return mean.masked_fill(count == 0, 1)
