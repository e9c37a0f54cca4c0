"""Which terms the loss of a run has, with which weights, and what they are of a batch."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ckd_trainer.heads import Head
from ckd_trainer.methods import Term
from ckd_trainer.teacher.signals import Signal
from ckd_trainer.utils.errors import InputError

logger = logging.getLogger(__name__)


class Objective:
    """The loss: (1 - alpha) task + alpha logits + weights x other terms.

    Args:
        terms: those that compare with the teacher, with weights above 0; none in the control run.
        task_weight: weight of the loss on the labels, 1 - alpha; 0 where there is none.
        balances: weights of balanced terms are shares of the gradient.

    Attributes:
        terms: by name.
        weights: {term: weight}, "task" first.
        student_signals, teacher_signals: what the terms read, each once.

    Raises:
        InputError: two terms of one name, or nothing to train by.
    """

    def __init__(self, head: Head, terms: Sequence[Term], *, task_weight: float, balances: bool) -> None:
        self.head, self.balances = head, balances
        self.terms = {term.name: term for term in terms}
        names = [term.name for term in terms]
        double = [name for name in [*names, "task"] if [*names, "task"].count(name) > 1]
        if double:
            raise InputError(f"two terms of the loss are called {double[0]}: give each a name of its own.")
        self.weights = ({"task": task_weight} if task_weight is not None else {}) | {
            name: term.weight for name, term in self.terms.items()
        }
        if not self.weights:
            raise InputError(
                f"the model has no head ({head.name}) and no term of the loss has a weight, so there is nothing to "
                "train by: give a term a weight, or a compute_loss_func."
            )
        self.student_signals = list(dict.fromkeys(term.student_signal for term in terms))
        self.teacher_signals = list(dict.fromkeys(term.teacher_signal for term in terms))

    @property
    def balanced(self) -> dict[str, float]:
        """{term: weight} of the terms whose weights may be shares of the gradient."""
        return {name: term.weight for name, term in self.terms.items() if term.is_balanced}

    def describe(self, scales: Mapping[str, float] | None = None) -> str:
        """Returns the plan in one line: the weighted terms and what they say of themselves.

        Args:
            scales: what the weights are multiplied by, where that is known.
        """
        scales, parts = scales or {}, []
        for name, weight in self.weights.items():
            scale = f" x {scales[name]:.4g}" if name in scales else ""
            parts.append(f"{weight:g}{scale} {self.terms[name].describe() if name in self.terms else name}")
        notes = dict.fromkeys(note for term in self.terms.values() for note in term.notes())
        if self.balances and self.balanced:
            notes = {"weights of relations are shares of the gradient of task and logits": None} | notes
        return "; ".join([f"loss = {' + '.join(parts)}", *notes])

    def log_plan(self) -> None:
        """Logs the plan, and what terms warn of."""
        logger.info(self.describe())
        for warning in dict.fromkeys(warning for term in self.terms.values() for warning in term.warnings()):
            logger.warning(warning)

    def __call__(
        self, outputs: Mapping[str, Any], teacher: Mapping[Signal, Any], batch: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Returns the unweighted terms, named as in `terms`, as scalars.

        Args:
            outputs: of the student, with what its signals ask for.
            teacher: values of `teacher_signals`.
        """
        student = {signal: signal.read(outputs, batch) for signal in self.student_signals}
        return {
            name: term(student[term.student_signal], teacher[term.teacher_signal], batch)
            for name, term in self.terms.items()
        }

    def counts(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns of how many items each term of a batch is the mean, the task loss among them, see `Term.count`."""
        counts = {name: term.count(batch) for name, term in self.terms.items()}
        if "task" in self.weights:
            has_labels = not self.head.label_columns or self.head.has_labels(batch)
            labelled = self.head.task_count(batch) if has_labels else batch["input_ids"].new_zeros(())
            counts = {"task": labelled} | counts
        return counts
