"""Contextual Knowledge Distillation: relations within a set of hidden states (Park et al. 2021, arXiv 2109.08359).

The same two losses serve both relations of the paper. In the *word relation* (WR), a set is one matched layer of one
example, and its items are the tokens. In the *layer-transforming relation* (LTR), a set is one real token, and its
items are the matched layers.

This differs from the authors' released code in two points. Padding never counts; their window reads padded neighbors
and repeats the tokens at the edges. Masking is finite; their -inf gives NaN on current PyTorch.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ckd_trainer.losses.geometry import Gram, stacked_gram
from ckd_trainer.losses.layer_mapping import resolve_layer_mapping
from ckd_trainer.losses.pairs import pair_loss
from ckd_trainer.losses.triples import triple_loss


def word_gram(hidden_states: Sequence[Tensor], mask: Tensor, pooling: Tensor | None = None) -> tuple[Gram, Tensor]:
    """Returns products and mask for the word relation: one set per example and layer, with its tokens as items.

    Args:
        hidden_states: M matched layers, (batch, length, width) each.
        mask: (batch, length), the attention mask; with pooling, (batch, words), 1 for the words of an example.
        pooling: (batch, words, length), a matrix that turns tokens into words, which are then the items.

    Returns:
        Gram of (batch, M) sets of `length` (or `words`) items, and the mask (batch, M, length).
    """
    return stacked_gram(hidden_states, mask, 1, pooling), mask[:, None, :].expand(-1, len(hidden_states), -1)


def layer_gram(hidden_states: Sequence[Tensor], mask: Tensor, pooling: Tensor | None = None) -> tuple[Gram, Tensor]:
    """Returns products and mask for the layer-transforming relation: one set per token, with its layers as items.

    Args:
        hidden_states, mask, pooling: as for `word_gram`; with pooling, a set is a word.

    Returns:
        Gram of (batch, length) sets of M items, and the mask (batch, length, M); a padded token's set is all masked.
    """
    return stacked_gram(hidden_states, mask, 2, pooling), mask[:, :, None].expand(-1, -1, len(hidden_states))


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
    relation_normalization: str = "pairs",
    normalize_distances: bool = False,
) -> dict[str, Tensor]:
    """The four relation losses of CKD, for your own training loop.

    Args:
        student_hidden_states: all hidden states of the student, as returned with `output_hidden_states=True`: S + 1
            tensors (batch, length, student width), starting with the embeddings.
        teacher_hidden_states: those of the teacher, T + 1 tensors (batch, length, teacher width). They get no
            gradient.
        attention_mask: (batch, length), 1 for real tokens.
        window_size: odd window for the angles of the word relation, or None for all triples; 21 in the paper.
        layer_mapping: for both relations, see `ckd_trainer.losses.layer_mapping`.
        distance, distance_loss, relation_temperature, relation_normalization, normalize_distances: see `pair_loss`.
        angle_loss: see `triple_loss`.

    Returns:
        unweighted scalars `wr_distance`, `wr_angle`, `ltr_distance`, `ltr_angle`.

    Raises:
        ValueError: unknown mapping, even window, or a distance that does not support the loss or the normalization.

    Example::

        student_out = student(**batch, output_hidden_states=True)
        with torch.no_grad():
            teacher_out = teacher(**batch, output_hidden_states=True)
        terms = contextual_relation_losses(
            student_out.hidden_states, teacher_out.hidden_states, batch["attention_mask"]
        )
        loss = student_out.loss + terms["wr_distance"] + 10 * terms["wr_angle"]
    """
    if min(len(student_hidden_states), len(teacher_hidden_states)) < 2:
        raise ValueError("give all hidden states of both models: the outputs of the embeddings and of each layer.")
    pairs = resolve_layer_mapping(layer_mapping, len(student_hidden_states) - 1, len(teacher_hidden_states) - 1)
    student_states = [student_hidden_states[student] for student, _ in pairs]
    teacher_states = [teacher_hidden_states[teacher].detach() for _, teacher in pairs]
    pair_options: dict[str, Any] = {
        "distance": distance,
        "distance_loss": distance_loss,
        "relation_temperature": relation_temperature,
        "relation_normalization": relation_normalization,
        "normalize_distances": normalize_distances,
    }
    terms = {}
    for relation, products, window in (("wr", word_gram, window_size), ("ltr", layer_gram, None)):
        student, mask = products(student_states, attention_mask)
        teacher, _ = products(teacher_states, attention_mask)
        terms[f"{relation}_distance"] = pair_loss(student, teacher, mask, **pair_options)
        terms[f"{relation}_angle"] = triple_loss(student, teacher, mask, angle_loss=angle_loss, window_size=window)
    return terms
