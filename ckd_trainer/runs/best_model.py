"""Keeps the best model of a run with `load_best_model_at_end`."""

import os
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy


class SaveBestModel(TrainerCallback):
    """Saves a checkpoint whenever an evaluation is the best so far, even if no checkpoint is due.

    `Trainer` remembers the best evaluation, but can only load a checkpoint. A checkpoint that is due at the end of an
    epoch or of training is saved after the evaluation there, so that a resumed run does not repeat that evaluation.

    Args:
        best_checkpoint: the name of the best checkpoint so far in `output_dir`, for a run that resumes. The path in a
            checkpoint's state is stale if its folder was moved.
    """

    def __init__(self, best_checkpoint: str | None = None) -> None:
        self.best_checkpoint = best_checkpoint
        self._is_postponed = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.best_checkpoint is not None:
            state.best_model_checkpoint = os.path.join(args.output_dir, self.best_checkpoint)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        is_end = float(state.epoch).is_integer() or control.should_training_stop
        if control.should_save and is_end and args.eval_strategy == IntervalStrategy.EPOCH:
            control.should_save, self._is_postponed = False, True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        control.should_save |= self._is_postponed
        self._is_postponed = False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if args.load_best_model_at_end:
            # After training, other sets are evaluated too, such as MNLI's mismatched one.
            value = metrics.get(f"eval_{args.metric_for_best_model.removeprefix('eval_')}", np.nan)
            worst = -np.inf if args.greater_is_better else np.inf
            best = worst if state.best_metric is None else state.best_metric
            # `Trainer` makes the same comparison next. NaN is never better.
            control.should_save |= bool(value > best if args.greater_is_better else value < best)


def may_save_after_evaluation(args: TrainingArguments) -> bool:
    """Returns whether an evaluation can cause a checkpoint that callbacks cannot foresee at the end of the step."""
    return args.load_best_model_at_end or args.save_strategy == SaveStrategy.BEST
