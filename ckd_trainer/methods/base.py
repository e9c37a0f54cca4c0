"""What a distillation loss is made of: terms, which compare a signal of the student with one of the teacher."""

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
    """A term of the loss: a mean over items of the step.

    It has no parameters of its own, as nothing would train them.

    Attributes:
        name: what logs call it, `loss_<name>`.
        weight: in the loss; a share of the gradient where terms are balanced (`is_balanced`), else a factor.
        is_balanced: with `term_balance: gradient` its weight is a share.
        student_signal, teacher_signal: what it compares.
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
            student, teacher: the values of `student_signal` and `teacher_signal`; logits of the teacher in the
                student's order of labels.
            batch: the columns that the models read; padding is where `attention_mask` is 0.
        """

    @abc.abstractmethod
    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the number of items that the term of a batch averages over, a scalar.

        A step may be cut into batches and processes in any way, as a term of all is the mean of those of its parts,
        each weighted with its part's count: term = sum_parts count(part) term(part) / sum_parts count(part).
        """

    def describe(self) -> str:
        """Returns its name for the printed plan, with a unit where it has one."""
        return self.name

    def notes(self) -> list[str]:
        """Returns what else the printed plan says of it, such as its layers; what several terms say is said once."""
        return []

    def warnings(self) -> list[str]:
        """Returns what to warn of when the plan is printed."""
        return []


@dataclass(frozen=True)
class Pair:
    """What terms may know of student and teacher when they are made.

    Attributes:
        head: the student's.
    """

    student: PreTrainedConfig
    teacher: PreTrainedConfig
    head: Head
