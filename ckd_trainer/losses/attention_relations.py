"""Compares relations between tokens, X Y^T / sqrt(d) per head: as distributions (MiniLM), or as scores (TinyBERT)."""

import math

import torch
from torch import Tensor

from ckd_trainer.losses.logits import at_least_float32

Vectors = tuple[Tensor, Tensor]


def attention_relation_loss(student: Vectors, teacher: Vectors, mask: Tensor, *, heads: int) -> Tensor:
    """The divergence of two relations between the tokens of a text.

    The vectors X and Y are split into h heads of d = width / h elements, and

        R = softmax(X Y^T / sqrt(d))    over the valid tokens, for each head and token
        loss = 1 / (h n) sum over heads and tokens of KL(R^T || R^S)    mean over texts

    where n is the number of valid tokens of a text. With X the queries and Y the keys, R is the attention of BERT;
    with X = Y the values, it is MiniLM's value relation.

    Memory: about eight tensors (batch, heads, length, length).

    Args:
        student, teacher: X and Y, (batch, length, width) each; the widths may differ.
        mask: (batch, length), true or 1 for valid tokens. The others may hold anything, even NaN.
        heads: h; it divides both widths.

    Returns:
        a scalar.
    """
    mask = mask.bool()
    with torch.autocast(mask.device.type, enabled=False):
        # Finite: probability 0 times a difference of logarithms is then 0, not NaN.
        ours, theirs = (
            scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min / 4).log_softmax(-1)
            for scores in (_scores(*side, mask, heads) for side in (student, teacher))
        )
        divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean(1)  # (batch, length)
    sizes = mask.sum(-1).clamp_min(1)
    return (divergence.masked_fill(~mask, 0).sum(-1) / sizes).mean()


def attention_score_loss(student: Vectors, teacher: Vectors, mask: Tensor, *, heads: int) -> Tensor:
    """(X^S Y^S^T / sqrt(d) - X^T Y^T^T / sqrt(d'))^2, mean over heads and over pairs of valid tokens of a text.

    Args and memory: as for `attention_relation_loss`.

    Returns:
        a scalar; 0 if no token is valid.
    """
    mask = mask.bool()
    with torch.autocast(mask.device.type, enabled=False):
        ours, theirs = (_scores(*side, mask, heads) for side in (student, teacher))
        errors = (ours - theirs).square().mean(1)  # 0 where a token is masked, as its vectors are
    pairs = mask[:, :, None] & mask[:, None, :]
    return errors.masked_fill(~pairs, 0).sum() / pairs.sum().clamp_min(1)


def _scores(x: Tensor, y: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Returns X Y^T / sqrt(d), (batch, heads, length, length)."""
    x, y = (
        at_least_float32(side.masked_fill(~mask[..., None], 0)).unflatten(-1, (heads, -1)).transpose(1, 2)
        for side in (x, y)
    )
    return x @ y.mT / math.sqrt(x.shape[-1])
