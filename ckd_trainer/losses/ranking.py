"""Losses between the scores of a group: the candidates of one query, which are ranked against each other.

They read differences of scores alone: a number added to all scores of a group changes nothing. Groups do not see each
other. A group is the texts with the same number, wherever they are in the batch.
"""

import torch
from torch import Tensor

from ckd_trainer.losses.logits import at_least_float32

GROUP = "group"  # column of a batch: the number of each text's group


def listwise_loss(student: Tensor, teacher: Tensor, groups: Tensor, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)), each softmax over the scores of a group; mean over groups.

    The softmax is the probability of each candidate to be the first (ListNet, Cao et al. 2007). RocketQAv2 (Ren et
    al. 2021, arXiv 2110.07367) distills with this divergence, at T = 1.

    Args:
        student, teacher: scores, (batch,).
        groups: the number of each score's group, (batch,).
        temperature: T, above 0.

    Returns:
        a scalar; 0 if no group has two scores.

    Example::

        groups = torch.tensor([0, 0, 1, 1])
        listwise_loss(torch.tensor([1.0, 2.0, 0.0, 0.0]), torch.tensor([6.0, 7.0, 3.0, 3.0]), groups)  # 0
    """
    same = _same(groups)
    log_q, log_p = (_log_shares(at_least_float32(scores) / temperature, same) for scores in (student, teacher))
    total = (log_p.exp() * (log_p - log_q)).sum()
    return total * temperature**2 / group_count(groups).clamp_min(1)


def group_count(groups: Tensor) -> Tensor:
    """Returns the number of groups with two scores or more, which `listwise_loss` averages over."""
    same = _same(groups)
    is_first = ~same.tril(-1).any(1)
    return (is_first & (same.sum(1) > 1)).sum()


def margin_mse_loss(student: Tensor, teacher: Tensor, groups: Tensor) -> Tensor:
    """((s_i - s_j) - (t_i - t_j))^2, mean over all pairs i, j of the same group (margin MSE).

    With d = s - t this is (d_i - d_j)^2. Over the n (n - 1) / 2 pairs of a group it sums to n sum_i (d_i - mean d)^2,
    so no pair is computed.

    Hofstaetter et al. 2020 (arXiv 2010.02666) take pairs of a relevant and a non-relevant text. Here all pairs count:
    the teacher also knows which of two non-relevant texts is closer, and neither labels that are numbers nor texts
    without labels have two such kinds.

    Args:
        student, teacher: scores, (batch,).
        groups: the number of each score's group, (batch,).

    Returns:
        a scalar; 0 if no group has two scores.
    """
    same = _same(groups)
    sizes = same.sum(1)
    errors = at_least_float32(student) - at_least_float32(teacher)
    # Not a product of matrices, which autocast would compute in half precision.
    means = torch.where(same, errors, 0).sum(1) / sizes
    return (sizes * (errors - means).square()).sum() / score_pair_count(groups).clamp_min(1)


def score_pair_count(groups: Tensor) -> Tensor:
    """Returns the number of pairs of scores in the same group, which `margin_mse_loss` averages over."""
    return (_same(groups).sum(1) - 1).sum() // 2


def _same(groups: Tensor) -> Tensor:
    """Returns whether two scores are in the same group, (batch, batch)."""
    return groups[:, None] == groups


def _log_shares(scores: Tensor, same: Tensor) -> Tensor:
    """Returns the log softmax of each score within its group, (batch,)."""
    return scores - scores.expand_as(same).masked_fill(~same, -torch.inf).logsumexp(1)
