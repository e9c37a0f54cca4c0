"""Terms: the parts of a distillation loss, which compare a signal of the student with one of the teacher."""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ckd_trainer.heads import Head
from ckd_trainer.teacher.signals import Signal


class Term(torch.nn.Module, abc.ABC):
    """A term of the loss: a mean over the items of a step.

    It has no parameters of its own, because nothing would train them.

    Attributes:
        name: its name in logs, `loss_<name>`.
        weight: in the loss; a share of the gradient if the term is balanced, else a factor.
        is_balanced: whether its weight is a share with `term_balance: gradient`.
        student_signal, teacher_signal: the signals that it compares.
    """

    name: str
    weight: float = 1.0
    is_balanced: bool = True
    student_signal: Signal
    teacher_signal: Signal

    @abc.abstractmethod
    def forward(self, student: Any, teacher: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the term of a batch, a scalar: the mean over `count(batch)` items.

        Args:
            student, teacher: the values of `student_signal` and `teacher_signal`; the teacher's logits are in the
                student's order of labels.
            batch: the columns that the models read; padding is where `attention_mask` is 0.
        """

    @abc.abstractmethod
    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the number of items in a batch that the term averages over, a scalar.

        The term of a step is the mean of the terms of its batches, weighted by count, however the step is divided:
        term = sum_parts count(part) term(part) / sum_parts count(part).
        """

    def describe(self) -> str:
        """Returns its name for the printed plan, with a unit if it has one."""
        return self.name

    def notes(self) -> list[str]:
        """Returns further lines for the printed plan, such as its layers. Equal lines are printed once."""
        return []

    def warnings(self) -> list[str]:
        """Returns warnings to log with the plan."""
        return []


@dataclass(frozen=True)
class Pair:
    """What a method knows about student and teacher when it makes its terms.

    Attributes:
        head: the student's head.
    """

    student: PreTrainedConfig
    teacher: PreTrainedConfig
    head: Head
