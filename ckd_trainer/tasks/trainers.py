"""Makes the trainer of each stage of a run, with its teacher checked and cached."""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from ckd_trainer.dynamic_trainer import DynamicTrainer
from ckd_trainer.models.pair import ModelPair
from ckd_trainer.models.stored_teacher import StoredTeacher
from ckd_trainer.runs.stages import Stage
from ckd_trainer.tasks.base import ModelInputs, Task
from ckd_trainer.tasks.teacher_answers import check_answers, sure_of
from ckd_trainer.teacher.signals import Signal
from ckd_trainer.trainer import DistillationTrainer
from ckd_trainer.utils.errors import InputError
from ckd_trainer.utils.network import hub_errors

# Errors of the constructors of `Trainer` and Accelerate about options, some of which come from the launcher.
REFUSED_BY_TRAINER = re.compile(
    "mixed precision requires|only works in distributed training|`num_steps` is set but|can't (both )?be set|"
    "can't be used with `save_only_model`|save_only_model option is not compatible"
)


def trainers_of(
    task: Task,
    inputs: ModelInputs,
    pair: ModelPair,
    student: PreTrainedModel | None,
    teacher: StoredTeacher | None,
    stages: Sequence[Stage],
) -> Iterator[DistillationTrainer]:
    """Yields the trainer of each stage. The student of the next one is read from the folder of the one before."""
    kept = None
    for number, stage in enumerate(stages):
        if number == 0:
            stage.log_options()
        else:
            student, _ = pair.load(trained=stages[number - 1].folder)
        with stage.naming_errors():
            trainer = _make_trainer(
                functools.partial(task.dynamic_trainer_class, dynamic_args=stage.dynamic_args)
                if any(stage.dynamic_args.is_dynamic for stage in stages)
                else task.trainer_class,
                model=student,
                teacher_model=teacher,
                ckd_args=stage.ckd_args,
                methods=stage.methods,
                args=stage.args,
                train_dataset=inputs.unlabeled if inputs.train is None else inputs.train,
                unlabeled_dataset=None if inputs.train is None else inputs.unlabeled,
                unlabeled_share=None if inputs.unlabeled is None else task.args.unlabeled_share,
                group_size=task.group_size,
                eval_dataset=inputs.validation.get(""),
                data_collator=task.collator(pair.input_tokenizer),
                processing_class=pair.saved_tokenizer,
                compute_metrics=task.compute_metrics if task.has_labels else None,
            )
        task.prepare(trainer, pair)
        if number == 0:
            kept = _prepare(task, trainer, inputs, pair.student_config.num_labels, stages)
        if kept is not None:
            trainer.mixture.unlabeled = kept
        yield trainer
        del trainer, student  # frees their memory for the next


def _prepare(
    task: Task, trainer: DistillationTrainer, inputs: ModelInputs, classes: int, stages: Sequence[Stage]
) -> np.ndarray | None:
    """Checks the losses of all stages, lets the teacher answer a sample of examples, and opens its cache.

    Returns:
        the rows of the unlabeled examples that the teacher is sure of; None without unlabeled_min_confidence.
    """
    first, reader, kept = stages[0], None, None
    signals: list[Signal] = []
    for stage in stages:
        if stage is not first:
            stage.log_options()
            with stage.naming_errors():
                _use(trainer, stage)
        if trainer.teacher is not None:
            reader, signals = stage, [*signals, *trainer.teacher.signals]
    if reader is not None:
        if trainer.ckd_args is not reader.ckd_args:
            _use(trainer, reader)
        trainer.teacher.also_cached = signals
        if task.has_labels:
            reads_logits = any("logits" in stage.ckd_args.weights for stage in stages)
            check_answers(task, trainer, inputs, classes, reads_logits=reads_logits)
        if trainer.caches_teacher:
            trainer.open_teacher_cache()  # now: a signal ends the run at once, and a mistake leaves no files
            if task.args.unlabeled_min_confidence is not None:
                kept = sure_of(trainer, task.args.unlabeled_min_confidence)
    if trainer.ckd_args is not first.ckd_args:
        _use(trainer, first)
    return kept


def _use(trainer: DistillationTrainer, stage: Stage) -> None:
    """Replaces the loss of a trainer by that of a stage."""
    if isinstance(trainer, DynamicTrainer):
        trainer.use_loss(stage.ckd_args, stage.methods, stage.dynamic_args)
    else:
        trainer.use_loss(stage.ckd_args, stage.methods)


def _make_trainer(trainer_class: Callable[..., DistillationTrainer], **kwargs: Any) -> DistillationTrainer:
    """Returns a trainer.

    Raises:
        InputError: options that contradict those of the launcher, or a repository that the Hub does not create; a
            `TemporaryError` if the Hub is out of reach.
    """
    args = kwargs["args"]
    what = (
        f"push_to_hub is set, but the repository {args.hub_model_id or args.output_dir} cannot be created on the Hub"
    )
    way_out = "check the network, the token (HF_TOKEN) and hub_model_id, or leave push_to_hub out"
    try:
        with hub_errors(what, way_out) if args.push_to_hub else contextlib.nullcontext():
            return trainer_class(**kwargs)
    except ValueError as error:
        if not REFUSED_BY_TRAINER.search(str(error)):
            raise
        raise InputError(str(error)) from error
