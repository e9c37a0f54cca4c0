"""Checks of `TrainingArguments`: values that it accepts, but that make `Trainer` fail or behave unexpectedly."""

import inspect
import logging
import math
from collections.abc import Sequence

import torch
from accelerate.utils import DynamoBackend
from torch.utils.checkpoint import checkpoint
from transformers import TrainingArguments, get_scheduler
from transformers.debug_utils import DebugOption
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.utils import is_liger_kernel_available

from ckd_trainer.metrics.names import less_is_better, without_subnetwork
from ckd_trainer.trainer import DistillationTrainer
from ckd_trainer.utils.errors import InputError

logger = logging.getLogger(__name__)

SCHEDULES_BY_METRIC = ("reduce_lr_on_plateau", "greedy")  # learning rate schedules that read validation scores
_UNLISTED_TRACKERS = ("azure_ml", "flyte")  # transformers does not list these even if they are installed
_COUNTS = (
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "eval_accumulation_steps",
)
_NOT_NEGATIVE = (
    "seed",
    "data_seed",
    "learning_rate",
    "warmup_steps",
    "weight_decay",
    "num_train_epochs",
    "max_grad_norm",
    "eval_delay",
    "dataloader_num_workers",
    "neftune_noise_alpha",
)
# Errors of optimizers and schedules about their options and about missing packages.
_OF_OPTIMIZERS = (ValueError, TypeError, ImportError, NotImplementedError)
# Refused options, with the reason.
_REFUSED = {
    "batch_eval_metrics": "scores are computed on whole sets, not on batches: leave it out. eval_accumulation_steps "
    "moves predictions off the device during evaluation",
    "auto_find_batch_size": "if memory runs out, it would train with smaller batches than the recipe says: set a "
    "smaller per_device_train_batch_size and a larger gradient_accumulation_steps, which train alike",
    "enable_jit_checkpoint": "a run that SIGTERM stops would then count as finished: leave it out. SIGTERM and SIGINT "
    "save a checkpoint without it",
}


def check_options(args: TrainingArguments) -> None:
    """Raises InputError for values that make `Trainer` fail or behave unexpectedly."""
    if not (args.do_train or args.do_eval or args.do_predict):
        raise InputError("there is nothing to do: give --do_train, --do_eval or --do_predict.")
    _check_numbers(args)
    for name, why in _REFUSED.items():
        if getattr(args, name, False):  # the oldest transformers 5 do not have all of them
            raise InputError(f"{name} is set, but {why}.")
    if args.label_names:
        raise InputError(f"label_names is {args.label_names}, but the task knows its labels: leave it out.")
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise InputError("use_liger_kernel is set, but liger-kernel is not installed: install it, or leave it out.")
    if not args.eval_do_concat_batches:
        raise InputError("eval_do_concat_batches is off, but scores are computed on whole sets: leave it out.")
    if args.do_predict and args.prediction_loss_only:
        raise InputError("prediction_loss_only keeps no predictions, but do_predict writes them: leave one out.")
    for name in ("fp16", "bf16"):
        if args.do_train and getattr(args, f"{name}_full_eval"):
            raise InputError(
                f"{name}_full_eval is set, but it would convert the trained weights to {name} for good: set {name}, "
                "which leaves them unchanged."
            )
    if args.debug:
        why = (
            "it fails on the boolean masks of attention. Training stops with an error anyway as soon as a weight is "
            "not finite"
            if DebugOption.UNDERFLOW_OVERFLOW in args.debug
            else "TPUs are not supported"
        )
        raise InputError(f"debug is {', '.join(args.debug)}, but {why}: leave it out.")
    _check_workers(args)
    _check_torch_options(args)
    _check_trackers(args)


