"""The teacher's logits as soft targets (Hinton, Vinyals and Dean 2015, arXiv 1503.02531).

Variants: reverse KL, skewed KL (Ko et al. 2024, arXiv 2402.03898), and the squared error of logits (Ba and Caruana
2014, arXiv 1312.6184). `ckd_trainer.losses.classification_logit_loss` has the formulas.
"""

from collections.abc import Mapping

from torch import Tensor

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.methods.base import Pair, Term
from ckd_trainer.teacher.signals import Logits
from ckd_trainer.utils.errors import InputError


class LogitTerm(Term):
    """Compares the logits of student and teacher with the head's loss, such as T^2 KL for classes.

    Args:
        args: alpha, temperature, logit_loss, scale_by_temperature, and the mapping of a regression teacher's scores.
    """

    name = "logits"
    is_balanced = False  # alpha weighs it against the task loss

    def __init__(self, args: CKDArguments, pair: Pair) -> None:
        super().__init__()
        if args.logit_loss != "kl" and pair.head.is_score:
            raise InputError(
                f"logit_loss is {args.logit_loss}, but the model predicts a score, and scores are always compared by "
                "their squared error: leave it out."
            )
        self.weight, self.args, self.head = args.alpha, args, pair.head
        self.options = {"loss": args.logit_loss} if args.logit_loss != "kl" else {}  # a user's head may not know it
        self.student_signal = Logits(pair.head, pair.head.outputs(pair.student))
        self.teacher_signal = Logits(pair.head, pair.head.outputs(pair.teacher))

    def forward(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return self.head.logit_loss(
            student,
            self.args.map_scores(teacher),
            batch,
            temperature=self.args.temperature,
            scale_by_temperature=self.args.scale_by_temperature,
            **self.options,
        )

    def describe(self) -> str:
        return f"{self.name} ({self.args.logit_loss})" if self.options else self.name

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.head.logit_count(batch)


def terms(args: CKDArguments, pair: Pair) -> list[Term]:
    """Returns the term if alpha is above 0, and labels and logits are in the loss."""
    return [LogitTerm(args, pair)] if "logits" in args.weights else []
