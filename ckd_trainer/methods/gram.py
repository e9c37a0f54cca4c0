"""Gram matrices of matched layers (arXiv 2509.25253 compares such forms)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ckd_trainer.arguments import check_layer_mapping, option
from ckd_trainer.losses import Gram
from ckd_trainer.losses.gram_matrices import gram_matrix_loss
from ckd_trainer.losses.layer_mapping import Pairs, format_pairs
from ckd_trainer.methods.base import MethodArguments, Pair, Term
from ckd_trainer.teacher.signals import WordGram
from ckd_trainer.utils.padding import example_count
from ckd_trainer.utils.units import item_mask_of


@dataclass
class GramArguments(MethodArguments):
    """Compares the inner products of all tokens of a text, regardless of the models' widths and scales."""

    gram_weight: float = option(0.0, "Gram matrices: share of the gradient (with term_balance none, a factor).")
    gram_centered: bool = option(
        False, "Gram matrices: of states relative to their mean, which is linear centered kernel alignment (CKA)."
    )
    # The default of CKD's word relation, whose signal is the same: both then read one cache.
    gram_layer_mapping: str = option("emb+skip", "Gram matrices: the matched layers, as in wr_layer_mapping.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layer_mapping(self, "gram_layer_mapping")

    def terms(self, pair: Pair) -> list[Term]:
        if not self.gram_weight:
            return []
        return [GramTerm(self, pair.matched("gram_layer_mapping", self.gram_layer_mapping))]


class GramTerm(Term):
    """|K^S / |K^S| - K^T / |K^T||^2, mean over matched layers and examples (`gram_matrix_loss`).

    Works for any widths. Cached with the signal of CKD's word relation: a number for each pair of tokens.

    Args:
        args: with the weight and whether states are centered.
        layers: matched pairs (student state, teacher state).
    """

    name = "gram"

    def __init__(self, args: GramArguments, layers: Pairs) -> None:
        super().__init__()
        self.weight, self.centered, self.layers = args.gram_weight, args.gram_centered, layers
        self.student_signal, self.teacher_signal = (WordGram(tuple(side)) for side in zip(*layers, strict=True))

    def forward(self, student: Gram, teacher: Gram, batch: Mapping[str, Tensor]) -> Tensor:
        mask = item_mask_of(batch)[:, None, :].expand(-1, len(self.layers), -1)
        return gram_matrix_loss(student, teacher, mask, centered=self.centered)

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        return example_count(batch)

    def notes(self) -> list[str]:
        return [f"{'centered ' if self.centered else ''}Gram matrices on layers {format_pairs(self.layers)}"]
