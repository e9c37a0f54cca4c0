"""Checks that the options of a run fit texts without labels, before models or data are loaded."""

from collections.abc import Sequence

from ckd_trainer.data.arguments import DataArguments
from ckd_trainer.runs.stages import Stage
from ckd_trainer.training.unlabeled import SHARE, sizes_of
from ckd_trainer.utils.errors import InputError


def mixed_share(data_args: DataArguments, *, distills: bool) -> float | None:
    """Returns the share of unlabeled texts in a step; None if steps do not mix them with labeled ones.

    Args:
        distills: whether a term of the loss reads the teacher.
    """
    mixes = data_args.has_unlabeled and data_args.has_labeled and distills
    return (data_args.unlabeled_share or SHARE) if mixes else None


def check_unlabeled_options(data_args: DataArguments, stages: Sequence[Stage], *, classifies: bool) -> None:
    """Raises InputError if unlabeled texts cannot be used as the options say.

    Args:
        data_args: name unlabeled texts.
        stages: the stages of the run.
        classifies: whether the task has classes.
    """
    confidence = data_args.unlabeled_min_confidence
    if confidence is not None:
        if not classifies:
            raise InputError(
                f"unlabeled_min_confidence is {confidence:g}, but the task has no classes to be confident of: leave "
                "it out."
            )
        if not any(stage.ckd_args.teacher_cache_dir for stage in stages):
            raise InputError(
                f"unlabeled_min_confidence is {confidence:g}, but there is no cache in which to look up the teacher's "
                "confidence: set teacher_cache_dir."
            )
    if not data_args.has_labeled:
        for name in ("unlabeled_share", "unlabeled_min_confidence", "max_train_samples"):
            if getattr(data_args, name) is not None:
                raise InputError(
                    f"{name} is {getattr(data_args, name):g}, but there are no labeled texts to train on: set "
                    f"train_file, or leave {name} out."
                )
    for stage in stages:
        with stage.naming_errors():
            if (share := mixed_share(data_args, distills=stage.distills)) is not None:
                sizes_of(share, stage.args)
            elif not data_args.has_labeled and stage.dynamic_args.whole_student_teaches:
                raise InputError(
                    "there are unlabeled texts alone, but with whole_student_teaches the whole student learns from "
                    "the labels: set train_file, or give a teacher instead."
                )
            elif not data_args.has_labeled and stage.ckd_args.labels_and_logits and stage.ckd_args.alpha < 1:
                raise InputError(
                    f"there are unlabeled texts alone, but alpha is {stage.ckd_args.alpha:g}, with which the labels "
                    "count: set alpha to 1, or train_file."
                )
