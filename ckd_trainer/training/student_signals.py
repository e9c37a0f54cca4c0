"""Checks that gradients reach what a student's signals read."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainingArguments

from ckd_trainer.heads import Head
from ckd_trainer.teacher.signals import Logits, Signal
from ckd_trainer.training.double_backward import check_double_backward
from ckd_trainer.utils.errors import InputError


def _check_no_prompts(student: torch.nn.Module, teacher: Any, compared: str, or_else: str) -> None:
    """Raises InputError if a PEFT model learned tokens before the text: its outputs are not those of the text alone.

    Args:
        compared: the outputs that are compared token by token.
        or_else: a way out beside LoRA.
    """
    for name, model in (("student", student), ("teacher", teacher)):
        for config in getattr(model, "peft_config", {}).values():
            if config.is_prompt_learning and config.peft_type != "PREFIX_TUNING":  # whose prefix has no states
                raise InputError(
                    f"the {name} has learned tokens before the text ({config.peft_type.value}), so its {compared} "
                    f"cannot be compared token by token: use LoRA{or_else}."
                )


def check_student_signals(
    student: torch.nn.Module,
    signals: Sequence[Signal],
    teacher: Any,
    head: Head,
    args: TrainingArguments,
    accelerator: Accelerator,
) -> None:
    """Raises InputError if something in training keeps gradients from what a student's signals read.

    Args:
        teacher: a model, a `StoredTeacher`, or None.
    """
    by_token = head.tokens_dim is not None
    or_else = "" if by_token else ", or compare logits alone with CKDArguments.without_relations()"
    if by_token and any(isinstance(signal, Logits) for signal in signals):
        _check_no_prompts(student, teacher, "logits", or_else)
    if any(signal.model_outputs or signal.modules(student) for signal in signals):
        _check_no_prompts(student, teacher, "hidden states", or_else)
    if any(signal.differentiates for signal in signals):
        check_double_backward(student, teacher, args, accelerator)
    reads_inside = [signal for signal in signals if "attentions" in signal.model_outputs or signal.modules(student)]
    reentrant = (args.gradient_checkpointing_kwargs or {}).get("use_reentrant", False)
    if args.gradient_checkpointing and reentrant and reads_inside:
        raise InputError(
            "gradient_checkpointing_kwargs sets use_reentrant, which passes on no gradient from inside a layer, but a "
            "term reads attentions or their projections: set use_reentrant to false."
        )
