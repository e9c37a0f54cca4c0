"""Checks that a loss and the options of a training work with a student of several widths and depths."""

from collections.abc import Iterable

from transformers import PreTrainedConfig, TrainingArguments

from ckd_trainer.arguments import CKDArguments
from ckd_trainer.methods import Term
from ckd_trainer.models.sizes import head_size
from ckd_trainer.models.subnetworks import DynamicArguments
from ckd_trainer.teacher.signals import Attentions, ProjectedStates, QueryKeyValue
from ckd_trainer.training.gradients import updates_in_backward
from ckd_trainer.utils.errors import InputError


def check_options(
    dynamic_args: DynamicArguments, ckd_args: CKDArguments, args: TrainingArguments, *, is_sharded: bool
) -> None:
    """Raises InputError for options that do not work with several widths or depths.

    Args:
        is_sharded: whether FSDP or DeepSpeed distributes the weights.
    """
    if dynamic_args.whole_student_teaches:
        _check_teaching(dynamic_args, ckd_args)
    if not dynamic_args.is_dynamic:
        return
    if updates_in_backward(args):
        raise InputError(
            f"optim is {args.optim.value}, which changes weights in every backward pass, but a step of a dynamic "
            "student has one for each sub-network: choose another optimizer."
        )
    if is_sharded:
        raise InputError(
            "a student of several widths and depths needs all of its weights on each device: leave out FSDP and "
            "DeepSpeed, or student_widths and student_depths."
        )
    if args.torch_compile:
        raise InputError(
            "torch_compile would recompile the model for every sub-network: leave it out, or student_widths and "
            "student_depths."
        )


def _check_teaching(dynamic_args: DynamicArguments, ckd_args: CKDArguments) -> None:
    if not dynamic_args.is_dynamic:
        raise InputError(
            "whole_student_teaches is set, but the student has no other sub-networks: give student_widths or "
            "student_depths."
        )
    if not ckd_args.labels_and_logits:
        raise InputError(
            "whole_student_teaches is set, but labels_and_logits is off, so the whole student would learn nothing: "
            "leave one of them out."
        )
    if ckd_args.maps_scores:
        raise InputError(
            "whole_student_teaches is set, and teacher_score_scale or teacher_score_shift, but the whole student has "
            "the scale of its sub-networks: leave these out."
        )


def check_terms(terms: Iterable[Term], args: DynamicArguments, config: PreTrainedConfig) -> None:
    """Raises InputError for a term that cannot compare the teacher with all sub-networks of a student."""
    for term in terms:
        signal = term.student_signal
        if isinstance(signal, ProjectedStates) and args.whole_student_teaches:
            raise InputError(
                f"the term {term.name} learns a projection, but the student has its teacher's width with "
                "whole_student_teaches: set its weight to 0, or tinybert_projection to identity."
            )
        if not isinstance(signal, Attentions | QueryKeyValue):
            continue
        for part in args.subnetworks:
            heads, width = term.relation_heads, part.heads(config) * head_size(config)
            if part.width == 1 or (heads is not None and width % heads == 0):
                continue
            if heads is None:
                reason = f"it compares attention heads, and {part} has fewer than the teacher"
            else:
                reason = f"its {heads} relation heads do not divide the {width} dimensions of {part}"
            raise InputError(
                f"the term {term.name} does not work with width {part.width:g}, because {reason}: set its weight to "
                "0, or leave this width out."
            )
