"""Callbacks that end training early, on a signal or on divergence, and log so that it can be resumed."""

import logging
import signal
import time
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

from ckd_trainer.runs.best_model import may_save_after_evaluation
from ckd_trainer.utils.errors import InputError, Interrupted

logger = logging.getLogger(__name__)

_STEPS_BETWEEN = 10  # steps between checks on which all processes must agree
_SECONDS_BETWEEN = 2  # between checks for signals if steps are slow: launchers kill 30 seconds after they send one


class LogWhereSaved(TrainerCallback):
    """Logs at every checkpoint and at the end, as checkpoints do not hold the sums since the last log.

    A run that resumes from a checkpoint therefore logs the same as without the interruption.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A step is logged before it is evaluated, and if the evaluation is the best so far, a checkpoint is saved.
        may_save = control.should_save or (control.should_evaluate and may_save_after_evaluation(args))
        control.should_log |= may_save or control.should_training_stop

    on_epoch_end = on_step_end


class StopOnSignal(TrainerCallback):
    """On SIGTERM and SIGINT: finishes the step, saves a checkpoint and stops training.

    Use it as a context around training too; after a signal, the context raises `Interrupted` at its end. A second one
    does nothing, because it is normal: a job's signal goes to all of its processes, and their launcher passes on its
    own. Only in a single process, a second Ctrl-C (SIGINT) has its usual effect.

    Args:
        can_resume: whether training can resume from the checkpoints.
    """

    def __init__(self, accelerator: Accelerator, *, can_resume: bool = True) -> None:
        self.accelerator, self._before = accelerator, dict[int, Any]()
        self.received = self.agreed = 0  # the signal received here, and the one known to all processes
        self.can_resume, self._has_stopped = can_resume, False

    def __enter__(self) -> "StopOnSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()
        if self.received and error is None:
            raise Interrupted(self.received, can_resume=self.can_resume)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._last = self._next = state.global_step  # the steps at which the processes exchange signals
        self._told = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.accelerator.num_processes == 1:
            self.agreed = self.received
        elif state.global_step >= self._next or control.should_training_stop:
            self._agree(state.global_step)
        if self.agreed:
            control.should_save = control.should_log = True
            if args.save_strategy == SaveStrategy.BEST:  # with which an evaluation decides whether to save
                control.should_evaluate = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Not earlier: a checkpoint saved while training is about to stop would pass for the end of training.
        self._has_stopped = bool(self.agreed) and not control.should_training_stop
        control.should_training_stop |= self._has_stopped

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._has_stopped:  # `Trainer` ends the epoch here, but the resumed run will do that
            control.should_evaluate = control.should_save = False

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.accelerator.num_processes > 1:
            self._agree(state.global_step)

    def _agree(self, step: int) -> None:
        """Exchanges signals and step times among processes; the slowest step time sets the next exchange."""
        now = time.monotonic()
        mine = [self.received, (now - self._told) / max(1, step - self._last)]
        theirs = self.accelerator.gather(torch.tensor([mine], device=self.accelerator.device))
        number, seconds = theirs.amax(0).tolist()
        self.received = self.agreed = int(number)
        self._last, self._told = step, now
        self._next = step + min(_STEPS_BETWEEN, max(1, int(_SECONDS_BETWEEN / max(seconds, 1e-3))))

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if self.accelerator.num_processes == 1:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])
        logger.warning("%s: the run stops after this step.", signal.Signals(number).name)

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


class StopOnDivergence(TrainerCallback):
    """Stops training on all processes if it has diverged.

    Training has diverged if a weight is not finite. This is checked every 10 steps and before an evaluation or a
    checkpoint. It has also diverged if in 10 steps no log has a loss on the labels below 100 times that of a model
    that knows nothing. Single steps whose loss is not finite do not count: with float16 some overflow and are skipped.

    Args:
        loss_at_chance: the loss on the labels of a model that knows nothing.

    Raises:
        InputError: at the end of a step or an epoch, or at a log.
    """

    def __init__(self, accelerator: Accelerator, loss_at_chance: float) -> None:
        self.accelerator, self.loss_at_chance = accelerator, loss_at_chance

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sound = state.global_step  # the last step with a sound log

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: torch.nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        ends = control.should_save or control.should_evaluate or control.should_training_stop
        if not (ends or state.global_step % _STEPS_BETWEEN == 0):
            return
        rank = self.accelerator.process_index
        bad = sum(~torch.isfinite(_local_shard(parameter, rank)).all() for parameter in model.parameters())
        if self.accelerator.reduce(bad, reduction="sum"):
            raise self._diverged(args, f"at step {state.global_step} the weights are no longer finite")

    on_epoch_end = on_step_end

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        loss = logs.get("loss_task")  # the mean over finite steps since the last log; NaN if there were none
        if loss is None or loss < 100 * self.loss_at_chance:
            self.sound = state.global_step
        elif state.global_step - self.sound >= _STEPS_BETWEEN:
            raise self._diverged(
                args,
                f"from step {self.sound} to {state.global_step} the loss on the labels is {loss:.4g}, but that of a "
                f"model that knows nothing is {self.loss_at_chance:.2g}",
            )

    def _diverged(self, args: TrainingArguments, what: str) -> InputError:
        clip = f"clip gradients harder (max_grad_norm is {args.max_grad_norm:g})"
        if not args.max_grad_norm:
            clip = "clip gradients (max_grad_norm is 0)"
        there = ""
        if self.sound and args.save_strategy != SaveStrategy.NO:
            there = f" Checkpoints in {args.output_dir} up to step {self.sound} are from before the divergence."
        return InputError(
            f"training has diverged: {what}. Lower learning_rate ({args.learning_rate:g}) or the weights of the loss, "
            f"or {clip}.{there}"
        )


def _local_shard(parameter: Any, rank: int) -> torch.Tensor:
    """Returns this process's part of a parameter: all of it, or its shard (FSDP, ZeRO 3)."""
    if hasattr(parameter, "to_local"):
        return parameter.to_local()
    if not hasattr(parameter, "ds_tensor"):
        return parameter
    shard = parameter.ds_tensor  # padded with arbitrary numbers to the same size in all processes
    return shard[: max(0, parameter.ds_numel - rank * shard.numel())]
