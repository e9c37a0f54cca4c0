"""The cosine term of DistilBERT (Sanh et al. 2019, arXiv 1910.01108)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ckd_trainer.arguments import option
from ckd_trainer.losses.states import cosine_loss
from ckd_trainer.methods.base import MethodArguments, Pair, Term
from ckd_trainer.teacher.signals import HiddenStates
from ckd_trainer.utils.units import item_mask_of


@dataclass
class DistilBERTArguments(MethodArguments):
    """DistilBERT's term on the last hidden states."""

    distilbert_cosine_weight: float = option(
        0.0,
        "DistilBERT: share of the gradient for the cosine distance of the last hidden states (with term_balance none, "
        "a factor; published: 1, beside 5 for the logits).",
    )

    def terms(self, pair: Pair) -> list[Term]:
        if not self.distilbert_cosine_weight:
            return []
        pair.check_equal_widths("distilbert_cosine_weight")
        return [CosineTerm(self.distilbert_cosine_weight, pair)]


class CosineTerm(Term):
    """1 - cosine of the last hidden states, mean over tokens (`cosine_loss`).

    Needs equal widths. Not cached: a state per token is too large to store.
    """

    name = "distilbert_cosine"

    def __init__(self, weight: float, pair: Pair) -> None:
        super().__init__()
        self.weight = weight
        self.student_signal, self.teacher_signal = (HiddenStates((depth,)) for depth in pair.depths)

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        return cosine_loss(student[0], teacher[0], item_mask_of(batch))

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        return item_mask_of(batch).count_nonzero()
