"""Attribution-driven knowledge distillation (AD-KD; Wu et al. 2023, arXiv 2305.10010)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ckd_trainer.arguments import check_positive, option
from ckd_trainer.losses.attributions import attribution_loss
from ckd_trainer.methods.base import MethodArguments, Pair, Term
from ckd_trainer.teacher.attributions import Attributions
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.padding import attention_mask_of


@dataclass
class AttributionArguments(MethodArguments):
    """AD-KD compares how much each token of a text contributes to the decision of the model.

    The published weights are 1, 10, 50 or 100 (with `term_balance: none`), beside alpha .8, .9 or 1 and temperature 1
    to 4, at learning rates of 2e-5 to 5e-5.

    Example::

        DistillationTrainer(..., methods=[AttributionArguments(attribution_weight=0.3)])
    """

    attribution_weight: float = option(0.0, "AD-KD: share of the gradient (with term_balance none, a factor).")
    # All: the default of the authors' code for BERT-base, and that of most of their scripts.
    attribution_top_k: int | None = option(
        None,
        "AD-KD: how many dimensions of the teacher's embeddings count in the attribution of a token: those that "
        "contribute most. By default all (published: all, 734, 700 or 640 of 768).",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "attribution_top_k")

    def terms(self, pair: Pair) -> list[Term]:
        if not self.attribution_weight:
            return []
        width = pair.teacher.hidden_size
        if self.attribution_top_k is not None and self.attribution_top_k > width:
            raise InputError(
                f"attribution_top_k is {self.attribution_top_k}, but the teacher's embeddings have {width} "
                "dimensions: give fewer, or leave it out for all."
            )
        decisions = pair.head.decisions(torch.zeros(1, pair.head.outputs(pair.student)))
        if decisions is None:
            raise InputError(
                f"attribution_weight is set, but a model whose head is {pair.head.name} decides nothing about a text "
                "as a whole that its tokens could contribute to: set it to 0, or use models for sequence "
                "classification."
            )
        return [AttributionTerm(self, pair, decisions.shape[-1])]


class AttributionTerm(Term):
    """(a_i^S / |a^S| - a_i^T / |a^T|)^2, mean over tokens, sum over decisions (`attribution_loss`).

    The attribution of token i is a_i = |dz/de_i * e_i|, with e_i its embedding (hidden state 0: with position, and
    normalized) and z a decision: the log odds of a class or a label, or a score (`Head.decisions`). Of two classes,
    both have the same attributions, and count once. Of the teacher's elements of dz/de_i * e_i, only the
    attribution_top_k largest count.

    Works for any widths, and for heads that decide about a text as a whole. The student needs second derivatives: a
    backward pass for each decision becomes part of its forward pass, with eager attention, and with dropout as in the
    authors' code. Refused with torch.compile, FSDP and DeepSpeed. Cached: a float32 number for each token and
    decision.

    Differences from the authors' code (`brucewsy/AD-KD`):

    - z is log odds. Theirs is log p of each of several classes, and the loss on the label for two classes and for
      scores. For each text these gradients are a multiple of ours, which cancels in a / |a|, but they vanish where p
      rounds to 1, and need labels.
    - Integrated gradients have one step, the default there, and no option for more.
    - Several labels, which they do not have, are treated as pairs of classes.

    Args:
        args: with the weight and top_k.
        pair: with the head.
        decisions: their number.
    """

    name = "attribution"

    def __init__(self, args: AttributionArguments, pair: Pair, decisions: int) -> None:
        super().__init__()
        self.weight, self.top_k = args.attribution_weight, args.attribution_top_k
        self.student_signal = Attributions(pair.head, decisions)
        self.teacher_signal = Attributions(pair.head, decisions, self.top_k)

    def forward(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return attribution_loss(student, teacher, attention_mask_of(batch))

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        return attention_mask_of(batch).count_nonzero()

    def notes(self) -> list[str]:
        return [] if self.top_k is None else [f"attributions of the teacher's top {self.top_k} dimensions"]
