"""Contextual Knowledge Distillation: relations within a set of hidden states (Park et al. 2021, arXiv 2109.08359).

The same two losses serve both relations of the paper. For the *word relation* (WR) a set is one matched layer of one
example and its items are the tokens; for the *layer-transforming relation* (LTR) a set is one real token and its
items are the matched layers.

Where this departs from the authors' released code: padding never counts (their window reads padded neighbours and
repeats the tokens at the edges), and masking is finite (their -inf gives NaN on current PyTorch).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ckd_trainer.layer_mapping import resolve_layer_mapping
from ckd_trainer.losses.geometry import Gram, angles, cosines, count_triples, gram, squared_distances

_CHUNK = 2**20  # triples at a time: 4 MB in float32, which stay in a processor's cache
_ELEMENTWISE = {"l1": F.l1_loss, "mse": F.mse_loss, "smooth_l1": F.smooth_l1_loss}


def pair_loss(
    student: Gram,
    teacher: Gram,
    mask: Tensor,
    *,
    distance: str = "cosine",
    distance_loss: str = "kl",
    relation_temperature: float = 1.0,
    normalize_distances: bool = False,
) -> Tensor:
    """Compares the distances between the items of each set (the paper's pairwise relation).

    With w the mask, P_i the softmax over valid j != i of cosine(x_i, x_j) / relation_temperature, and d the squared
    distance,

        cosine, kl:              sum_i w_i sum_{j != i} w_j P^T_ij (log P^T_ij - log P^S_ij) / Z
        l2, l1|mse|smooth_l1:    sum_i w_i sum_{j != i} w_j loss(d^S_ij, d^T_ij) / Z

    and Z = the sum over sets of n^2, n the number of valid items of a set.

    Args:
        student, teacher: from `gram`, of (..., N) items; their widths may have differed.
        mask: (..., N), true or 1 for valid items.
        distance: "cosine" (with distance_loss "kl") or "l2" (with "l1", "mse" or "smooth_l1").
        relation_temperature: divides the cosines; 1 in the paper.
        normalize_distances: divide d by its mean over the set's pairs of valid items that are apart.

    Returns:
        a scalar; 0 where no set has two valid items.

    Raises:
        ValueError: the distance and the loss do not go together, or the temperature is not above 0.
    """
    if relation_temperature <= 0:
        raise ValueError(f"relation_temperature is {relation_temperature}, but cosines are divided by it: above 0.")
    mask = mask.bool()
    pairs = mask[..., :, None] & mask[..., None, :]
    total = pairs.sum().clamp_min(1)
    pairs = pairs & ~torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device)
    if (distance, distance_loss) == ("cosine", "kl"):
        log_student = _log_softmax(cosines(student.raw) / relation_temperature, pairs)
        log_teacher = _log_softmax(cosines(teacher.raw) / relation_temperature, pairs)
        losses = log_teacher.exp() * (log_teacher - log_student)
    elif distance == "l2" and distance_loss in _ELEMENTWISE:
        student_distances, teacher_distances = squared_distances(student.centred), squared_distances(teacher.centred)
        if normalize_distances:
            student_distances = student_distances / _mean_distance(student_distances, pairs)
            teacher_distances = teacher_distances / _mean_distance(teacher_distances, pairs)
        losses = _ELEMENTWISE[distance_loss](student_distances, teacher_distances, reduction="none")
    else:
        raise ValueError(
            f"distance_loss {distance_loss!r} does not compare distance {distance!r}: cosine goes with kl, l2 with "
            f"{', '.join(_ELEMENTWISE)}."
        )
    return losses.masked_fill(~pairs, 0).sum() / total


def triple_loss(
    student: Gram, teacher: Gram, mask: Tensor, *, angle_loss: str = "mse", window_size: int | None = None
) -> Tensor:
    """Compares the angles at each item between every two items in its window (the paper's triple-wise relation).

        sum_ijk loss(cos^S_ijk, cos^T_ijk) / number of triples

    over valid i, j, k with j and k in the window of i; an angle with a side of length 0 has cosine 0.

    Args:
        student, teacher: from `gram`, of (..., N) items; their widths may have differed.
        mask: (..., N), true or 1 for valid items.
        angle_loss: "mse", "l1" or "smooth_l1".
        window_size: odd, centred; None for all triples.

    Returns:
        a scalar; 0 where no item is valid.

    Raises:
        ValueError: an unknown angle_loss.
    """
    if angle_loss not in _ELEMENTWISE:
        raise ValueError(f"angle_loss {angle_loss!r} is not known: give {', '.join(_ELEMENTWISE)}.")
    items = mask.shape[-1]
    total = _TripleSum.apply(
        student.centred.reshape(-1, items, items),
        teacher.centred.reshape(-1, items, items),
        mask.reshape(-1, items),
        _ELEMENTWISE[angle_loss],
        window_size,
    )
    return total / count_triples(mask, window_size).clamp_min(1)


def word_gram(hidden_states: Sequence[Tensor], attention_mask: Tensor) -> tuple[Gram, Tensor]:
    """Returns products and mask of the sets of the word relation: each layer of each example, items its tokens.

    Args:
        hidden_states: M matched layers, (batch, length, width) each.
        attention_mask: (batch, length).

    Returns:
        Gram of (batch, M) sets of `length` items, and the mask (batch, M, length).
    """
    layers = [gram(states, attention_mask) for states in hidden_states]
    mask = attention_mask[:, None, :].expand(-1, len(layers), -1)
    return Gram(*(torch.stack(parts, dim=1) for parts in zip(*layers, strict=True))), mask


def layer_gram(hidden_states: Sequence[Tensor], attention_mask: Tensor) -> tuple[Gram, Tensor]:
    """Returns products and mask of the sets of the layer-transforming relation: each token, items its layers.

    Args:
        hidden_states: M matched layers, (batch, length, width) each.
        attention_mask: (batch, length).

    Returns:
        Gram of (batch, length) sets of M items, and the mask (batch, length, M); a padded token's set is all masked.
    """
    mask = attention_mask[:, :, None].expand(-1, -1, len(hidden_states))
    return gram(torch.stack(tuple(hidden_states), dim=2), mask), mask


def contextual_relation_losses(
    student_hidden_states: Sequence[Tensor],
    teacher_hidden_states: Sequence[Tensor],
    attention_mask: Tensor,
    *,
    window_size: int | None = 21,
    distance: str = "cosine",
    distance_loss: str = "kl",
    angle_loss: str = "mse",
    layer_mapping: str | Sequence[tuple[int, int]] = "emb+skip",
    relation_temperature: float = 1.0,
    normalize_distances: bool = False,
) -> dict[str, Tensor]:
    """The four relation losses of CKD, for your own training loop.

    Args:
        student_hidden_states: all hidden states of the student as a model returns them with
            `output_hidden_states=True`: S + 1 tensors (batch, length, student width), the embeddings first.
        teacher_hidden_states: the same of the teacher, T + 1 tensors (batch, length, teacher width); no gradient
            flows into them.
        attention_mask: (batch, length), 1 for real tokens.
        window_size: odd window of the word relation's angles, None for all triples; 21 in the paper.
        layer_mapping: for both relations, see `ckd_trainer.layer_mapping`.
        distance, distance_loss, relation_temperature, normalize_distances: see `pair_loss`.
        angle_loss: see `triple_loss`.

    Returns:
        unweighted scalars `wr_distance`, `wr_angle`, `ltr_distance`, `ltr_angle`.

    Raises:
        ValueError: unknown mapping, even window, or a distance and a loss that do not go together.

    Example::

        student_out = student(**batch, output_hidden_states=True)
        with torch.no_grad():
            teacher_out = teacher(**batch, output_hidden_states=True)
        terms = contextual_relation_losses(
            student_out.hidden_states, teacher_out.hidden_states, batch["attention_mask"]
        )
        loss = student_out.loss + terms["wr_distance"] + 10 * terms["wr_angle"]
    """
    if window_size is not None and (window_size < 1 or window_size % 2 == 0):
        raise ValueError(f"window_size is {window_size}, but a token sits in its middle: give an odd number or None.")
    if min(len(student_hidden_states), len(teacher_hidden_states)) < 2:
        raise ValueError("give all hidden states of either model: the output of the embeddings and of each layer.")
    pairs = resolve_layer_mapping(layer_mapping, len(student_hidden_states) - 1, len(teacher_hidden_states) - 1)
    student_states = [student_hidden_states[student] for student, _ in pairs]
    teacher_states = [teacher_hidden_states[teacher].detach() for _, teacher in pairs]
    pair_options = {
        "distance": distance,
        "distance_loss": distance_loss,
        "relation_temperature": relation_temperature,
        "normalize_distances": normalize_distances,
    }
    terms = {}
    for relation, products, window in (("wr", word_gram, window_size), ("ltr", layer_gram, None)):
        student, mask = products(student_states, attention_mask)
        teacher, _ = products(teacher_states, attention_mask)
        terms[f"{relation}_distance"] = pair_loss(student, teacher, mask, **pair_options)
        terms[f"{relation}_angle"] = triple_loss(student, teacher, mask, angle_loss=angle_loss, window_size=window)
    return terms


class _TripleSum(torch.autograd.Function):
    """Sums the losses of all triples, chunk by chunk, and takes the gradient of each chunk at once.

    There are N W W triples in a set and N N products, so keeping the triples for the backward pass would cost most of
    the memory; here no more than _CHUNK of them exist at a time, or those of one set.
    """

    @staticmethod
    def forward(ctx, student, teacher, mask, elementwise, window_size):
        # Shapes: (sets, N, N) twice, (sets, N).
        sets, items, _ = student.shape
        width = items if window_size is None else min(window_size, items)
        size = max(1, _CHUNK // max(1, items * width**2))
        total, gradients = student.new_zeros(()), []
        for start in range(0, sets, size):
            chunk = slice(start, start + size)
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                products = student[chunk].detach().requires_grad_(ctx.needs_input_grad[0])
                # Both cosines are 0 at masked triples, and every loss is 0 there.
                value = elementwise(
                    angles(products, mask[chunk], window_size),
                    angles(teacher[chunk], mask[chunk], window_size),
                    reduction="sum",
                )
                if ctx.needs_input_grad[0]:
                    gradients += torch.autograd.grad(value, products)
            total += value.detach()
        if gradients:
            ctx.save_for_backward(torch.cat(gradients))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        return upstream * gradient, None, None, None, None


def _log_softmax(scores: Tensor, pairs: Tensor) -> Tensor:
    """Log-softmax over the last dimension among `pairs`; finite elsewhere, also in rows without a pair."""
    return scores.masked_fill(~pairs, torch.finfo(scores.dtype).min).log_softmax(-1)


def _mean_distance(distances: Tensor, pairs: Tensor) -> Tensor:
    """Returns the mean over a set's pairs with a distance above 0, (..., 1, 1); 1 where there is none."""
    apart = pairs & (distances > 0)
    count = apart.sum((-1, -2), keepdim=True)
    mean = distances.masked_fill(~apart, 0).sum((-1, -2), keepdim=True) / count.clamp_min(1)
    return mean.masked_fill(count == 0, 1)
