"""Attributions of tokens: how much each contributes to what a model decides about a text."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ckd_trainer.losses.logits import at_least_float32


def token_attributions(gradients: Tensor, embeddings: Tensor, top_k: int | None = None) -> Tensor:
    """The norm of gradient times embedding, |g * e|, for each token.

    This is integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) with one step and a baseline of zeros.

    Args:
        gradients, embeddings: (..., width).
        top_k: only this many elements of g * e, with the largest absolute values, count; None for all.

    Returns:
        a tensor (...).
    """
    products = at_least_float32(gradients) * at_least_float32(embeddings)
    if top_k is not None:
        products = products.abs().topk(top_k, dim=-1, sorted=False).values
    return torch.linalg.vector_norm(products, dim=-1)


def attribution_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """The squared error of attributions, mean over tokens, sum over decisions (AD-KD).

    With a the attributions of a text's valid tokens for one decision, and |a| their norm,

        (a_i^S / |a^S| - a_i^T / |a^T|)^2

    Computation is in float32 (float64 for float64 inputs). Attributions that are all zero stay zero.

    Args:
        student, teacher: (batch, decisions, length), from `token_attributions`.
        mask: (batch, length), true or 1 for valid tokens. The others may hold anything, even NaN.

    Returns:
        a scalar; 0 if no token is valid.
    """
    mask = mask.bool()
    ours, theirs = (
        F.normalize(at_least_float32(side).masked_fill(~mask[:, None], 0), dim=-1) for side in (student, teacher)
    )
    return (ours - theirs).square().sum() / mask.sum().clamp_min(1)
