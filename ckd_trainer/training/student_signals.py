"""Checks that gradients reach what a student's signals read."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainingArguments

from ckd_trainer.teacher.signals import Signal
from ckd_trainer.training.double_backward import check_double_backward
from ckd_trainer.utils.errors import InputError


def check_student_signals(
    student: torch.nn.Module,
    signals: Sequence[Signal],
    teacher: Any,
    args: TrainingArguments,
    accelerator: Accelerator,
) -> None:
    """Raises InputError if something in training keeps gradients from what a student's signals read.

    Args:
        teacher: a model, a `StoredTeacher`, or None.
    """
    if any(signal.differentiates for signal in signals):
        check_double_backward(student, teacher, args, accelerator)
    reads_inside = [signal for signal in signals if "attentions" in signal.model_outputs or signal.modules(student)]
    reentrant = (args.gradient_checkpointing_kwargs or {}).get("use_reentrant", False)
    if args.gradient_checkpointing and reentrant and reads_inside:
        raise InputError(
            "gradient_checkpointing_kwargs sets use_reentrant, which passes on no gradient from inside a layer, but a "
            "term reads attentions or their projections: set use_reentrant to false."
        )
