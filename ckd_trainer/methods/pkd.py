"""Patient Knowledge Distillation (Sun et al. 2019, arXiv 1908.09355)."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ckd_trainer.arguments import check_layer_mapping, option
from ckd_trainer.losses.layer_mapping import Pairs, format_pairs
from ckd_trainer.losses.states import normalized_state_loss
from ckd_trainer.methods.base import MethodArguments, Pair, Term
from ckd_trainer.teacher.signals import FirstToken, HiddenStates
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.padding import example_count
from ckd_trainer.utils.units import item_mask_of

PATIENT_LAYERS = ("skip", "last")


@dataclass
class PKDArguments(MethodArguments):
    """PKD compares the L2-normalized hidden states of matched layers.

    The published weights are 10, 100, 500 or 1000 (with `term_balance: none`), beside alpha .2, .5 or .7 and
    temperature 5, 10 or 20, at learning rates of 5e-5, 2e-5 or 1e-5.

    Example::

        DistillationTrainer(..., ckd_args=CKDArguments.without_relations(), methods=[PKDArguments(pkd_weight=0.3)])
    """

    pkd_weight: float = option(0.0, "PKD: share of the gradient (with term_balance none, a factor).")
    pkd_tokens: Literal["first", "all"] = option(
        "first", "PKD: compare the states of the first token, as in the paper, or of all tokens."
    )
    pkd_layer_mapping: str = option(
        "skip",
        "PKD: the matched layers. skip: student layer l with teacher layer l * (teacher layers / student layers); "
        "last: with the layers just below the teacher's last. Both leave out the last student layer, as in the paper, "
        "because the logits train it. Or pairs STUDENT:TEACHER such as 1:2,2:4.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pkd_layer_mapping not in PATIENT_LAYERS and not re.match(r"\d+:\d+", self.pkd_layer_mapping):
            raise InputError(
                f"pkd_layer_mapping is {self.pkd_layer_mapping!r}: give skip, last, or pairs student:teacher such as "
                "1:2,2:4."
            )
        check_layer_mapping(self, "pkd_layer_mapping")

    def terms(self, pair: Pair) -> list[Term]:
        if not self.pkd_weight:
            return []
        pair.check_equal_widths("pkd_weight")
        if self.pkd_tokens == "first" and pair.is_causal:
            raise InputError(
                "pkd_tokens is first, but the first token of a causal model does not see the text: set "
                "pkd_tokens to all."
            )
        return [PatientTerm(self, self._layers(pair), pair.student.hidden_size)]

    def _layers(self, pair: Pair) -> Pairs:
        student, teacher = pair.depths
        if self.pkd_layer_mapping not in PATIENT_LAYERS:
            return pair.matched("pkd_layer_mapping", self.pkd_layer_mapping)
        if student < 2 or teacher < student:
            raise InputError(
                f"pkd_layer_mapping {self.pkd_layer_mapping} matches the layers below the last, which a student of "
                f"{student} and a teacher of {teacher} layers do not have: give pairs such as {student}:{teacher}."
            )
        if self.pkd_layer_mapping == "last":
            return [(layer, teacher - student + layer) for layer in range(1, student)]
        return [(layer, round(layer * teacher / student)) for layer in range(1, student)]


class PatientTerm(Term):
    """(s / |s| - t / |t|)^2, mean over elements, matched layers, and examples or tokens (`normalized_state_loss`).

    This is the form of the authors' code; the paper has the squared norm, which is `width` times as large.

    Args:
        args: with the weight and the tokens.
        layers: matched pairs (student state, teacher state).
        width: of the hidden states of both models.

    Needs equal widths. With pkd_tokens first, the teacher's states can be cached: `width` numbers for each layer.
    """

    name = "pkd"

    def __init__(self, args: PKDArguments, layers: Pairs, width: int) -> None:
        super().__init__()
        self.weight, self.layers, self.reads_all = args.pkd_weight, layers, args.pkd_tokens == "all"
        sides = [tuple(side) for side in zip(*layers, strict=True)]
        self.student_signal, self.teacher_signal = (
            HiddenStates(side) if self.reads_all else FirstToken(side, width=width) for side in sides
        )

    def forward(self, student: Any, teacher: Any, batch: Mapping[str, Tensor]) -> Tensor:
        if not self.reads_all:
            return normalized_state_loss(student, teacher, student.new_ones(student.shape[:2]))
        mask = item_mask_of(batch)
        losses = [normalized_state_loss(ours, theirs, mask) for ours, theirs in zip(student, teacher, strict=True)]
        return torch.stack(losses).mean()

    def count(self, batch: Mapping[str, Tensor]) -> Tensor:
        return item_mask_of(batch).count_nonzero() if self.reads_all else example_count(batch)

    def notes(self) -> list[str]:
        return [f"PKD on layers {format_pairs(self.layers)}"]
