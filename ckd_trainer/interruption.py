"""What may end a training early, a signal or a loss without a value, and what is in place then."""

import logging
import signal

import torch
from transformers import TrainerCallback

from ckd_trainer.errors import InputError, Interrupted

logger = logging.getLogger(__name__)

_STEPS_BETWEEN = 10  # what all processes have to agree on is looked at this often


class LogWhereSaved(TrainerCallback):
    """Logs at every checkpoint and at the end, as what was summed since the last log is in no checkpoint.

    So a run that goes on from a checkpoint logs what it would have logged without the interruption.
    """

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log |= control.should_save or control.should_training_stop

    on_epoch_end = on_step_end


class StopOnSignal(TrainerCallback):
    """On SIGTERM and SIGINT: ends the step, saves a checkpoint and stops the training.

    A second signal does what it did before. To be used as a context around the training, which raises `Interrupted` at
    its end where there was a signal.
    """

    def __init__(self, accelerator):
        self.accelerator, self.received, self._before = accelerator, 0, {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind, error, traceback):
        self._restore()
        if self.received and error is None:
            raise Interrupted(self.received)

    def on_step_end(self, args, state, control, **kwargs):
        if self.accelerator.num_processes > 1:
            if state.global_step % _STEPS_BETWEEN and not control.should_training_stop:
                return
            number = torch.tensor([self.received], device=self.accelerator.device)
            self.received = int(self.accelerator.gather(number).max())
        if self.received:
            control.should_save = control.should_log = True

    def on_save(self, args, state, control, **kwargs):
        # Only now, as the checkpoint of a training that was to stop is taken for its end.
        control.should_training_stop |= bool(self.received)

    def _receive(self, number, frame):
        self.received = number
        self._restore()
        logger.warning("%s: the run is stopped after this step.", signal.Signals(number).name)

    def _restore(self):
        while self._before:
            signal.signal(*self._before.popitem())


class StopOnDivergence(TrainerCallback):
    """Ends a training whose weights have become infinite or no numbers, before they are saved.

    Looked at every 10 steps and before a checkpoint. A loss without a value alone is no reason: with float16 some
    steps overflow, and are left out.

    Raises:
        InputError: from the end of a step or an epoch.
    """

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if not (control.should_save or control.should_training_stop or state.global_step % _STEPS_BETWEEN == 0):
            return
        if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
            raise InputError(
                f"training has diverged: by step {state.global_step} the weights are not finite any more. Lower "
                f"learning_rate ({args.learning_rate:g}) or the weights of the loss, or clip gradients (max_grad_norm "
                f"{args.max_grad_norm:g}). Checkpoints in {args.output_dir} are from before."
            )

    on_epoch_end = on_step_end
