"""Checks that a student's gradients can be differentiated once more."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, DynamoBackend, is_compiled_module
from transformers import TrainingArguments

from ckd_trainer.utils.errors import InputError


def check_double_backward(
    student: torch.nn.Module, teacher: Any, args: TrainingArguments, accelerator: Accelerator
) -> None:
    """Raises InputError if something in training does not support second derivatives.

    Args:
        teacher: a model, or a `StoredTeacher`. Its first derivatives by the embeddings are needed, which compiled
            models do not return either.
    """
    obstacle = _obstacle(student, teacher, args, accelerator)
    if obstacle is not None:
        raise InputError(
            f"a term of the loss, such as attribution, differentiates gradients of the student, which {obstacle}, or "
            "set the weight of the term to 0."
        )


def _obstacle(student: torch.nn.Module, teacher: Any, args: TrainingArguments, accelerator: Accelerator) -> str | None:
    """Returns what does not support it and what to do instead; None if nothing is known to be in the way."""
    sharded = {DistributedType.FSDP: "FSDP", DistributedType.DEEPSPEED: "DeepSpeed"}
    if accelerator.distributed_type in sharded:
        return f"{sharded[accelerator.distributed_type]} does not support: use DDP"
    if accelerator.state.dynamo_plugin.backend != DynamoBackend.NO or any(map(_is_compiled, (student, teacher))):
        return "torch.compile does not support: leave it out"
    if args.use_liger_kernel:
        return "Liger's kernels do not support: leave use_liger_kernel out"
    if args.gradient_checkpointing and (args.gradient_checkpointing_kwargs or {}).get("use_reentrant", False):
        return "gradient_checkpointing_kwargs with use_reentrant does not support: set it to false"
    return None


def _is_compiled(model: Any) -> bool:
    return isinstance(model, torch.nn.Module) and any(map(is_compiled_module, model.modules()))
