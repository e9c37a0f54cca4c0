"""Losses on logits: soft targets from a teacher (Hinton et al. 2015), and the task loss of answer spans."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LOGIT_LOSSES = ("kl", "reverse_kl", "skewed_kl", "mse")
SKEW = 0.1  # DistiLLM (Ko et al. 2024, arXiv 2402.03898)


def classification_logit_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
    loss: str = "kl",
) -> Tensor:
    """T^2 KL(softmax(z_T / T) || softmax(z_S / T)), mean over examples.

    With p and q the softmax of z_T / T and z_S / T, `loss` is one of

        kl          T^2 KL(p || q)
        reverse_kl  T^2 KL(q || p)
        skewed_kl   T^2 KL(p || 0.1 p + 0.9 q)    (DistiLLM, Ko et al. 2024, arXiv 2402.03898)
        mse         T^2 mean over labels of (z_T / T - z_S / T)^2

    Args:
        student_logits, teacher_logits: (batch, labels).
        temperature: T, above 0.
        scale_by_temperature: False drops the T^2, as the CKD authors' code does.

    Returns:
        a scalar.
    """
    total = _compared(student_logits, teacher_logits, temperature, loss)
    return _scaled(total / len(student_logits), temperature, scale_by_temperature)


def multilabel_logit_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
    loss: str = "kl",
) -> Tensor:
    """The loss between the probabilities of each label and its absence, mean over examples x labels.

    The probability of a label is sigmoid(z / T). `mse` compares the logits themselves.

    Args:
        student_logits, teacher_logits: (batch, labels).
        temperature, scale_by_temperature, loss: as for `classification_logit_loss`.
    """
    if loss == "mse":
        ours, theirs = (logits[..., None] for logits in (student_logits, teacher_logits))
    else:  # the softmax of (z, 0) is (sigmoid(z), 1 - sigmoid(z))
        ours, theirs = (torch.stack((z, torch.zeros_like(z)), -1) for z in (student_logits, teacher_logits))
    total = _compared(ours, theirs, temperature, loss)
    return _scaled(total / student_logits.numel(), temperature, scale_by_temperature)


def token_logit_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
    loss: str = "kl",
) -> Tensor:
    """The classification loss of each token, mean over tokens.

    Args:
        student_logits, teacher_logits: (batch, length, labels).
        mask: (batch, length), true or 1 for the tokens that count. The others may hold anything.
        temperature, scale_by_temperature, loss: as for `classification_logit_loss`.

    Returns:
        a scalar; NaN if no token counts.
    """
    mask = mask.bool()
    # Masked logits are 0 on both sides: the distributions are equal, add 0 and get no gradient.
    ours, theirs = (logits.masked_fill(~mask[..., None], 0) for logits in (student_logits, teacher_logits))
    total = _compared(ours, theirs, temperature, loss)
    return _scaled(total / mask.sum(), temperature, scale_by_temperature)


def regression_logit_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """mse(z_S / T, z_T / T), mean over examples; logits are (batch, 1)."""
    return F.mse_loss(at_least_float32(student_logits) / temperature, at_least_float32(teacher_logits) / temperature)


def span_logit_loss(
    student_start: Tensor,
    student_end: Tensor,
    teacher_start: Tensor,
    teacher_end: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
    loss: str = "kl",
) -> Tensor:
    """The mean of two classification losses, over start positions and over end positions.

    Args:
        student_start, student_end, teacher_start, teacher_end: (batch, length).
        mask: (batch, length), true or 1 where an answer may start or end; other positions do not count.
        temperature, scale_by_temperature, loss: as for `classification_logit_loss`.
    """
    mask = mask.bool()
    losses = [
        _scaled(_compared(student, teacher, temperature, loss, mask) / len(mask), temperature, scale_by_temperature)
        for student, teacher in ((student_start, teacher_start), (student_end, teacher_end))
    ]
    return (losses[0] + losses[1]) / 2


def span_task_loss(
    start_logits: Tensor, end_logits: Tensor, start_positions: Tensor, end_positions: Tensor, mask: Tensor
) -> Tensor:
    """The task loss: the mean cross entropy of all starts and ends.

    transformers' own loss includes the logits of padding, so it depends on the length of the other texts in the batch.

    Args:
        start_logits, end_logits: (batch, length).
        start_positions, end_positions: (batch,); positions outside the text do not count, nor does -100.
        mask: (batch, length), true or 1 for tokens that are not padding.
    """
    mask, positions = mask.bool().repeat(2, 1), torch.cat((start_positions, end_positions))
    scores = at_least_float32(torch.cat((start_logits, end_logits))).masked_fill(~mask, -torch.inf)
    return F.cross_entropy(scores, positions.masked_fill(~_inside(positions, mask), -100))  # -100 is ignored


def span_task_count(start_positions: Tensor, end_positions: Tensor, mask: Tensor) -> Tensor:
    """Returns the number of starts and ends that `span_task_loss` averages over."""
    return _inside(start_positions, mask).sum() + _inside(end_positions, mask).sum()


def _inside(positions: Tensor, mask: Tensor) -> Tensor:
    length = mask.shape[-1]
    places = positions.clamp(0, length - 1)[:, None]
    return (positions >= 0) & (positions < length) & mask.bool().take_along_dim(places, 1)[:, 0]


def _scaled(loss: Tensor, temperature: float, scale_by_temperature: bool) -> Tensor:
    return loss * temperature**2 if scale_by_temperature else loss


def _compared(student: Tensor, teacher: Tensor, temperature: float, loss: str, mask: Tensor | None = None) -> Tensor:
    """Returns the sum over rows of the loss between logits (..., labels), divided by the temperature.

    mask: (..., labels), true for labels that count.
    """
    ours, theirs = (at_least_float32(logits) / temperature for logits in (student, teacher))
    if loss == "mse":
        errors = (ours - theirs).square()
        if mask is None:
            return errors.mean(-1).sum()
        return (errors.masked_fill(~mask, 0).sum(-1) / mask.sum(-1).clamp_min(1)).sum()
    if mask is not None:
        # Finite: probability 0 times a difference of logarithms is then 0, not NaN.
        ours, theirs = (scores.masked_fill(~mask, torch.finfo(scores.dtype).min / 4) for scores in (ours, theirs))
    log_q, log_p = ours.log_softmax(-1), theirs.log_softmax(-1)
    if loss == "reverse_kl":
        log_p, log_q = log_q, log_p
    elif loss == "skewed_kl":
        log_q = torch.logaddexp(log_p + math.log(SKEW), log_q + math.log(1 - SKEW))
    return F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def at_least_float32(logits: Tensor) -> Tensor:
    """Returns the logits in float32, or in their own type if that is wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
