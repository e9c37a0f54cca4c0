"""TinyBERT (Jiao et al. 2020, arXiv 1909.10351)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ckd_trainer.arguments import check_layer_mapping, option
from ckd_trainer.losses.attention_relations import attention_score_loss
from ckd_trainer.losses.layer_mapping import Pairs, format_pairs, parse_layer_mapping
from ckd_trainer.losses.states import state_loss
from ckd_trainer.methods.attention import KEY, QUERY, check_equal_heads, check_plain_attention, check_sees_all
from ckd_trainer.methods.base import MethodArguments, Pair, Term
from ckd_trainer.teacher.signals import HiddenStates, ProjectedStates, QueryKeyValue
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.padding import attention_mask_of
from ckd_trainer.utils.units import item_mask_of

EMBEDDING = (0, 0)  # the matched embeddings


@dataclass
class TinyBERTArguments(MethodArguments):
    """TinyBERT compares embeddings, hidden states and attention scores.

    The published weights are 1 (with `term_balance: none`). The paper trains on these terms alone first, and on the
    logits afterward, as recipes/methods/tinybert.yaml does with `stages`.
    """

    tinybert_embedding_weight: float = option(
        0.0, "TinyBERT: share of the gradient for the output of the embeddings (with term_balance none, a factor)."
    )
    tinybert_hidden_weight: float = option(0.0, "TinyBERT: the same for the hidden states of matched layers.")
    tinybert_attention_weight: float = option(0.0, "TinyBERT: the same for the attention scores of matched layers.")
    tinybert_layer_mapping: str = option(
        "skip", "TinyBERT: the matched layers, as in wr_layer_mapping, but without embeddings."
    )
    tinybert_projection: Literal["shared", "separate", "identity"] = option(
        "shared",
        "TinyBERT: one learned projection for embeddings and all layers, as in the authors' code; or one for the "
        "embeddings and one for the layers, as in the paper. identity: none, as in DynaBERT; needs equal widths.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer_mapping(self, "tinybert_layer_mapping")
        if self.tinybert_layer_mapping not in ("skip", "last", "final", "uniform"):
            mapping = parse_layer_mapping(self.tinybert_layer_mapping)
            if isinstance(mapping, str) or EMBEDDING in mapping:
                raise InputError(
                    f"tinybert_layer_mapping {self.tinybert_layer_mapping} matches embeddings, which "
                    "tinybert_embedding_weight compares: give skip, last, final, uniform, or pairs without 0:0."
                )

    @property
    def projected(self) -> set[str]:
        if self.tinybert_projection == "identity":
            return set()
        return self.weights.keys() & {"tinybert_embedding", "tinybert_hidden"}

    def terms(self, pair: Pair) -> list[Term]:
        if not self.weights:
            return []
        if self.tinybert_projection == "identity":
            pair.check_equal_widths("tinybert_projection identity")
        layers = pair.matched("tinybert_layer_mapping", self.tinybert_layer_mapping)
        layers = [match for match in layers if match != EMBEDDING]  # uniform has it
        embedding = [EMBEDDING] if self.tinybert_embedding_weight else []
        hidden = layers if self.tinybert_hidden_weight else []
        shared = [*embedding, *hidden] if self.tinybert_projection == "shared" else []
        states = {
            "tinybert_embedding": (self.tinybert_embedding_weight, embedding),
            "tinybert_hidden": (self.tinybert_hidden_weight, hidden),
        }
        terms: list[Term] = [
            StateTerm(name, weight, found, shared or found, pair, name in self.projected)
            for name, (weight, found) in states.items()
            if found
        ]
        if self.tinybert_attention_weight:
            check_sees_all(pair, "tinybert_attention_weight")
            heads = check_equal_heads(pair, "tinybert_attention_weight")
            check_plain_attention(pair, "tinybert_attention_weight")
            terms.append(AttentionTerm(self.tinybert_attention_weight, heads, layers))
        return terms


class StateTerm(Term):
    """(h_S W + b - h_T)^2, mean over tokens and elements, sum over matched states (`state_loss`).

    W and b are learned, even if the widths are equal, as in the authors' code. Works for any widths, and for equal
    ones without W and b. Not cached: a state per token is too large to store.

    Args:
        name, weight: of the term.
        states: the matched pairs (student state, teacher state) that it compares.
        projected: those and others that share a projection.
        pair: with the widths.
        projects: whether there are W and b.
    """

    def __init__(self, name: str, weight: float, states: Pairs, projected: Pairs, pair: Pair, projects: bool) -> None:
        super().__init__()
        self.name, self.weight, self.states = name, weight, states
        self.indices = [projected.index(match) for match in states]
        ours, theirs = (tuple(side) for side in zip(*projected, strict=True))
        widths = pair.student.hidden_size, pair.teacher.hidden_size
        self.student_signal = ProjectedStates(ours, *widths) if projects else HiddenStates(ours)
        self.teacher_signal = HiddenStates(theirs)

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        mask = item_mask_of(batch)
        return torch.stack([state_loss(student[index], teacher[index], mask) for index in self.indices]).sum()

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        return item_mask_of(batch).count_nonzero()

    def notes(self) -> list[str]:
        return [f"{self.name} on states {format_pairs(self.states)}"]


class AttentionTerm(Term):
    """The squared error of attention scores, mean over heads and pairs of tokens, sum over matched layers.

    The scores are Q K^T / sqrt(d), before the softmax (`attention_score_loss`). Needs equal numbers of heads. Not
    cached: heads x tokens^2 numbers a text are larger than its hidden states, unless it is very short.

    Args:
        weight: of the term.
        heads: number of attention heads of both models.
        layers: matched pairs (student layer, teacher layer), from 1.
    """

    name = "tinybert_attention"

    def __init__(self, weight: float, heads: int, layers: Pairs) -> None:
        super().__init__()
        self.weight, self.heads, self.layers = weight, heads, layers
        self.student_signal, self.teacher_signal = (QueryKeyValue(tuple(side)) for side in zip(*layers, strict=True))

    def forward(
        self, student: list[tuple[Tensor, ...]], teacher: list[tuple[Tensor, ...]], batch: Mapping[str, Tensor]
    ) -> Tensor:
        mask = attention_mask_of(batch)
        losses = [
            attention_score_loss((ours[QUERY], ours[KEY]), (theirs[QUERY], theirs[KEY]), mask, heads=self.heads)
            for ours, theirs in zip(student, teacher, strict=True)
        ]
        return torch.stack(losses).sum()

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        return attention_mask_of(batch).bool().sum(-1).square().sum()

    def notes(self) -> list[str]:
        return [f"{self.name} on layers {format_pairs(self.layers)}"]