def check_steps(args: TrainingArguments, examples: int) -> None:
    """Raises InputError if dataloader_drop_last leaves no step for this many training examples."""
    batch = args.per_device_train_batch_size
    if not args.accelerator_config.split_batches:
        batch *= args.world_size
    if args.dataloader_drop_last and examples < batch:
        raise InputError(
            f"dataloader_drop_last leaves nothing to train on: there are {examples} training examples, but a batch "
            f"takes {batch} (per_device_train_batch_size on each of {args.world_size} processes). Give a smaller "
            "per_device_train_batch_size, or leave dataloader_drop_last out."
        )
    if args.max_steps < 0 and args.num_train_epochs == 0:
        logger.warning("num_train_epochs is 0: the model is saved without training.")


def use_best_metric(args: TrainingArguments, best_metric: str, metrics: Sequence[str]) -> None:
    """Makes the task's own metric pick the best checkpoint, unless the recipe names another.

    `TrainingArguments` sets `loss` if none is named; `eval_loss` requests it explicitly. For a schedule that reads the
    metric, this also sets whether higher is better; the default of `Trainer` is lower.

    Raises:
        InputError: the recipe names a metric that the evaluation does not report.
    """
    if args.metric_for_best_model is None:
        return
    if args.load_best_model_at_end and args.metric_for_best_model == "loss":
        args.metric_for_best_model, args.greater_is_better = best_metric, True
    name = args.metric_for_best_model.removeprefix("eval_")
    if less_is_better(name):
        args.greater_is_better = False  # for TrainingArguments, more of anything but a loss is better
    of_loss = without_subnetwork(name).removeprefix("mean_") == "loss"
    if args.prediction_loss_only and args.eval_strategy != "no" and not of_loss:
        raise InputError(
            f"prediction_loss_only leaves no scores, but metric_for_best_model is {name}: set that to eval_loss, or "
            "leave prediction_loss_only out."
        )
    if args.lr_scheduler_type in SCHEDULES_BY_METRIC:
        mode = {"mode": "max" if args.greater_is_better else "min"}
        args.lr_scheduler_kwargs = mode | (args.lr_scheduler_kwargs or {})
    known = dict.fromkeys((*metrics, "loss"))
    if name not in known:
        raise InputError(
            f"metric_for_best_model is {args.metric_for_best_model}, but the evaluation reports {', '.join(known)}: "
            f"give {'one of these' if metrics else 'eval_loss'}."
        )


def use_early_stopping(args: TrainingArguments, patience: int | None) -> None:
    """Makes a resumed run continue to count evaluations without a better score, if training is to stop after some.

    Raises:
        InputError: the run would not return to the best checkpoint.
    """
    if patience is None:
        return
    if not args.load_best_model_at_end:
        raise InputError(
            "early_stopping_patience is set, but load_best_model_at_end is not: the run could not return to the best "
            "checkpoint. Set load_best_model_at_end, and eval_strategy and save_strategy to the same value."
        )
    args.restore_callback_states_from_checkpoint = True


def check_optimizer(trainer: DistillationTrainer, args: TrainingArguments) -> None:
    """Raises InputError if optimizer or schedule cannot be made: tries it with a single parameter."""
    try:
        optimizer_class, options = trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
        if not {"params", "model", "optimizer_dict"} & options.keys():  # optimizers that need the model itself
            optimizer = optimizer_class([torch.nn.Parameter(torch.zeros(1))], **options)
            schedule = get_scheduler(
                args.lr_scheduler_type,
                optimizer,
                num_warmup_steps=1,
                num_training_steps=2,
                scheduler_specific_kwargs=args.lr_scheduler_kwargs,
            )
            for learning_rate in getattr(schedule, "lr_lambdas", ()):
                learning_rate(1)  # after the warm-up, where most options count
    except (*_OF_OPTIMIZERS, RuntimeError) as error:
        if not isinstance(error, _OF_OPTIMIZERS) and "fused" not in str(error):  # if the device has no such kernel
            raise
        chosen = {
            name: getattr(args, name)
            for name in ("optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs")
        }
        words = ", ".join(f"{name} {value}" for name, value in chosen.items() if value is not None)
        raise InputError(
            f"the optimizer or the learning rate schedule cannot be made ({error}) with {words}, lr_scheduler_type "
            f"{args.lr_scheduler_type.value}: change one of them."
        ) from error


