"""Losses on logits: soft targets from a teacher (Hinton et al. 2015), and the task loss of answer spans."""

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_logit_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, scale_by_temperature: bool = True
) -> Tensor:
    """T^2 KL(softmax(z_T / T) || softmax(z_S / T)), mean over examples.

    Args:
        student_logits, teacher_logits: (batch, labels).
        temperature: T, above 0.
        scale_by_temperature: False drops the T^2, as the CKD authors' code does.

    Returns:
        a scalar.
    """
    return _divergence(student_logits, teacher_logits, temperature, scale_by_temperature)


def multilabel_logit_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, scale_by_temperature: bool = True
) -> Tensor:
    """T^2 KL(sigmoid(z_T / T) || sigmoid(z_S / T)) per label, mean over examples x labels.

    Args:
        student_logits, teacher_logits: (batch, labels).
        temperature, scale_by_temperature: as for `classification_logit_loss`.
    """
    student, teacher = (at_least_float32(logits) / temperature for logits in (student_logits, teacher_logits))
    loss = torch.zeros((), dtype=student.dtype, device=student.device)
    for sign in (1, -1):  # the probability of the label, and that of its absence
        log_p = F.logsigmoid(sign * teacher)
        loss = loss + (log_p.exp() * (log_p - F.logsigmoid(sign * student))).mean()
    return loss * temperature**2 if scale_by_temperature else loss


def token_logit_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    scale_by_temperature: bool = True,
) -> Tensor:
    """T^2 KL(softmax(z_T / T) || softmax(z_S / T)), mean over tokens.

    Args:
        student_logits, teacher_logits: (batch, length, labels).
        mask: (batch, length), true or 1 for the tokens that count. The others may hold anything.
        temperature, scale_by_temperature: as for `classification_logit_loss`.

    Returns:
        a scalar; NaN if no token counts.
    """
    mask = mask.bool()
    sides = (logits.masked_fill(~mask[..., None], 0) for logits in (student_logits, teacher_logits))
    logarithms = [(at_least_float32(side) / temperature).log_softmax(-1) for side in sides]
    # Masked logits are 0 on both sides: the distributions are equal, add 0 and get no gradient.
    loss = F.kl_div(logarithms[0], logarithms[1], reduction="sum", log_target=True) / mask.sum()
    return loss * temperature**2 if scale_by_temperature else loss


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
) -> Tensor:
    """The mean of two classification losses, over start positions and over end positions.

    Args:
        student_start, student_end, teacher_start, teacher_end: (batch, length).
        mask: (batch, length), true or 1 where an answer may start or end; other positions do not count.
    """
    mask = mask.bool()
    losses = [
        _divergence(student, teacher, temperature, scale_by_temperature, mask)
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
        start_positions, end_positions: (batch,); positions outside the text do not count.
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
    return (positions < length) & mask.bool().take_along_dim(places, 1)[:, 0]


def _divergence(
    student: Tensor, teacher: Tensor, temperature: float, scale_by_temperature: bool, mask: Tensor | None = None
) -> Tensor:
    logarithms = []
    for logits in (student, teacher):
        scores = at_least_float32(logits) / temperature
        if mask is not None:
            # Finite: probability 0 times a difference of logarithms is then 0, not NaN.
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min / 4)
        logarithms.append(scores.log_softmax(-1))
    loss = F.kl_div(logarithms[0], logarithms[1], reduction="batchmean", log_target=True)
    return loss * temperature**2 if scale_by_temperature else loss


def at_least_float32(logits: Tensor) -> Tensor:
    """Returns the logits in float32, or in their own type if that is wider."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
