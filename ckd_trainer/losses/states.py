"""Losses that compare hidden states of the same width, vector by vector.

Computation is in float32 (float64 for float64 inputs). Masked vectors may hold anything, even NaN.
"""

import torch.nn.functional as F
from torch import Tensor

from ckd_trainer.losses.logits import at_least_float32


def normalized_state_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """(s / |s| - t / |t|)^2, mean over valid vectors and their elements (PKD); a zero vector stays 0.

    Args:
        student, teacher: (..., width).
        mask: (...), true or 1 for valid vectors.

    Returns:
        a scalar; 0 if no vector is valid.
    """
    mask = mask.bool()
    ours, theirs = (F.normalize(_cleared(side, mask), dim=-1) for side in (student, teacher))
    return (ours - theirs).square().sum() / (mask.sum() * ours.shape[-1]).clamp_min(1)


def state_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """(s - t)^2, mean over valid vectors and their elements (TinyBERT).

    Args and result: as for `normalized_state_loss`.
    """
    mask = mask.bool()
    ours, theirs = (_cleared(side, mask) for side in (student, teacher))
    return (ours - theirs).square().sum() / (mask.sum() * ours.shape[-1]).clamp_min(1)


def cosine_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """1 - <s, t> / (|s| |t|), mean over valid vectors (DistilBERT); 1 for a zero vector.

    Args and result: as for `normalized_state_loss`.
    """
    mask = mask.bool()
    ours, theirs = (F.normalize(_cleared(side, mask), dim=-1) for side in (student, teacher))
    return (1 - (ours * theirs).sum(-1)).masked_fill(~mask, 0).sum() / mask.sum().clamp_min(1)


def _cleared(states: Tensor, mask: Tensor) -> Tensor:
    """Returns the states in float32 or wider, with zeros at masked vectors."""
    return at_least_float32(states.masked_fill(~mask[..., None], 0))
