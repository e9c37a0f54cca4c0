"""MiniLM (Wang et al. 2020, arXiv 2002.10957) and MiniLMv2 (Wang et al. 2021, arXiv 2012.15828).

Both compare self-attention relations, softmax(X Y^T / sqrt(d)), in one layer of each model. The formula is in
`attention_relation_loss`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ckd_trainer.arguments import check_positive, option
from ckd_trainer.losses.attention_relations import attention_relation_loss
from ckd_trainer.methods.attention import (
    KEY,
    QUERY,
    VALUE,
    check_equal_heads,
    check_plain_attention,
    check_sees_all,
)
from ckd_trainer.methods.base import MethodArguments, Pair, Term
from ckd_trainer.teacher.signals import QueryKeyValue
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.padding import attention_mask_of, example_count


@dataclass
class MiniLMArguments(MethodArguments):
    """MiniLM compares the attentions and the relations between values of the last layers."""

    minilm_attention_weight: float = option(
        0.0, "MiniLM: share of the gradient for attentions (with term_balance none, a factor; published: 1)."
    )
    minilm_value_weight: float = option(0.0, "MiniLM: the same for the relations between values.")
    minilm_teacher_layer: int | None = option(
        None, "MiniLM: the teacher layer that the student's last is compared with; by default the last."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "minilm_teacher_layer")

    def terms(self, pair: Pair) -> list[Term]:
        if not self.weights:
            return []
        options = [f"{name}_weight" for name in self.weights]
        check_sees_all(pair, options[0])
        heads = check_equal_heads(pair, options[0])
        layers = _layers(self.minilm_teacher_layer, "minilm_teacher_layer", pair)
        terms: list[Term] = []
        if self.minilm_attention_weight:
            check_plain_attention(pair, "minilm_attention_weight")
            relations = [(QUERY, KEY)]
            terms.append(RelationTerm("minilm_attention", self.minilm_attention_weight, relations, heads, layers))
        if self.minilm_value_weight:
            terms.append(RelationTerm("minilm_value", self.minilm_value_weight, [(VALUE, VALUE)], heads, layers))
        return terms


@dataclass
class MiniLMv2Arguments(MethodArguments):
    """MiniLMv2 compares the relations between queries, between keys and between values.

    In the paper, the teacher layer is the last (BERT-base), 21 (BERT-large) or 19 (RoBERTa-large).
    """

    minilmv2_weight: float = option(
        0.0, "MiniLMv2: share of the gradient (with term_balance none, a factor; published: 1)."
    )
    # 48 relation heads: the paper's for base-size models.
    minilmv2_heads: int = option(
        48, "MiniLMv2: the number of relation heads; it divides the widths of student and teacher."
    )
    minilmv2_teacher_layer: int | None = option(
        None, "MiniLMv2: the teacher layer that the student's last is compared with; by default the last."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "minilmv2_heads", "minilmv2_teacher_layer")

    def terms(self, pair: Pair) -> list[Term]:
        if not self.minilmv2_weight:
            return []
        check_sees_all(pair, "minilmv2_weight")
        for who, config in (("student", pair.student), ("teacher", pair.teacher)):
            if config.hidden_size % self.minilmv2_heads:
                raise InputError(
                    f"minilmv2_heads is {self.minilmv2_heads}, which does not divide the {who}'s width of "
                    f"{config.hidden_size}: give a number that divides both widths, such as "
                    f"{math.gcd(pair.student.num_attention_heads, pair.teacher.num_attention_heads)}."
                )
        layers = _layers(self.minilmv2_teacher_layer, "minilmv2_teacher_layer", pair)
        relations = [(QUERY, QUERY), (KEY, KEY), (VALUE, VALUE)]
        return [RelationTerm("minilmv2", self.minilmv2_weight, relations, self.minilmv2_heads, layers, splits=True)]


class RelationTerm(Term):
    """The sum of the divergences of some relations in one layer of each model, mean over examples.

    The divergence of a relation is `attention_relation_loss`: 1 / (h n) sum over heads and tokens of KL(R^T || R^S).

    Works for any widths. Not cached: h n^2 numbers a text are larger than its hidden states, unless it is very short.

    Args:
        name, weight: of the term.
        relations: pairs of QUERY, KEY and VALUE.
        heads: h, the same for both models.
        layers: of student and teacher, from 1.
        splits: whether h are relation heads; otherwise they are the models' own attention heads.
    """

    def __init__(
        self,
        name: str,
        weight: float,
        relations: list[tuple[int, int]],
        heads: int,
        layers: tuple[int, int],
        *,
        splits: bool = False,
    ) -> None:
        super().__init__()
        self.relation_heads = heads if splits else None
        self.name, self.weight, self.relations, self.heads, self.layers = name, weight, relations, heads, layers
        self.student_signal, self.teacher_signal = (QueryKeyValue((layer,)) for layer in layers)

    def forward(
        self, student: list[tuple[Tensor, ...]], teacher: list[tuple[Tensor, ...]], batch: Mapping[str, Tensor]
    ) -> Tensor:
        mask, (ours,), (theirs,) = attention_mask_of(batch), student, teacher
        losses = [
            attention_relation_loss((ours[x], ours[y]), (theirs[x], theirs[y]), mask, heads=self.heads)
            for x, y in self.relations
        ]
        return torch.stack(losses).sum()

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        return example_count(batch)

    def notes(self) -> list[str]:
        return [f"{self.name} on layers {self.layers[0]}:{self.layers[1]} with {self.heads} heads"]


def _layers(teacher_layer: int | None, option: str, pair: Pair) -> tuple[int, int]:
    student, teacher = pair.depths
    if teacher_layer is not None and teacher_layer > teacher:
        raise InputError(f"{option} is {teacher_layer}, but the teacher has {teacher} layers.")
    return student, teacher_layer or teacher
