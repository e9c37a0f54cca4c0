"""Terms and methods.

A term is a part of a distillation loss, and compares a signal of the student with one of the teacher. A method is a
dataclass of options that makes terms.
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ckd_trainer.arguments import check_weights, weights_of
from ckd_trainer.heads import Head
from ckd_trainer.losses.layer_mapping import Pairs, resolve_layer_mapping
from ckd_trainer.teacher.signals import Signal
from ckd_trainer.utils.decoders import is_decoder
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.option_types import check_types


class Term(torch.nn.Module, abc.ABC):
    """A term of the loss: a mean over the items of a step.

    It has no parameters of its own, because nothing would train them; `ProjectedStates` learns a projection.

    Attributes:
        name: its name in logs, `loss_<name>`.
        weight: in the loss; a share of the gradient if the term is balanced, else a factor.
        is_balanced: whether its weight is a share with `term_balance: gradient`.
        student_signal, teacher_signal: the signals that it compares.
        columns: columns of a batch that it reads itself, whether or not a model reads them, too.
        relation_heads: the number of heads into which it splits queries, keys and values; None if it reads none, or
            compares the models' own attention heads.
    """

    name: str
    weight: float = 1.0
    is_balanced: bool = True
    columns: tuple[str, ...] = ()
    relation_heads: int | None = None
    student_signal: Signal
    teacher_signal: Signal

    @abc.abstractmethod
    def forward(self, student: Any, teacher: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """Returns the term of a batch, a scalar: the mean over `count(batch)` items.

        Args:
            student, teacher: the values of `student_signal` and `teacher_signal`; the teacher's logits are in the
                student's order of labels.
            batch: the columns that the models read, and `columns`; padding is where `attention_mask` is 0. The items
                of relations are the valid ones of `ckd_trainer.utils.units.item_mask_of(batch)`.
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
        teacher_score_scale: the factor that puts differences of a regression teacher's scores on the student's scale.
    """

    student: PreTrainedConfig
    teacher: PreTrainedConfig
    head: Head
    teacher_score_scale: float = 1.0

    @property
    def depths(self) -> tuple[int, int]:
        """The number of layers of student and teacher."""
        return self.student.num_hidden_layers, self.teacher.num_hidden_layers

    @property
    def is_causal(self) -> bool:
        """Whether a token sees only those before it, in either model."""
        configs = (self.student, self.teacher)
        return self.head.causal or any(is_decoder(each) or getattr(each, "is_decoder", False) for each in configs)

    def check_equal_widths(self, option: str) -> None:
        """Raises InputError if student and teacher differ in width; `option` turns on what needs them to be equal."""
        ours, theirs = self.student.hidden_size, self.teacher.hidden_size
        if ours != theirs:
            raise InputError(
                f"{option} is set, but hidden states of width {ours} (student) and {theirs} (teacher) cannot be "
                f"compared element by element: set {option} to 0, or use a method that compares relations, such as "
                "gram_weight or minilmv2_weight."
            )

    def matched(self, option: str, mapping: str) -> Pairs:
        """Returns the matched states of a layer mapping; raises InputError if the option does not fit the depths."""
        try:
            return resolve_layer_mapping(mapping, *self.depths)
        except ValueError as error:
            raise InputError(f"{option}: {error}") from None


@dataclass
class MethodArguments(abc.ABC):
    """The options of a method, which is off by default.

    An option `<name>_weight` is the weight of the term `<name>`: a share of the gradient, or a plain factor with
    `term_balance: none`.
    """

    def __post_init__(self) -> None:
        check_types(self)
        check_weights(self)

    @property
    def weights(self) -> dict[str, float]:
        """{term: weight} of the terms with a weight above 0."""
        return weights_of(self)

    @property
    def projected(self) -> set[str]:
        """Those of these terms that learn a projection, which exists only in training."""
        return set()

    @abc.abstractmethod
    def terms(self, pair: Pair) -> list[Term]:
        """Returns the terms with a weight above 0.

        Raises:
            InputError: the options do not fit the pair.
        """
