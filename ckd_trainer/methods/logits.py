"""The teacher's logits as soft targets (Hinton, Vinyals and Dean 2015, arXiv 1503.02531)."""

from collections.abc import Mapping

from torch import Tensor

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.methods.base import Pair, Term
from ckd_trainer.teacher.signals import Logits


class LogitTerm(Term):
    """Compares the logits of student and teacher with the head's loss, such as T^2 KL for classes.

    Args:
        args: alpha, temperature, scale_by_temperature, and the mapping of a regression teacher's scores.
    """

    name = "logits"
    is_balanced = False  # alpha weighs it against the task loss

    def __init__(self, args: CKDArguments, pair: Pair) -> None:
        super().__init__()
        self.weight, self.args, self.head = args.alpha, args, pair.head
        self.student_signal = Logits(pair.head, pair.head.outputs(pair.student))
        self.teacher_signal = Logits(pair.head, pair.head.outputs(pair.teacher))

    def forward(self, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return self.head.logit_loss(
            student,
            self.args.map_scores(teacher),
            batch,
            temperature=self.args.temperature,
            scale_by_temperature=self.args.scale_by_temperature,
        )

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.head.logit_count(batch)


def terms(args: CKDArguments, pair: Pair) -> list[Term]:
    """Returns the term if alpha is above 0."""
    return [LogitTerm(args, pair)] if args.alpha > 0 else []