def _check_numbers(args: TrainingArguments) -> None:
    """Raises InputError for a number that is out of the range of its option."""
    for name in _COUNTS:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}: give 1 or more.")
    for name in _NOT_NEGATIVE:
        value = getattr(args, name)
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise InputError(f"{name} is {value}: give a number that is not negative.")
    for name in ("seed", "data_seed"):
        value = getattr(args, name)
        if value is not None and value >= 2**32:
            raise InputError(f"{name} is {value}: give a number below {2**32}, as NumPy's generator requires.")
    if not 0 <= args.label_smoothing_factor < 1:
        raise InputError(f"label_smoothing_factor is {args.label_smoothing_factor}: give a number from 0 to below 1.")
    if args.max_steps != -1 and args.max_steps < 1:
        raise InputError(f"max_steps is {args.max_steps}: give 1 or more, or leave it out to train num_train_epochs.")
    for event in ("logging", "eval", "save"):
        steps = getattr(args, f"{event}_steps")
        if getattr(args, f"{event}_strategy") == "steps" and not (steps > 0 and math.isfinite(steps)):
            raise InputError(f"{event}_steps is {steps}: give a number above 0, or set {event}_strategy to no.")
    if args.save_total_limit is not None and args.save_total_limit < 1:
        raise InputError(
            f"save_total_limit is {args.save_total_limit}: give 1 or more, leave it out to keep all checkpoints, or "
            "set save_strategy to no."
        )


def _check_workers(args: TrainingArguments) -> None:
    """Raises InputError for options of data loader workers that have no effect, are invalid or prevent a resume."""
    if args.dataloader_num_workers == 0:
        # The oldest transformers 5 do not have dataloader_multiprocessing_context.
        for name in ("dataloader_persistent_workers", "dataloader_multiprocessing_context"):
            if getattr(args, name, None):
                raise InputError(f"{name} is set, but dataloader_num_workers is 0: set that to 1 or more.")
    if args.dataloader_persistent_workers and args.do_train:
        raise InputError(
            "dataloader_persistent_workers is set, but epochs then draw other random numbers in a resumed run than in "
            "one that was never interrupted: leave it out. Each epoch then starts its workers again."
        )
    if args.dataloader_prefetch_factor is not None and args.dataloader_prefetch_factor < 1:
        raise InputError(f"dataloader_prefetch_factor is {args.dataloader_prefetch_factor}: give 1 or more.")


def _check_trackers(args: TrainingArguments) -> None:
    """Raises InputError for a tracker that transformers does not know or whose package is not installed."""
    for name in args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(INTEGRATION_TO_CALLBACK)
            raise InputError(f"report_to is {name}, which transformers does not know: give none or some of {known}.")
        if name not in {*get_available_reporting_integrations(), *_UNLISTED_TRACKERS}:
            raise InputError(
                f"report_to is {name}, which is not installed or not set up: do so, or set report_to to none."
            )


def _check_torch_options(args: TrainingArguments) -> None:
    """Raises InputError for values that torch would refuse only once training has begun."""
    known = inspect.signature(checkpoint).parameters.keys() - {"function", "args", "kwargs"}
    for name in args.gradient_checkpointing_kwargs or {}:  # called activation_checkpointing_kwargs in newer versions
        if name not in known:
            raise InputError(
                f"gradient_checkpointing_kwargs names {name}, which torch.utils.checkpoint does not take: it takes "
                f"{', '.join(sorted(known))}."
            )
    backends = [backend.lower() for backend in DynamoBackend.list()]
    if args.torch_compile_backend and args.torch_compile_backend.lower() not in backends:
        raise InputError(f"torch_compile_backend is {args.torch_compile_backend}: give one of {', '.join(backends)}.")
    if args.torch_compile_mode:
        try:
            torch.compile(torch.nn.Identity(), mode=args.torch_compile_mode)  # compiles nothing until it is called
        except RuntimeError as error:
            if "mode" not in str(error):  # "Unrecognized mode=..., should be one of: ..."
                raise
            raise InputError(f"torch_compile_mode is {args.torch_compile_mode}: {error}.") from None
