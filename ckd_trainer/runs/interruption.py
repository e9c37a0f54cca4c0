"""Early ends of a training, by signals and by divergence, and what they save."""

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

_STEPS_BETWEEN = 10  # what all processes have to agree on is looked at this often
_SECONDS_BETWEEN = 2  # and signals this often where steps are slow: launchers kill 30 seconds after they have sent one


class LogWhereSaved(TrainerCallback):
    """Logs at every checkpoint and at the end, as what was summed since the last log is in no checkpoint.

    So a run that goes on from a checkpoint logs what it would have logged without the interruption.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # A step is logged before it is evaluated, and the evaluation may be the best so far, which is saved.
        may_save = control.should_save or (control.should_evaluate and may_save_after_evaluation(args))
        control.should_log |= may_save or control.should_training_stop

    on_epoch_end = on_step_end


class StopOnSignal(TrainerCallback):
    """On SIGTERM and SIGINT: ends the step, saves a checkpoint and stops the training.

    A second signal does what it did before. In one of several processes it does nothing, as there the second is the
    rule: whoever stops a job sends it to all of its processes, and their launcher passes on the one that it got. To be
    used as a context around the training, which raises `Interrupted` at its end where there was a signal.

    Args:
        can_resume: checkpoints hold all that training needs to go on from them.
    """

    def __init__(self, accelerator: Accelerator, *, can_resume: bool = True) -> None:
        self.accelerator, self._before = accelerator, dict[int, Any]()
        self.received = self.agreed = 0  # the signal that came here, and the one that all processes know of
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
        self._last = self._next = state.global_step  # at which they tell each other
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
            if args.save_strategy == SaveStrategy.BEST:  # by which an evaluation decides whether to save
                control.should_evaluate = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Only now, as the checkpoint of a training that was to stop is taken for its end.
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
        """Tells the others of a signal, and how long steps take here; the slowest says when to do so again."""
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
            self._restore()
        logger.warning("%s: the run is stopped after this step.", signal.Signals(number).name)

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())


class StopOnDivergence(TrainerCallback):
    """Ends a training that has diverged, on all processes.

    It has diverged if a weight is not finite, which is checked every 10 steps and before an evaluation or a
    checkpoint, or if no log in 10 steps has a loss on the labels below 100 times that of a model that knows nothing.
    Single steps without a finite loss do not count: with float16 some overflow, and are left out.

    Args:
        loss_at_chance: the loss on the labels of a model that knows nothing.

    Raises:
        InputError: from the end of a step or an epoch, or a log.
    """

    def __init__(self, accelerator: Accelerator, loss_at_chance: float) -> None:
        self.accelerator, self.loss_at_chance = accelerator, loss_at_chance

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.sound = state.global_step  # the last step with a log that was well

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
        bad = sum(~torch.isfinite(_here(parameter, rank)).all() for parameter in model.parameters())
        if self.accelerator.reduce(bad, reduction="sum"):
            raise self._diverged(args, f"by step {state.global_step} the weights are not finite any more")

    on_epoch_end = on_step_end

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        loss = logs.get("loss_task")  # the mean over finite steps since the last log; no number if none was
        if loss is None or loss < 100 * self.loss_at_chance:
            self.sound = state.global_step
        elif state.global_step - self.sound >= _STEPS_BETWEEN:
            raise self._diverged(
                args,
                f"from step {self.sound} to {state.global_step} the loss on the labels is {loss:.4g}, where a model "
                f"that knows nothing has {self.loss_at_chance:.2g}",
            )

    def _diverged(self, args: TrainingArguments, what: str) -> InputError:
        return InputError(
            f"training has diverged: {what}. Lower learning_rate ({args.learning_rate:g}) or the weights of the loss, "
            f"or clip gradients (max_grad_norm {args.max_grad_norm:g}). Checkpoints in {args.output_dir} up to step "
            f"{self.sound} are from before."
        )


def _here(parameter: Any, rank: int) -> torch.Tensor:
    """Returns the part of a parameter that is in this process: all of it, or its shard (FSDP, ZeRO 3)."""
    if hasattr(parameter, "to_local"):
        return parameter.to_local()
    if not hasattr(parameter, "ds_tensor"):
        return parameter
    shard = parameter.ds_tensor  # filled up with anything, so that all processes have as many numbers
    return shard[: max(0, parameter.ds_numel - rank * shard.numel())]
